"""ClusterIPs for pods without a sidecar: one nftables table, replaced whole at each change.

A connection from a pod to a virtual address is sent to one of the ready endpoints at random;
without any it is refused. A pod that reaches itself through a Service needs its source rewritten,
or the answer would not come back the way it went.
"""

from collections.abc import Iterable

from meltemi.local.node.network import Subnet
from meltemi.local.node.services import Port, Virtual


def ruleset(services: Iterable[Virtual], subnet: Subnet) -> str:
    """The nft script that makes exactly these services reachable from the pods' bridge."""
    table = f"ip {subnet.bridge}"
    entries: list[str] = []
    chains: list[str] = []
    refused: list[str] = []
    loops: set[str] = set()
    for service in services:
        if service.is_headless or service.external_name:
            continue
        for port in service.ports:
            protocol = port.protocol.lower()
            if protocol not in ("tcp", "udp"):
                continue
            place = f"{service.cluster_ip} . {protocol} . {port.port}"
            targets = _targets(service, port)
            if not targets:
                refused.append(place)
                continue
            chain = f"svc{len(chains)}"
            chains.append(_chain(chain, protocol, targets))
            entries.append(f"{place} : goto {chain}")
            loops.update(f"{ip} . {ip}" for ip, _ in targets)
    key = "ip daddr . meta l4proto . th dport"
    lines = [f"add table {table}", f"delete table {table}", f"table {table} {{"]
    lines += chains
    lines.append("  chain prerouting {")
    lines.append("    type nat hook prerouting priority dstnat; policy accept;")
    if entries:
        lines.append(f'    iifname "{subnet.bridge}" {key} vmap {{ {", ".join(entries)} }}')
    lines.append("  }")
    lines.append("  chain postrouting {")
    lines.append("    type nat hook postrouting priority srcnat; policy accept;")
    if loops:
        pairs = ", ".join(sorted(loops))
        lines.append(f"    ip saddr . ip daddr {{ {pairs} }} masquerade")
    lines.append(f'    ip saddr {subnet.pods} oifname != "{subnet.bridge}" masquerade')
    lines.append("  }")
    lines.append("  chain forward {")
    lines.append("    type filter hook forward priority filter; policy accept;")
    if refused:
        places = ", ".join(refused)
        lines.append(f"    {key} {{ {places} }} reject with icmp type port-unreachable")
    lines.append("  }")
    lines.append("}")
    return "\n".join(lines) + "\n"


def _targets(service: Virtual, port: Port) -> list[tuple[str, int]]:
    found = {(b.ip, b.ports[port.name]) for b in service.ready if port.name in b.ports}
    return sorted(found)


def _chain(name: str, protocol: str, targets: list[tuple[str, int]]) -> str:
    if len(targets) == 1:
        ip, number = targets[0]
        rule = f"meta l4proto {protocol} dnat to {ip}:{number}"
    else:
        pairs = ", ".join(f"{i} : {ip} . {number}" for i, (ip, number) in enumerate(targets))
        rule = f"meta l4proto {protocol} dnat to numgen random mod {len(targets)} map {{ {pairs} }}"
    return f"  chain {name} {{ {rule}; }}"

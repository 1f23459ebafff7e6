"""Virtual addresses without a sidecar: a table of nftables for IPv4, and one for IPv6 where there
is any, replaced whole at each change.

A connection from a pod, or from the machine itself, to a ClusterIP or to the node's address and a
node port is sent to one of the ready endpoints: at random, or always the same one for a client
where the Service asks for affinity. Without any it is refused. A pod that reaches itself through a
Service needs its source rewritten, or the answer would not come back the way it went.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from meltemi.local.node.network import Subnet
from meltemi.local.node.services import Port, Virtual

_SLOTS = 128
"""Into so many parts clients are divided for affinity; an endpoint that comes or goes moves only
its own share of them."""
Target = tuple[str, int]


class _Family(NamedTuple):
    """The words of one family of addresses."""

    ip: str
    icmp: str
    pods: str
    """The range of the pods' addresses."""
    others: tuple[str, ...] = ()
    """Rules about what leaves the machine."""

    @property
    def key(self) -> str:
        return f"{self.ip} daddr . meta l4proto . th dport"

    def holds(self, address: str) -> bool:
        return (":" in address) == (self.ip == "ip6")


class _Entries(msgspec.Struct):
    """What the rules are made of, as it is gathered."""

    jumps: list[str]
    chains: list[str]
    refused: list[str]
    loops: set[str]


def ruleset(services: Iterable[Virtual], subnet: Subnet) -> str:
    """The nft script that makes exactly these services reachable."""
    found = list(services)
    script = _table(_Family("ip", "icmp", str(subnet.pods)), found, subnet)
    if subnet.has_ipv6:
        script += _table(_Family("ip6", "icmpv6", str(subnet.pods6), _IPV6_RULES), found, subnet)
    return script


_IPV6_RULES = ("icmpv6 type nd-redirect drop",)
"""Between pods, too, all goes through the machine: it must not tell them of a shorter way."""


def _table(family: _Family, services: Iterable[Virtual], subnet: Subnet) -> str:
    entries = _Entries([], [], [], set())
    for service in services:
        for port in service.ports:
            found = [p for p in places(service, port, subnet) if family.holds(p[0])]
            if found:
                _add(entries, service, port, found, family)
    table = f"{family.ip} {subnet.bridge}"
    jump = f"{family.key} vmap {{ {', '.join(entries.jumps)} }}" if entries.jumps else ""
    lines = [f"add table {table}", f"delete table {table}", f"table {table} {{", *entries.chains]
    rules = [f'iifname "{subnet.bridge}" {jump}'] if jump else []
    lines += _hook("prerouting", "type nat hook prerouting priority dstnat", rules)
    lines += _hook("output", "type nat hook output priority -100", [jump] if jump else [])
    rules = [f'{family.ip} saddr {family.pods} oifname != "{subnet.bridge}" masquerade']
    if entries.loops:
        pairs = ", ".join(sorted(entries.loops))
        rules.insert(0, f"{family.ip} saddr . {family.ip} daddr {{ {pairs} }} masquerade")
    lines += _hook("postrouting", "type nat hook postrouting priority srcnat", rules)
    rules = []
    if entries.refused:
        keys = ", ".join(entries.refused)
        rules = [f"{family.key} {{ {keys} }} reject with {family.icmp} type port-unreachable"]
    lines += _hook("forward", "type filter hook forward priority filter", rules)
    rules += family.others
    lines += _hook("local", "type filter hook output priority filter", rules)
    lines.append("}")
    return "\n".join(lines) + "\n"


def places(service: Virtual, port: Port, subnet: Subnet) -> Sequence[Target]:
    """Where a Service is reached from pods and from the machine: its addresses, and the node's
    of the same families with its node port."""
    found: list[Target] = []
    for address in service.addresses:
        gateway = subnet.gateway_for(address)
        if gateway:
            found.append((address, port.port))
            if port.node_port:
                found.append((gateway, port.node_port))
    return found


def _hook(name: str, kind: str, rules: Sequence[str]) -> Iterator[str]:
    yield f"  chain {name} {{"
    yield f"    {kind}; policy accept;"
    for rule in rules:
        yield f"    {rule}"
    yield "  }"


def _add(
    entries: _Entries, service: Virtual, port: Port, found: Sequence[Target], family: _Family
) -> None:
    protocol = port.protocol.lower()
    if protocol not in ("tcp", "udp"):
        return
    keys = [f"{ip} . {protocol} . {number}" for ip, number in found]
    targets = service.targets(port, found[0][0])
    if not targets:
        entries.refused += keys
        return
    chain = f"svc{len(entries.chains)}"
    where = _by_client(targets, family) if service.has_affinity else _at_random(targets)
    entries.chains.append(f"  chain {chain} {{ meta l4proto {protocol} dnat to {where}; }}")
    entries.jumps += [f"{key} : goto {chain}" for key in keys]
    entries.loops.update(f"{ip} . {ip}" for ip, _ in targets)


def _at_random(targets: Sequence[Target]) -> str:
    if len(targets) == 1:
        (ip, port), *_ = targets
        return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
    return f"numgen random mod {len(targets)} {_map(dict(enumerate(targets)))}"


def _by_client(targets: Sequence[Target], family: _Family) -> str:
    chosen = {slot: max(targets, key=lambda t: affinity(str(slot), t)) for slot in range(_SLOTS)}
    return f"jhash {family.ip} saddr mod {_SLOTS} {_map(chosen)}"


def affinity(client: str, target: Target) -> bytes:
    """How much a client leans to a target; the highest wins (rendezvous hashing)."""
    return hashlib.blake2b(f"{client} {target}".encode(), digest_size=8).digest()


def _map(chosen: Mapping[int, Target]) -> str:
    pairs = ", ".join(f"{slot} : {ip} . {port}" for slot, (ip, port) in chosen.items())
    return f"map {{ {pairs} }}"

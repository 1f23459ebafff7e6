"""Capture rules: the arguments of istio-init to an nftables script for the pod's network.

Envoy's own traffic is known by its user, or by a mark on its sockets where there is but one user.
Traffic of Envoy to its own pod goes back in through the inbound port, so that a pod which calls
its own Service meets its own policies; an application that calls itself is left alone.
"""

import argparse
import ipaddress
from collections.abc import Sequence
from typing import NoReturn

_TABLE = "inet meltemi"
_INBOUND_SOURCE = "127.0.0.6"
"""Envoy's source address towards the application: never captured."""
_TUNNEL_PORT = 15008


class BadRules(ValueError):
    """An argument cannot be used; the text names it."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadRules(message)


def capture_rules(args: Sequence[str], *, proxy_mark: int | None = None) -> str:
    """An nft script that replaces the rules whole. Raises BadRules."""
    options = _parser().parse_args(list(args))
    if options.mode not in ("REDIRECT", ""):
        raise BadRules(f"mode {options.mode}: only REDIRECT is supported")
    outbound = _outbound(options, proxy_mark)
    inbound = _inbound(options)
    return "\n".join(
        [
            f"add table {_TABLE}",
            f"delete table {_TABLE}",
            f"table {_TABLE} {{",
            "  chain output {",
            "    type nat hook output priority -100; policy accept;",
            *(f"    {rule}" for rule in outbound),
            "  }",
            "  chain prerouting {",
            "    type nat hook prerouting priority -100; policy accept;",
            *(f"    {rule}" for rule in inbound),
            "  }",
            "}",
            "",
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="istio-iptables", add_help=False)
    add = parser.add_argument
    add("-p", "--envoy-port", type=int, default=15001)
    add("-z", "--inbound-capture-port", type=int, default=15006)
    add("-u", "--proxy-uid", default="1337")
    add("-g", "--proxy-gid", default="")
    add("-m", "--istio-inbound-interception-mode", dest="mode", default="REDIRECT")
    add("-i", "--istio-service-cidr", default="*")
    add("-x", "--istio-service-exclude-cidr", default="")
    add("-b", "--istio-inbound-ports", default="*")
    add("-d", "--istio-local-exclude-ports", default="")
    add("-q", "--istio-outbound-ports", default="")
    add("-o", "--istio-local-outbound-ports-exclude", default="")
    add("-k", "--kube-virt-interfaces", default="")
    add("--log_output_level", default="")
    return parser


def _outbound(options: argparse.Namespace, mark: int | None) -> list[str]:
    port, inbound = options.envoy_port, options.inbound_capture_port
    is_proxy, is_other = _proxy_tests(options, mark)
    rules = [
        f"ip saddr {_INBOUND_SOURCE} return",
        f'oifname "lo" ip daddr != 127.0.0.1 {is_proxy} tcp dport != {_TUNNEL_PORT} '
        f"redirect to :{inbound}",
        f'oifname "lo" {is_other} return',
        f"{is_proxy} return",
        "ip daddr 127.0.0.0/8 return",
        "ip6 daddr ::1 return",
    ]
    excluded = _ports(options.istio_local_outbound_ports_exclude, "-o")
    if excluded:
        rules.append(f"tcp dport {{ {excluded} }} return")
    ranges = _ranges(options.istio_service_exclude_cidr, "-x")
    if ranges:
        rules.append(f"ip daddr {{ {ranges} }} return")
    always = _ports(options.istio_outbound_ports, "-q")
    if always:
        rules.append(f"tcp dport {{ {always} }} redirect to :{port}")
    if options.istio_service_cidr.strip() == "*":
        rules.append(f"meta l4proto tcp redirect to :{port}")
    else:
        included = _ranges(options.istio_service_cidr, "-i")
        if included:
            rules.append(f"ip daddr {{ {included} }} meta l4proto tcp redirect to :{port}")
    return rules


def _proxy_tests(options: argparse.Namespace, mark: int | None) -> tuple[str, str]:
    if mark is not None:
        return f"meta mark {mark:#x}", f"meta mark != {mark:#x}"
    uid = options.proxy_uid
    if not uid.isdecimal():
        raise BadRules(f"-u {uid}: expected one user number")
    return f"meta skuid {uid}", f"meta skuid != {uid}"


def _inbound(options: argparse.Namespace) -> list[str]:
    port = options.inbound_capture_port
    rules = [f"tcp dport {_TUNNEL_PORT} return"]
    excluded = _ports(options.istio_local_exclude_ports, "-d")
    wanted = options.istio_inbound_ports.strip()
    if wanted == "*":
        if excluded:
            rules.append(f"tcp dport {{ {excluded} }} return")
        rules.append(f'iifname != "lo" meta l4proto tcp redirect to :{port}')
    else:
        ports = _ports(wanted, "-b")
        if ports:
            rules.append(f'iifname != "lo" tcp dport {{ {ports} }} redirect to :{port}')
    return rules


def _ports(text: str, flag: str) -> str:
    found = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        if not part.isdecimal() or not 0 < int(part) < 65536:
            raise BadRules(f"{flag} {text}: {part!r} is not a port")
        found.append(str(int(part)))
    return ", ".join(dict.fromkeys(found))


def _ranges(text: str, flag: str) -> str:
    found = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        try:
            network = ipaddress.ip_network(part, strict=False)
        except ValueError as error:
            raise BadRules(f"{flag} {text}: {part!r} is not an address range") from error
        if network.version == 4:
            found.append(str(network))
    return ", ".join(dict.fromkeys(found))

"""Capture rules: the arguments of istio-init to an nftables script for the pod's network.

Envoy's own traffic is known by its user and group, or by a mark on its sockets where there is but
one user. Traffic of Envoy to its own pod goes back in through the inbound port, so that a pod
which calls its own Service meets its own policies; an application that calls itself is left
alone. The order of the rules is that of istio-iptables (mesh-semantics 1.17). One table holds for
IPv4 and IPv6, so what Envoy does not listen for is refused and never goes past it.
"""

import argparse
import ipaddress
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn, TypeVar

DNS_PORT = 15053
"""Where the proxy answers questions for names, when they are captured."""
_TABLE = "inet meltemi"
_INBOUND_SOURCES = ("ip saddr 127.0.0.6", "ip6 saddr ::6")
"""Envoy's source addresses towards the application: never captured."""
_NOT_LOOPBACK = ("ip daddr != 127.0.0.1", "ip6 daddr != ::1")
_INTERFACE = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")

T = TypeVar("T")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class BadRules(ValueError):
    """An argument cannot be used; the text names it."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadRules(message)


def capture_rules(args: Sequence[str], *, proxy_mark: int | None = None) -> str:
    """An nft script that replaces the rules whole. Raises BadRules.

    `args`: those of istio-iptables; `proxy_mark`: the mark that tells Envoy's sockets, where its
    user does not.
    """
    options = _parser().parse_args(list(args))
    if options.mode not in ("REDIRECT", ""):
        raise BadRules(f"-m {options.mode}: only REDIRECT is supported")
    return "\n".join(
        [
            f"add table {_TABLE}",
            f"delete table {_TABLE}",
            f"table {_TABLE} {{",
            "  chain output {",
            "    type nat hook output priority -100; policy accept;",
            *(f"    {rule}" for rule in _outbound(options, proxy_mark)),
            "  }",
            "  chain prerouting {",
            "    type nat hook prerouting priority -100; policy accept;",
            *(f"    {rule}" for rule in _inbound(options)),
            "  }",
            "}",
            "",
        ]
    )


def _parser() -> argparse.ArgumentParser:
    """The flags of istio-iptables that mean something here; others are refused by name."""
    parser = _Parser(prog="istio-iptables", add_help=False, allow_abbrev=False)
    add = parser.add_argument
    add("-p", "--envoy-port", type=_port, default=15001)
    add("-z", "--inbound-capture-port", type=_port, default=15006)
    add("-e", "--inbound-tunnel-port", type=_port, default=15008)
    add("-u", "--proxy-uid", type=_user, default=1337)
    add("-g", "--proxy-gid", type=_user)
    add("-m", "--istio-inbound-interception-mode", dest="mode", default="REDIRECT")
    add("-i", "--istio-service-cidr", dest="ranges", type=_all_or(networks), default=None)
    add("-x", "--istio-service-exclude-cidr", dest="not_ranges", type=networks, default=[])
    add("-b", "--istio-inbound-ports", dest="inbound", type=_all_or(ports), default=None)
    add("-d", "--istio-local-exclude-ports", dest="not_inbound", type=ports, default=[])
    add("-q", "--istio-outbound-ports", dest="outbound", type=ports, default=[])
    add("-o", "--istio-local-outbound-ports-exclude", dest="not_outbound", type=ports, default=[])
    add("-k", "--kube-virt-interfaces", dest="virtual", type=interfaces, default=[])
    add("-c", "--istio-exclude-interfaces", dest="not_interfaces", type=interfaces, default=[])
    add("--redirect-dns", dest="names", action="store_true")
    add("--log_output_level", default="")
    return parser


def _outbound(options: argparse.Namespace, mark: int | None) -> Iterator[str]:
    is_proxy, is_other = _proxy_tests(options, mark)
    if options.not_outbound:
        yield f"tcp dport {_set(options.not_outbound)} return"
    if options.not_interfaces:
        yield f"oifname {_set(options.not_interfaces)} return"
    yield from (f"{source} return" for source in _INBOUND_SOURCES)
    for elsewhere, test in itertools.product(_NOT_LOOPBACK, is_proxy):
        yield (
            f'oifname "lo" {elsewhere} {test} tcp dport != {options.inbound_tunnel_port} '
            f"redirect to :{options.inbound_capture_port}"
        )
    yield f'oifname "lo" {is_other} return'
    yield from (f"{test} return" for test in is_proxy)
    if options.names:
        yield f"udp dport 53 redirect to :{DNS_PORT}"
        yield f"tcp dport 53 redirect to :{DNS_PORT}"
    yield "ip daddr 127.0.0.0/8 return"
    yield "ip6 daddr ::1 return"
    yield from _to_envoy(options)


def _to_envoy(options: argparse.Namespace) -> Iterator[str]:
    """What is captured of traffic that leaves an application."""
    redirect = f"redirect to :{options.envoy_port}"
    yield from (f"{test} return" for test in _destinations(options.not_ranges))
    if options.outbound:
        yield f"tcp dport {_set(options.outbound)} {redirect}"
    if options.ranges is None:
        yield f"meta l4proto tcp {redirect}"
    else:
        included = _destinations(options.ranges)
        yield from (f"{test} meta l4proto tcp {redirect}" for test in included)


def _proxy_tests(options: argparse.Namespace, mark: int | None) -> tuple[Sequence[str], str]:
    """What is true of Envoy's sockets, each for itself enough, and what is true of all others."""
    if mark is not None:
        return (f"meta mark {mark:#x}",), f"meta mark != {mark:#x}"
    uid = options.proxy_uid
    gid = uid if options.proxy_gid is None else options.proxy_gid
    others = f"meta skuid != {uid} meta skgid != {gid}"
    return (f"meta skuid {uid}", f"meta skgid {gid}"), others


def _inbound(options: argparse.Namespace) -> Iterator[str]:
    if options.virtual:
        # A virtual machine's traffic comes in by its interface, and is traffic that leaves.
        of_machine = f"iifname {_set(options.virtual)}"
        yield from (f"{of_machine} {rule}" for rule in _to_envoy(options))
        yield f"{of_machine} return"
    if options.not_interfaces:
        yield f"iifname {_set(options.not_interfaces)} return"
    yield f"tcp dport {options.inbound_tunnel_port} return"
    redirect = f"redirect to :{options.inbound_capture_port}"
    if options.inbound is None:
        if options.not_inbound:
            yield f"tcp dport {_set(options.not_inbound)} return"
        yield f'iifname != "lo" meta l4proto tcp {redirect}'
        return
    if options.inbound:
        yield f'iifname != "lo" tcp dport {_set(options.inbound)} {redirect}'


def _destinations(ranges: Sequence[Network]) -> Sequence[str]:
    """A test for each family that has ranges."""
    families = (("ip", 4), ("ip6", 6))
    by_family = [(name, [r for r in ranges if r.version == v]) for name, v in families]
    return [f"{name} daddr {_set(found)}" for name, found in by_family if found]


def _set(items: Sequence[object]) -> str:
    return f"{{ {', '.join(map(str, items))} }}"


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def _user(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not one user's or group's number")
    return int(text)


def ports(text: str) -> list[int]:
    """Numbers with commas between them. Raises argparse.ArgumentTypeError, as all below do."""
    return list(dict.fromkeys(_port(part) for part in _parts(text)))


def networks(text: str) -> list[Network]:
    """Address ranges with commas between them, without overlaps, which nftables refuses."""
    found: list[Network] = []
    for part in _parts(text):
        try:
            found.append(ipaddress.ip_network(part, strict=False))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{part!r} is not an address range") from error
    four = [n for n in found if isinstance(n, ipaddress.IPv4Network)]
    six = [n for n in found if isinstance(n, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]


def interfaces(text: str) -> list[str]:
    """Names of interfaces, in the quotes that nftables wants."""
    found = []
    for part in _parts(text):
        if not _INTERFACE.fullmatch(part):
            raise argparse.ArgumentTypeError(f"{part!r} is not the name of an interface")
        found.append(f'"{part}"')
    return list(dict.fromkeys(found))


def _all_or(read: Callable[[str], list[T]]) -> Callable[[str], list[T] | None]:
    """`*` is all, and read as None."""
    return lambda text: None if text.strip() == "*" else read(text)


def _parts(text: str) -> Iterator[str]:
    return filter(None, (part.strip() for part in text.split(",")))

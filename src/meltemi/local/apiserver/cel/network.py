"""Addresses and blocks of addresses in CEL: an address is its canonical text, a block a map.

https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-ip-address-library
"""

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any

Json = dict[str, Any]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def _address(text: str) -> Address:
    """As Kubernetes has it: no zone, no IPv4 in an IPv6 address. Raises ValueError."""
    found = ipaddress.ip_address(text)
    if "%" in text or (found.version == 6 and found.ipv4_mapped is not None):
        raise ValueError(f"{text!r}: neither zones nor IPv4-mapped addresses are allowed")
    return found


def _block(text: str) -> Interface:
    address, slash, length = text.partition("/")
    if not slash or not length.isdecimal():
        raise ValueError(f"{text!r} is not a CIDR")
    return ipaddress.ip_interface(f"{_address(address)}/{length}")


def _holds(check: Callable[[str], Any]) -> Callable[[str], bool]:
    def is_valid(text: str) -> bool:
        try:
            check(text)
        except ValueError:
            return False
        return True

    return is_valid


def _ip(value: Any) -> str:
    """`ip(text)`, and `ip()` of a block."""
    return str(_of(value).ip if isinstance(value, dict) else _address(value))


def _cidr(text: str) -> Json:
    return {"$cidr": str(_block(text))}


def _of(block: Json) -> Interface:
    return ipaddress.ip_interface(block["$cidr"])


def _contains_ip(block: Json, address: str) -> bool:
    return _address(address) in _of(block).network


def _contains_cidr(block: Json, other: Any) -> bool:
    inner, outer = _of(other if isinstance(other, dict) else _cidr(other)), _of(block)
    return (
        inner.version == outer.version
        and inner.network.prefixlen >= outer.network.prefixlen
        and inner.ip in outer.network
    )


def _masked(block: Json) -> Json:
    return {"$cidr": str(_of(block).network)}


def _is_global(address: str) -> bool:
    found = _address(address)
    return not (
        found.is_unspecified
        or found.is_loopback
        or found.is_link_local
        or found.is_multicast
        or found == ipaddress.ip_address("255.255.255.255")
    )


def _is_link_local_multicast(address: str) -> bool:
    found = _address(address)
    local = "224.0.0.0/24" if found.version == 4 else "ff02::/16"
    return found in ipaddress.ip_network(local)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "ip": _ip,
    "isIP": _holds(_address),
    "isCanonical": lambda _space, text: str(_address(text)) == text,
    "family": lambda address: _address(address).version,
    "isUnspecified": lambda address: _address(address).is_unspecified,
    "isLoopback": lambda address: _address(address).is_loopback,
    "isLinkLocalMulticast": _is_link_local_multicast,
    "isLinkLocalUnicast": lambda address: _address(address).is_link_local,
    "isGlobalUnicast": _is_global,
    "cidr": _cidr,
    "isCIDR": _holds(_block),
    "containsIP": _contains_ip,
    "containsCIDR": _contains_cidr,
    "prefixLength": lambda block: _of(block).network.prefixlen,
    "masked": _masked,
}

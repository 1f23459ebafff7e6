"""Network namespaces, links, addresses and routes, by netlink: a pod costs no process of `ip`.

linux/rtnetlink.h, linux/if_link.h
"""

import ipaddress
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from meltemi.local.node import syscalls
from meltemi.local.node.netlink import (
    CREATE,
    EXCLUSIVE,
    ROUTE,
    ask,
    attribute,
    nested,
    number,
    opened,
    text,
)

T = TypeVar("T")

_NEW_LINK, _SET_LINK, _NEW_ADDRESS, _NEW_ROUTE = 16, 19, 20, 24
_UP = 1
_NAME, _MASTER, _PROTOCOL_INFO, _LINK_INFO, _NAMESPACE = 3, 10, 12, 18, 28
_KIND, _DATA, _PEER = 1, 2, 1
_HAIRPIN = 4
_LOCAL, _ADDRESS = 2, 1
_NOT_ASKED_FOR = 0x02
"""Of an IPv6 address: nobody else can have it."""
_DESTINATION, _OUT, _GATEWAY = 1, 4, 5
_MAIN, _BOOT, _UNIVERSE, _ON_LINK, _UNICAST = 254, 3, 0, 253, 1
_BRIDGE = 7
"""The address family of questions about ports of a bridge."""
_LOOPBACK = 1


def inside(path: str, make: Callable[[], T]) -> T:
    """Call something in another namespace; only this thread visits it, and returns."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.enter_path(path, syscalls.CLONE_NEWNET)
        try:
            return make()
        finally:
            syscalls.setns(here, syscalls.CLONE_NEWNET)
    finally:
        os.close(here)


def make_namespace(path: Path) -> None:
    """Make one that a file keeps, as `ip netns add` does. Raises OSError."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        path.touch(mode=0o444, exist_ok=False)
        syscalls.unshare(syscalls.CLONE_NEWNET)
        try:
            syscalls.bind("/proc/thread-self/ns/net", str(path))
        finally:
            syscalls.setns(here, syscalls.CLONE_NEWNET)
    finally:
        os.close(here)


def remove_namespace(path: Path) -> None:
    """Let one go; it ends with the last process in it. Raises OSError."""
    syscalls.unmount(str(path))
    path.unlink()


def join(path: str, name: str, bridge: str) -> None:
    """Lead a cable from a bridge, there called `name`, to eth0 of a namespace (see `furnish`).

    A frame may leave by the port that it came from: a pod that reaches itself through a Service is
    sent back. Raises OSError.
    """
    master = socket.if_nametoindex(bridge)
    far = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # The kernel takes neither end up before it knows the other.
        peer = _link() + text(_NAME, "eth0") + number(_NAMESPACE, far)
        info = text(_KIND, "veth") + nested(_DATA, nested(_PEER, peer))
        body = _link() + text(_NAME, name) + number(_MASTER, master) + nested(_LINK_INFO, info)
        with opened(ROUTE) as sock:
            ask(sock, _NEW_LINK, body, CREATE | EXCLUSIVE)
            index = socket.if_nametoindex(name)
            hairpin = nested(_PROTOCOL_INFO, attribute(_HAIRPIN, b"\1"))
            ask(sock, _SET_LINK, _link(index, family=_BRIDGE) + hairpin)
            ask(sock, _NEW_LINK, _link(index, flags=_UP))
    finally:
        os.close(far)


def furnish(pairs: list[tuple[str, str]]) -> None:
    """Loopback, addresses and the way out, in this thread's namespace. Raises OSError.

    `pairs`: of each address of eth0 and the gateway of its family.
    """
    eth0 = socket.if_nametoindex("eth0")
    with opened(ROUTE) as sock:
        for index in (_LOOPBACK, eth0):
            ask(sock, _NEW_LINK, _link(index, flags=_UP))
        for address, gateway in pairs:
            ask(sock, _NEW_ADDRESS, _address(address, eth0), CREATE | EXCLUSIVE)
            ask(sock, _NEW_ROUTE, _route(gateway, eth0), CREATE | EXCLUSIVE)
            ask(sock, _NEW_ROUTE, _default(gateway, eth0), CREATE | EXCLUSIVE)


def add_to_loopback(address: str) -> None:
    """Raises OSError."""
    with opened(ROUTE) as sock:
        ask(sock, _NEW_ADDRESS, _address(address, _LOOPBACK), CREATE | EXCLUSIVE)


def _link(index: int = 0, *, family: int = socket.AF_UNSPEC, flags: int = 0) -> bytes:
    """A link, with flags to set."""
    return struct.pack("=BxHiII", family, 0, index, flags, flags)


def _address(text_: str, index: int) -> bytes:
    ip = ipaddress.ip_address(text_)
    family = _family(ip)
    flags = _NOT_ASKED_FOR if ip.version == 6 else 0
    head = struct.pack("=BBBBI", family, ip.max_prefixlen, flags, _UNIVERSE, index)
    return head + attribute(_LOCAL, ip.packed) + attribute(_ADDRESS, ip.packed)


def _route(target: str, index: int) -> bytes:
    """To one address, which is on the link."""
    ip = ipaddress.ip_address(target)
    head = _route_head(_family(ip), ip.max_prefixlen, _ON_LINK if ip.version == 4 else _UNIVERSE)
    return head + attribute(_DESTINATION, ip.packed) + number(_OUT, index)


def _default(gateway: str, index: int) -> bytes:
    ip = ipaddress.ip_address(gateway)
    head = _route_head(_family(ip), 0, _UNIVERSE)
    return head + attribute(_GATEWAY, ip.packed) + number(_OUT, index)


def _route_head(family: int, length: int, scope: int) -> bytes:
    return struct.pack("=BBBBBBBBI", family, length, 0, 0, _MAIN, _BOOT, scope, _UNICAST, 0)


def _family(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    return int(socket.AF_INET if ip.version == 4 else socket.AF_INET6)

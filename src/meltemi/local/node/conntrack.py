"""What the kernel remembers of datagrams: a sender keeps the way that its first one took.

Rules decide only about what is new. A sender that goes on talking to a Service would reach the
endpoint it was once sent to, long after that has ended, or nothing at all when it came too early.
So the kernel is told to forget such ways (netlink, as `conntrack -D` does it).
https://docs.kernel.org/networking/nf_conntrack-sysctl.html, linux/netfilter/nfnetlink_conntrack.h
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import struct
from collections.abc import Iterable, Mapping

import msgspec

from meltemi.local.node.errors import NetworkFailed
from meltemi.local.node.netlink import DUMP, NETFILTER, ask, attributes, nested, opened
from meltemi.local.node.network import Subnet
from meltemi.local.node.services import Virtual
from meltemi.local.node.vips import Target, places

log = logging.getLogger(__name__)

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
"""Messages of the subsystem of connections."""
_TUPLE_ORIG, _TUPLE_REPLY = 1, 2
_IP, _PROTO = 1, 2
_SOURCES, _DESTINATIONS = (1, 3), (2, 4)
"""Attributes of an address, of version 4 and of version 6."""
_PROTO_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3

Places = Mapping[Target, frozenset[Target]]
"""(address, port) where a Service takes datagrams, to the endpoints they may go to."""


class Flow(msgspec.Struct, frozen=True):
    """A way that the kernel remembers."""

    family: int
    wanted: Target
    """Where its sender sends."""
    reached: Target
    """Who answers; the same where nothing was translated."""
    key: bytes
    """The kernel's own words for it."""


def datagram_places(services: Iterable[Virtual], subnet: Subnet) -> Places:
    return {
        place: frozenset(service.targets(port, place[0]))
        for service in services
        for port in service.ports
        if port.protocol == "UDP"
        for place in places(service, port, subnet)
    }


def leads_elsewhere(flow: Flow, known: Places) -> bool:
    """Whether it goes to a Service, but to none of its endpoints."""
    targets = known.get(flow.wanted)
    return targets is not None and flow.reached not in targets


class Datagrams:
    """Makes the kernel forget what no longer holds."""

    def __init__(self, subnet: Subnet) -> None:
        self._subnet = subnet
        self._known: Places = {}

    async def follow(self, services: Iterable[Virtual]) -> None:
        """The rules are as these services are now."""
        known = datagram_places(services, self._subnet)
        before, self._known = self._known, known
        if any(before.get(place, targets) - targets or place not in before
               for place, targets in known.items()):  # fmt: skip
            try:
                await asyncio.to_thread(forget, known)
            except NetworkFailed as error:
                log.warning("%s; senders go on as before for up to two minutes", error)


def forget(known: Places) -> int:
    """Delete the ways that lead elsewhere; how many there were. Raises NetworkFailed."""
    try:
        with opened(NETFILTER) as sock:
            bodies = ask(sock, _GET, _head(socket.AF_UNSPEC), DUMP)
            flows = [flow for body in bodies if (flow := flow_of(body)) is not None]
            found = [flow for flow in flows if leads_elsewhere(flow, known)]
            for flow in found:
                # One may have ended by itself meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    ask(sock, _DELETE, _head(flow.family) + nested(_TUPLE_ORIG, flow.key))
    except OSError as error:
        raise NetworkFailed(f"connections of datagrams: {error.strerror or error}") from error
    return len(found)


def _head(family: int) -> bytes:
    return struct.pack("=BBH", family, 0, 0)


def flow_of(body: bytes) -> Flow | None:
    """What a message of the kernel says of a way of datagrams; None for anything else."""
    parts = attributes(body[4:])
    try:
        original = parts[_TUPLE_ORIG]
        reply = parts[_TUPLE_REPLY]
        protocol = attributes(attributes(original)[_PROTO])
        if protocol[_PROTO_NUMBER][0] != socket.IPPROTO_UDP:
            return None
        wanted = _end(original, _DESTINATIONS, _DESTINATION_PORT)
        return Flow(body[0], wanted, _end(reply, _SOURCES, _SOURCE_PORT), original)
    except KeyError:
        return None


def _end(tuple_: bytes, addresses: tuple[int, int], port: int) -> Target:
    parts = attributes(tuple_)
    ip, protocol = attributes(parts[_IP]), attributes(parts[_PROTO])
    raw = next(ip[name] for name in addresses if name in ip)
    return str(ipaddress.ip_address(raw)), int.from_bytes(protocol[port], "big")

"""Netlink: what `ip` and `conntrack` ask the kernel, without a process for each question.

https://docs.kernel.org/userspace-api/netlink/intro.html
"""

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

ROUTE, NETFILTER = 0, 12
"""Families of questions."""
CREATE, EXCLUSIVE = 0x400, 0x200
DUMP = 0x300
"""Ask for everything there is."""
_REQUEST, _ACK = 0x1, 0x4
_ERROR, _DONE = 2, 3
_NESTED = 0x8000
_KIND = 0x3FFF
"""The bits of an attribute's kind that are not flags."""
_LARGEST = 1 << 17
_PATIENCE = 5.0


@contextmanager
def opened(family: int) -> Iterator[socket.socket]:
    """A socket in the network of this thread. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family) as sock:
        sock.settimeout(_PATIENCE)
        sock.bind((0, 0))
        yield sock


def ask(sock: socket.socket, kind: int, body: bytes, flags: int = 0) -> list[bytes]:
    """What the kernel answers, but for its word that all is well. Raises OSError."""
    flags |= _REQUEST if flags & DUMP == DUMP else _REQUEST | _ACK
    sock.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body)
    found: list[bytes] = []
    while True:
        for answer, data in _messages(sock.recv(_LARGEST)):
            if answer == _DONE:
                return found
            if answer == _ERROR:
                code = -struct.unpack_from("=i", data)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                return found
            found.append(data)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, place)
        yield kind, data[place + 16 : place + length]
        place += max((length + 3) & ~3, 16)


def attribute(kind: int, body: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(body), kind) + body + b"\0" * (-len(body) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | _NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def attributes(data: bytes) -> Mapping[int, bytes]:
    """By kind."""
    found: dict[int, bytes] = {}
    place = 0
    while place + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, place)
        found[kind & _KIND] = data[place + 4 : place + length]
        place += max((length + 3) & ~3, 4)
    return found

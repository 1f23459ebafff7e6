"""What a sealed resource needs to be there first, read from its bytes.

Routes and listeners name clusters; a cluster waits for its endpoints. Reading the wire form keeps
this true for resources that users have patched, and asks nothing of the compiler.
"""

import re
from collections.abc import Iterator

_OURS = re.compile(rb"(?:out|in)bound\|")
_EDS = 3
_TYPE, _EDS_CONFIG, _SERVICE_NAME = 2, 3, 2


def clusters_named(body: bytes) -> frozenset[str]:
    """The mesh's own clusters (`outbound|80|v1|host`, `inbound|80||`) that appear in a message.

    A string field is preceded by its length, which tells where the name ends.
    """
    found: set[bytes] = set()
    for mark in _OURS.finditer(body):
        start = mark.start()
        # The varint before it has two bytes at most; before that stands a tag, whose last byte has
        # no high bit.
        length = body[start - 1] if start else 0
        if start > 1 and body[start - 2] & 0x80:
            length = (body[start - 2] & 0x7F) + length * 128
        text = body[start : start + length]
        if text.count(b"|") == 3 and len(text) == length:
            found.add(text)
    return frozenset(text.decode(errors="replace") for text in found)


def assignment_of(name: str, cluster: bytes) -> str:
    """The endpoint assignment a cluster waits for; empty for one that finds its own endpoints."""
    kind, source = 0, b""
    for number, value in fields(cluster):
        if number == _TYPE and isinstance(value, int):
            kind = value
        elif number == _EDS_CONFIG and isinstance(value, bytes):
            source = value
    if kind != _EDS:
        return ""
    for number, value in fields(source):
        if number == _SERVICE_NAME and isinstance(value, bytes) and value:
            return value.decode()
    return name


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message, one level deep, in the order they are written."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, form = tag >> 3, tag & 7
        if form == 0:
            value, at = _varint(message, at)
            yield number, value
        elif form == 2:
            length, at = _varint(message, at)
            yield number, message[at : at + length]
            at += length
        elif form in (1, 5):
            width = 8 if form == 1 else 4
            yield number, message[at : at + width]
            at += width
        else:
            raise ValueError(f"wire type {form} is not in use")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7

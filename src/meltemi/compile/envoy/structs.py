"""google.protobuf.Struct, written directly: the metrics of one listener have hundreds of labels,
and a message for each of them takes ten times as long."""

import struct
from collections.abc import Iterable, Mapping
from typing import Any

from meltemi.protos.wire import field


class Written(bytes):
    """A value that is written already, because it stands in several places."""


def struct_bytes(data: Mapping[str, Any]) -> bytes:
    """The deterministic bytes of a Struct from plain data: strings, numbers, lists and dicts."""
    return b"".join(
        field(1, field(1, key.encode()) + field(2, _value(data[key]))) for key in sorted(data)
    )


def element(value: Any) -> bytes:
    """One value of a list, to be `joined`."""
    return field(1, _value(value))


def joined(elements: Iterable[bytes]) -> Written:
    """A list of elements."""
    return Written(field(6, b"".join(elements)))


def _value(value: Any) -> bytes:
    match value:
        case Written():
            return value
        case str():
            return field(3, value.encode())
        case bool():
            return b"\x20\x01" if value else b"\x20\x00"
        case int() | float():
            return b"\x11" + struct.pack("<d", value)
        case list() | tuple():
            return joined(map(element, value))
        case Mapping():
            return field(5, struct_bytes(value))
        case _:
            raise TypeError(f"{value!r} has no place in a Struct")

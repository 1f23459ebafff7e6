"""Bodies in Kubernetes' protobuf form, which kubectl sends for its typed commands.

The envelope is `k8s\\0` and a runtime.Unknown; field numbers come from the tables of `schema`.
"""

import base64
import datetime
import struct
from collections.abc import Iterator
from typing import Any

import orjson

from meltemi.local.apiserver.errors import StatusError, bad_request
from meltemi.local.apiserver.schema.node import Node
from meltemi.local.apiserver.schema.tables import kind_node, types

Json = dict[str, Any]
_DEPTH = 64


def decode(body: bytes) -> Json:
    """The object in a protobuf body; a kind that is not known is refused by name."""
    if body[:4] != b"k8s\0":
        raise bad_request("the body is not in Kubernetes' protobuf form")
    try:
        outer = dict(_fields(body[4:]))
        named = dict(_fields(_octets(outer[1])))
        api_version, kind = _text(named.get(1, b"")), _text(named.get(2, b""))
        data = _object(_node(api_version, kind), _octets(outer.get(2, b"")), 0)
    except (LookupError, ValueError, OverflowError, struct.error) as error:
        raise bad_request(f"the protobuf body cannot be decoded: {error}") from error
    return {**data, "apiVersion": api_version, "kind": kind}


def _node(api_version: str, kind: str) -> Node:
    group, _, version = api_version.rpartition("/")
    if kind == "DeleteOptions":
        return types("meta")["DeleteOptions"]
    if all(part.isidentifier() for part in group.replace("-", "_").split(".") if part):
        found = kind_node(group, version, kind)
        if found is not None:
            return found
    raise StatusError(
        415, "UnsupportedMediaType", f"{api_version} {kind} is not known in protobuf; send JSON"
    )


def _octets(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes belong")
    return value


def _text(value: int | bytes) -> str:
    return _octets(value).decode()


def _fields(body: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(body):
        tag, position = _varint(body, position)
        wire = tag & 7
        if wire == 0:
            value, position = _varint(body, position)
            yield tag >> 3, value
            continue
        if wire == 2:
            length, position = _varint(body, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if position + length > len(body):
            raise ValueError("it is cut short")
        yield tag >> 3, body[position : position + length]
        position += length


def _varint(body: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _object(node: Node, body: bytes, depth: int) -> Json:
    if depth > _DEPTH:
        raise ValueError("it is nested too deeply")
    data: Json = {}
    for number, value in _fields(body):
        name = node.numbers.get(number)
        if name is None:
            continue
        part = node.parts.get(name)
        if part is not None:
            data |= _object(part, _octets(value), depth + 1)
            continue
        field = node.fields[name]
        if field.word == "list":
            assert field.item is not None
            data.setdefault(name, []).append(_value(field.item, value, depth))
        elif field.word == "map":
            assert field.item is not None
            pair = dict(_fields(_octets(value)))
            inner = pair.get(2, _zero(field.item))
            data.setdefault(name, {})[_text(pair.get(1, b""))] = _value(field.item, inner, depth)
        else:
            found = _value(field, value, depth)
            is_unset = found in ("", 0) and not field.is_required and not field.keeps_zero
            if found is not None and not is_unset:
                data[name] = found
    return data


def _zero(node: Node) -> int | bytes:
    return 0 if node.word in ("int", "bool") else b""


def _value(node: Node, value: int | bytes, depth: int) -> Any:
    match node.word:
        case "object":
            return _object(node, _octets(value), depth + 1)
        case "string":
            return _text(value)
        case "int" | "bool":
            if not isinstance(value, int):
                raise ValueError("bytes where a number belongs")
            if node.word == "bool":
                return bool(value)
            value &= (1 << 64) - 1
            return value - (1 << 64) if value >> 63 else value
        case "bytes":
            return base64.b64encode(_octets(value)).decode()
        case "number":
            return struct.unpack("<d", _octets(value))[0]
        case "list":
            assert node.item is not None
            inner = node.item
            return [_value(inner, v, depth + 1) for n, v in _fields(_octets(value)) if n == 1]
    return _special(node, _octets(value))


def _special(node: Node, body: bytes) -> Any:
    """Types that are messages on the wire and scalars in JSON."""
    parts = dict(_fields(body))
    match node.word:
        case "quantity":
            return _text(parts.get(1, b"")) or None
        case "intorstring":
            if parts.get(1):
                return _text(parts.get(3, b""))
            return _value(Node(word="int"), parts.get(2, 0), 0)
        case "time" | "microtime":
            return _time(parts, micro=node.word == "microtime")
    raw = _octets(parts.get(1, b""))
    return orjson.loads(raw) if raw else None


def _time(parts: dict[int, int | bytes], *, micro: bool) -> str | None:
    seconds, nanos = parts.get(1), parts.get(2, 0)
    if not isinstance(seconds, int) or not isinstance(nanos, int) or seconds >> 40:
        return None
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    if micro:
        return f"{when:%Y-%m-%dT%H:%M:%S}.{nanos // 1000:06d}Z"
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"

"""What a request is about: its path, query and body, read once."""

import json
from typing import Any
from urllib.parse import unquote

import msgspec
import orjson
import yaml

from meltemi.api.kinds import Kind
from meltemi.local.apiserver.errors import StatusError, bad_request
from meltemi.local.apiserver.protobuf import decode
from meltemi.local.apiserver.registry import Registry

Json = dict[str, Any]
LARGEST = 3 << 20
"""Bytes of a body; more is refused before it is parsed."""
_PROTOBUF = "application/vnd.kubernetes.protobuf"
_OWN_BELOW = ("status", "finalize")


class Target(msgspec.Struct, frozen=True):
    """What a path under /api or /apis names."""

    kind: Kind
    version: str
    namespace: str
    name: str
    subresource: str


class Place(msgspec.Struct, frozen=True):
    """A path under /api or /apis in its parts, whether or not anything is served there."""

    group: str
    version: str
    namespace: str
    plural: str
    name: str
    subresource: str


def place(path: str) -> Place | None:
    """Parse `/api/v1/namespaces/x/pods/y/log` and its like; None for other paths."""
    parts = [unquote(p) for p in path.strip("/").split("/")]
    if parts[0] == "api" and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    if rest[0] == "watch":
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and not _is_own(rest):
        namespace, rest = rest[1], rest[2:]
    name = rest[1] if len(rest) > 1 else ""
    return Place(group, version, namespace, rest[0], name, "/".join(rest[2:]))


def _is_own(rest: list[str]) -> bool:
    """Whether `namespaces/x/status` is meant, not a collection in a namespace."""
    return len(rest) == 3 and rest[2] in _OWN_BELOW


def target(registry: Registry, found: Place) -> Target | None:
    """The kind at a place; None when nothing is served there."""
    kind = registry.at(found.group, found.version, found.plural)
    if kind is None or (found.namespace and not kind.namespaced):
        return None
    if found.name and kind.namespaced and not found.namespace:
        return None
    return Target(kind, found.version, found.namespace, found.name, found.subresource)


def parse_body(body: bytes, content_type: str) -> Any:
    """JSON, YAML or protobuf."""
    media = content_type.partition(";")[0].strip().lower()
    if not body:
        return {}
    if media == _PROTOBUF or body[:4] == b"k8s\0":
        return decode(body)
    if "cbor" in media:
        raise StatusError(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: "
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )
    try:
        if "yaml" in media:
            return _plain(yaml.load(body, yaml.CSafeLoader))
        return orjson.loads(body)
    except (orjson.JSONDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise bad_request(f"the body cannot be parsed: {error}") from error


def _plain(value: Any, depth: int = 0) -> Any:
    """YAML as JSON has it: keys are strings, dates are text. Raises ValueError."""
    if depth > 100:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        return {_key(k): _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v, depth + 1) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _key(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def repeated_fields(body: bytes, content_type: str) -> tuple[str, ...]:
    """Fields that a JSON body has twice, by their path."""
    if "json" not in content_type or body.count(b'"') < 4:
        return ()
    found: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> Json:
        data: Json = {}
        for name, value in items:
            if name in data:
                twice.append((id(data), name))
            data[name] = value
        kept.append(data)
        return data

    twice: list[tuple[int, str]] = []
    kept: list[Json] = []
    try:
        root = json.loads(body, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return ()
    if twice:
        _locate(root, "", twice, found)
    return tuple(found)


def _locate(value: Any, path: str, twice: list[tuple[int, str]], found: list[str]) -> None:
    if isinstance(value, dict):
        for where, name in twice:
            if where == id(value):
                found.append(f"{path}.{name}".lstrip("."))
        for name, inner in value.items():
            _locate(inner, f"{path}.{name}".lstrip("."), twice, found)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _locate(inner, f"{path}[{i}]", twice, found)


def too_large() -> StatusError:
    return StatusError(413, "RequestEntityTooLarge", f"a body may have {LARGEST} bytes at most")

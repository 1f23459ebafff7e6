"""What a request is about: its path, query and body, read once."""

from typing import Any
from urllib.parse import unquote

import msgspec
import orjson
import yaml

from meltemi.api.kinds import Kind
from meltemi.local.apiserver.errors import StatusError, bad_request
from meltemi.local.apiserver.registry import Registry

Json = dict[str, Any]
LARGEST = 3 << 20
"""Bytes of a body; more is refused before it is parsed."""
_PROTOBUF = "application/vnd.kubernetes.protobuf"


class Target(msgspec.Struct, frozen=True):
    """What a path under /api or /apis names."""

    kind: Kind
    version: str
    namespace: str
    name: str
    subresource: str


def target(registry: Registry, path: str) -> Target | None:
    """Parse `/api/v1/namespaces/x/pods/y/log` and its like; None when nothing is served there."""
    parts = [unquote(p) for p in path.strip("/").split("/")]
    if parts[0] == "api" and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and not _is_own(rest):
        namespace, rest = rest[1], rest[2:]
    kind = registry.at(group, version, rest[0])
    if kind is None or len(rest) > 3:
        return None
    return Target(
        kind=kind,
        version=version,
        namespace=namespace,
        name=rest[1] if len(rest) > 1 else "",
        subresource=rest[2] if len(rest) > 2 else "",
    )


def _is_own(rest: list[str]) -> bool:
    """Whether `namespaces/x/status` is meant, not a collection in a namespace."""
    return len(rest) == 3 and rest[2] in ("status", "finalize")


def parse_body(body: bytes, content_type: str) -> Any:
    """JSON or YAML; protobuf by a decoder of its own."""
    media = content_type.partition(";")[0].strip().lower()
    if not body:
        return {}
    if media == _PROTOBUF or body[:4] == b"k8s\0":
        from meltemi.local.apiserver.protobuf import decode

        return decode(body)
    try:
        if "yaml" in media:
            return yaml.load(body, yaml.CSafeLoader)
        return orjson.loads(body)
    except (orjson.JSONDecodeError, yaml.YAMLError) as error:
        raise bad_request(f"the body cannot be parsed: {error}") from error


def too_large() -> StatusError:
    return StatusError(413, "RequestEntityTooLarge", f"a body may have {LARGEST} bytes at most")

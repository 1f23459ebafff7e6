"""The discovery protocol on the wire: requests parsed, responses joined from prepared pieces.

A resource is wrapped once for all streams; a response is a concatenation. Field numbers are those
of envoy/service/discovery/v3/discovery.proto.
"""

import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from meltemi.base.resource import BadNode, NodeInfo, Resource, node_from_id
from meltemi.protos.small import Schema, message_classes
from meltemi.protos.wire import head, text
from meltemi.xds.references import assignment_of, clusters_named

_SCHEMA: Schema = {
    "Node": {"id": (1, "string"), "cluster": (2, "string"), "metadata": (3, "Struct")},
    "Status": {"code": (1, "int32"), "message": (2, "string")},
    "Version": {"key": (1, "string"), "value": (2, "string")},
    "DeltaRequest": {
        "node": (1, "Node"),
        "type_url": (2, "string"),
        "subscribe": (3, "string*"),
        "unsubscribe": (4, "string*"),
        "initial": (5, "bytes*"),
        "nonce": (6, "string"),
        "error": (7, "Status"),
    },
    "Request": {
        "version": (1, "string"),
        "node": (2, "Node"),
        "names": (3, "string*"),
        "type_url": (4, "string"),
        "nonce": (5, "string"),
        "error": (6, "Status"),
    },
}
_SHARED = 16 << 20
"""Bytes of responses kept for the next stream."""
_MADE = 10_000
"""Responses that are remembered as made once."""
_CLASSES: Mapping[str, Any] = message_classes("meltemi.xds", _SCHEMA)


class BadRequest(ValueError):
    """A request's bytes are not a discovery request."""


class DeltaRequest(msgspec.Struct, frozen=True):
    type_url: str
    subscribe: tuple[str, ...]
    unsubscribe: tuple[str, ...]
    initial: frozenset[bytes]
    """What the proxy has from an earlier stream, each as `entry` writes it."""
    nonce: str
    error: str | None
    node: NodeInfo | None = None


class Request(msgspec.Struct, frozen=True):
    type_url: str
    names: tuple[str, ...]
    version: str
    nonce: str
    error: str | None
    node: NodeInfo | None = None


def parse_delta(body: bytes) -> DeltaRequest:
    """Raises BadRequest or BadNode. Versions are left as they are written: a proxy names thousands,
    which nearly always are those of a whole set."""
    message = _parse("DeltaRequest", body)
    return DeltaRequest(
        type_url=message.type_url,
        subscribe=tuple(message.subscribe),
        unsubscribe=tuple(message.unsubscribe),
        initial=frozenset(message.initial),
        nonce=message.nonce,
        error=message.error.message if message.HasField("error") else None,
        node=_node(message.node) if message.HasField("node") else None,
    )


def entry(name: str, version: str) -> bytes:
    """A version as a proxy says it."""
    return text(1, name) + text(2, version)


def versions_of(entries: Iterable[bytes]) -> dict[str, str]:
    """The versions by name that a proxy says. What cannot be read was not sent by us."""
    found: dict[str, str] = {}
    for body in entries:
        try:
            version = _CLASSES["Version"].FromString(body)
        except DecodeError:
            continue
        found[sys.intern(version.key)] = sys.intern(version.value)
    return found


def parse(body: bytes) -> Request:
    """Raises BadRequest or BadNode."""
    message = _parse("Request", body)
    return Request(
        type_url=message.type_url,
        names=tuple(message.names),
        version=message.version,
        nonce=message.nonce,
        error=message.error.message if message.HasField("error") else None,
        node=_node(message.node) if message.HasField("node") else None,
    )


def _parse(name: str, body: bytes) -> Any:
    message = _CLASSES[name]()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise BadRequest("not a discovery request") from error
    return message


def _node(node: Any) -> NodeInfo | None:
    """What a node says of itself; without an id, which only the first request carries, nothing."""
    if not node.id:
        return None
    metadata = json_format.MessageToDict(node.metadata)
    labels = metadata.get("LABELS") or {}
    if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
        raise BadNode(f"node {node.id!r}: metadata LABELS must map strings to strings")
    return node_from_id(node.id, labels, metadata)


class Wrapped:
    """A resource and the bytes it adds to a response; each form is made when first needed."""

    __slots__ = (
        "__weakref__",
        "_assignment",
        "_clusters",
        "_delta",
        "_fallback",
        "_former_clusters",
        "_plain",
        "resource",
        "version",
    )

    def __init__(self, resource: Resource, before: "Wrapped | None" = None) -> None:
        """`before`: the version that this one takes the place of."""
        self.resource = resource
        self.version = resource.version
        self._delta: tuple[bytes, ...] = ()
        self._plain: tuple[bytes, ...] = ()
        self._clusters: frozenset[str] | None = None
        self._former_clusters = before._clusters if before is not None else None
        self._assignment: str | None = None
        self._fallback: Wrapped | None = None

    @property
    def fallback(self) -> "Wrapped | None":
        """What a proxy that refuses this gets instead."""
        if self._fallback is None and self.resource.fallback is not None:
            self._fallback = Wrapped(self.resource.fallback)
        return self._fallback

    @property
    def clusters(self) -> frozenset[str]:
        """The mesh's clusters that a route configuration or a listener names; as long as they are
        the same, they are the same object."""
        if self._clusters is None:
            found = clusters_named(self.resource.body)
            former, self._former_clusters = self._former_clusters, None
            self._clusters = former if former is not None and found == former else found
        return self._clusters

    @property
    def assignment(self) -> str:
        """The endpoints a cluster waits for; empty: it finds its own."""
        if self._assignment is None:
            self._assignment = assignment_of(self.resource.name, self.resource.body)
        return self._assignment

    @property
    def plain(self) -> tuple[bytes, ...]:
        """One element of DiscoveryResponse.resources, in pieces."""
        if not self._plain:
            before, body = self._any()
            self._plain = (head(2, len(before) + len(body)) + before, body)
        return self._plain

    @property
    def delta(self) -> tuple[bytes, ...]:
        """One element of DeltaDiscoveryResponse.resources, in pieces: the body is not copied."""
        if not self._delta:
            version, name = text(1, self.version), text(3, self.resource.name)
            before, body = self._any()
            start = version + head(2, len(before) + len(body)) + before
            self._delta = (head(2, len(start) + len(body) + len(name)) + start, body, name)
        return self._delta

    def _any(self) -> tuple[bytes, bytes]:
        resource = self.resource
        return text(1, resource.type_url) + head(2, len(resource.body)), resource.body


class Responses:
    """Makes delta responses; streams that are sent the same share the bytes of the last few.

    A route configuration of half a megabyte is so held once and not by every stream. What is made
    a second time is kept, not what only one proxy is sent.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, bytes] = {}
        self._made: set[int] = set()
        self._size = 0

    def delta(
        self, type_url: str, nonce: str, resources: Sequence[Wrapped], removed: Sequence[str]
    ) -> bytes:
        key = (type_url, nonce, *resources, *removed)
        body = self._kept.get(key)
        if body is None:
            body = _delta_response(type_url, nonce, resources, removed)
            self._keep(key, body)
        return body

    def _keep(self, key: Hashable, body: bytes) -> None:
        mark = hash(key)
        if mark not in self._made:
            if len(self._made) >= _MADE:
                self._made.clear()
            self._made.add(mark)
            return
        self._size += len(body)
        if self._size > _SHARED:
            self._kept.clear()
            self._size = len(body)
        self._kept[key] = body


def _delta_response(
    type_url: str, nonce: str, resources: Iterable[Wrapped], removed: Iterable[str]
) -> bytes:
    pieces = [piece for wrapped in resources for piece in wrapped.delta]
    pieces += [text(4, type_url), text(5, nonce)]
    pieces += [text(6, name) for name in removed]
    return b"".join(pieces)


def response(type_url: str, nonce: str, version: str, resources: Iterable[Wrapped]) -> bytes:
    pieces = [text(1, version), *(piece for wrapped in resources for piece in wrapped.plain)]
    return b"".join((*pieces, text(4, type_url), text(5, nonce)))

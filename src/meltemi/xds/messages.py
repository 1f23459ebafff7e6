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
from meltemi.protos.wire import field, text
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
        "initial": (5, "Version*"),
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
_CLASSES: Mapping[str, Any] = message_classes("meltemi.xds", _SCHEMA)


class BadRequest(ValueError):
    """A request's bytes are not a discovery request."""


class DeltaRequest(msgspec.Struct, frozen=True):
    type_url: str
    subscribe: tuple[str, ...]
    unsubscribe: tuple[str, ...]
    initial: Mapping[str, str]
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
    """Raises BadRequest or BadNode. Names are interned: thousands of proxies say the same ones."""
    message = _parse("DeltaRequest", body)
    return DeltaRequest(
        type_url=message.type_url,
        subscribe=tuple(map(sys.intern, message.subscribe)),
        unsubscribe=tuple(message.unsubscribe),
        initial={v.key: v.value for v in message.initial},
        nonce=message.nonce,
        error=message.error.message if message.HasField("error") else None,
        node=_node(message.node) if message.HasField("node") else None,
    )


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
        self._delta = b""
        self._plain = b""
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
    def plain(self) -> bytes:
        """One element of DiscoveryResponse.resources."""
        if not self._plain:
            self._plain = field(2, self._any())
        return self._plain

    @property
    def delta(self) -> bytes:
        """One element of DeltaDiscoveryResponse.resources."""
        if not self._delta:
            body = text(1, self.resource.version) + field(2, self._any())
            self._delta = field(2, body + text(3, self.resource.name))
        return self._delta

    def _any(self) -> bytes:
        return text(1, self.resource.type_url) + field(2, self.resource.body)


class Responses:
    """Makes delta responses; streams that are sent the same share the bytes of the last few.

    A route configuration of half a megabyte is so held once and not by every stream.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, bytes] = {}
        self._size = 0

    def delta(
        self, type_url: str, nonce: str, resources: Sequence[Wrapped], removed: Sequence[str]
    ) -> bytes:
        key = (type_url, nonce, *resources, *removed)
        body = self._kept.get(key)
        if body is None:
            body = _delta_response(type_url, nonce, resources, removed)
            self._size += len(body)
            if self._size > _SHARED:
                self._kept.clear()
                self._size = len(body)
            self._kept[key] = body
        return body


def _delta_response(
    type_url: str, nonce: str, resources: Iterable[Wrapped], removed: Iterable[str]
) -> bytes:
    pieces = [wrapped.delta for wrapped in resources]
    pieces += [text(4, type_url), text(5, nonce)]
    pieces += [text(6, name) for name in removed]
    return b"".join(pieces)


def response(type_url: str, nonce: str, version: str, resources: Iterable[Wrapped]) -> bytes:
    pieces = [text(1, version), *(wrapped.plain for wrapped in resources)]
    return b"".join((*pieces, text(4, type_url), text(5, nonce)))

"""What the compiler hands to xDS: sealed Envoy resources, in sets that proxies share."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from meltemi.base.keys import ObjectKey

TYPE_PREFIX = "type.googleapis.com/"
CLUSTER = TYPE_PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINT = TYPE_PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = TYPE_PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = TYPE_PREFIX + "envoy.config.route.v3.RouteConfiguration"
VIRTUAL_HOST = TYPE_PREFIX + "envoy.config.route.v3.VirtualHost"
"""One virtual host of a route configuration, asked for by name."""
SECRET = TYPE_PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
EXTENSION = TYPE_PREFIX + "envoy.config.core.v3.TypedExtensionConfig"


class SetKey(NamedTuple):
    """Names a set of resources of one type; every proxy whose view lists the set receives it.

    `owner` is a scope's name for what many proxies share, or a proxy's id for its own.
    """

    type_url: str
    owner: str


class Resource(msgspec.Struct, frozen=True):
    """One sealed resource. Equal content has an equal version, whoever built it."""

    type_url: str
    name: str
    version: str
    body: bytes
    """The deterministic bytes of the message itself (not of the Any around it)."""
    fallback: "Resource | None" = None
    """What to send instead to a proxy that refuses this: the same without users' patches."""
    patched_by: tuple[ObjectKey, ...] = ()
    """The objects whose patches are in it."""


def seal(type_url: str, name: str, body: bytes) -> Resource:
    """Seal deterministic message bytes; the version is a hash of the content."""
    return Resource(type_url, name, hashlib.blake2b(body, digest_size=8).hexdigest(), body)


class ProxyView(msgspec.Struct, frozen=True):
    """Which sets one proxy sees. Sets must not share resource names within a type."""

    proxy: str
    """The proxy's node id, `sidecar~10.44.0.7~reviews-v1-abc.default~default.svc.cluster.local`."""
    sets: tuple[SetKey, ...]


class Change(msgspec.Struct, frozen=True):
    """One step of the world for xDS: changed resources by set, and changed views."""

    revision: int
    """Counts propagations of the graph; `settled(revision)` waits for its acknowledgement."""
    resources: Mapping[SetKey, Mapping[str, Resource | None]]
    """Changed names of each set; None means removed."""
    views: Mapping[str, ProxyView | None]
    """Changed views by node id; None: the proxy is gone."""


class NodeInfo(msgspec.Struct, frozen=True):
    """What a proxy says of itself in its first request, parsed from Envoy's Node."""

    id: str
    kind: str
    """`sidecar` or `router`."""
    ip: str
    namespace: str
    name: str
    """The pod's name."""
    domain: str
    labels: Mapping[str, str] = {}
    metadata: Mapping[str, object] = {}
    reads_secrets: bool = False
    """Never what the proxy says: its service account may read the Secrets of its namespace, and
    it needs some. They are sent only to who proves to be that account."""

    @property
    def has_ipv6(self) -> bool:
        """One of its addresses is of IPv6."""
        return ":" in self.ip or ":" in str(self.metadata.get("INSTANCE_IPS", ""))


class BadNode(ValueError):
    """A node id does not have the form `kind~ip~pod.namespace~domain`."""


def node_from_id(
    node_id: str, labels: Mapping[str, str], metadata: Mapping[str, object]
) -> NodeInfo:
    """Parse Istio's node id; anything else raises BadNode with the form that is expected."""
    parts: Sequence[str] = node_id.split("~")
    if len(parts) != 4 or parts[0] not in ("sidecar", "router") or "." not in parts[2]:
        raise BadNode(f"node id {node_id!r}: expected sidecar|router~IP~POD.NAMESPACE~DOMAIN")
    name, _, namespace = parts[2].rpartition(".")
    return NodeInfo(
        id=node_id,
        kind=parts[0],
        ip=parts[1],
        namespace=namespace,
        name=name,
        domain=parts[3],
        labels=labels,
        metadata=metadata,
    )

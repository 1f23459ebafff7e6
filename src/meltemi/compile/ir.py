"""What each Envoy resource should be, in our own types: no protobuf, no Envoy wording.

Everything is decided and ordered here; `envoy/` only writes it down. The simulator reads it too.
"""

import datetime
import enum
from collections.abc import Mapping

import msgspec

from meltemi.api.networking import Tunnel
from meltemi.base.keys import ObjectKey
from meltemi.base.resource import NodeInfo
from meltemi.compile.settings import MeshSettings
from meltemi.model.endpoint import Endpoint
from meltemi.model.policy import Blocks
from meltemi.model.route import (
    Cors,
    DirectResponse,
    Fault,
    HeaderEdits,
    Matcher,
    NamedMatch,
    Redirect,
    Retry,
    Rewrite,
)
from meltemi.model.service import Protocol


class Discovery(enum.Enum):
    """Where a cluster's endpoints come from."""

    ENDPOINTS = "endpoints"
    ORIGINAL = "original"
    """The address the client chose."""


class Tls(msgspec.Struct, frozen=True):
    """Mutual TLS with the mesh's own identities."""

    sni: str
    identities: tuple[str, ...]
    """SPIFFE URIs a server may have; empty: anyone of `prefix`."""
    prefix: str
    """Used while no workload is known: `spiffe://trust-domain/ns/namespace/`."""


class Security(enum.Enum):
    """How a client speaks to the endpoints of a cluster."""

    AUTO = "auto"
    """Mutual TLS where the endpoint takes it, plaintext elsewhere."""
    MUTUAL = "mutual"
    PLAIN = "plain"
    ORIGINATE = "originate"
    """TLS as the policy's own settings say."""


class Cluster(msgspec.Struct, frozen=True):
    name: str
    host: str
    service: str
    namespace: str
    port: int
    subset: str
    protocol: Protocol
    discovery: Discovery
    security: Security
    tls: Tls
    blocks: Blocks
    sources: tuple[ObjectKey, ...]


class Assignment(msgspec.Struct, frozen=True):
    """The endpoints of one cluster: those that take traffic."""

    cluster: str
    endpoints: tuple[Endpoint, ...]


class Match(msgspec.Struct, frozen=True):
    path: Matcher
    """Never Present: no condition is the prefix `/`."""
    ignore_case: bool = False
    headers: tuple[NamedMatch, ...] = ()
    """Pseudo-headers too."""
    query: tuple[NamedMatch, ...] = ()


class WeightedCluster(msgspec.Struct, frozen=True):
    cluster: str
    weight: int
    headers: HeaderEdits = HeaderEdits()


class L4Forward(msgspec.Struct, frozen=True):
    """Where a TCP proxy sends connections, and how it keeps them."""

    clusters: tuple[WeightedCluster, ...]
    """At least one; their header edits are empty."""
    idle_timeout: datetime.timedelta | None = None
    """None: Envoy's hour; zero: none."""
    longest: datetime.timedelta | None = None
    """How long a connection may live; None: for ever."""
    hash_source: bool = False
    """The client's address decides (consistentHash.useSourceIp)."""
    tunnel: Tunnel | None = None
    """Through an HTTP proxy, by CONNECT or POST."""


class L4Route(msgspec.Struct, frozen=True):
    """Connections with one of these SNI names and to one of these subnets; empty: any."""

    forward: L4Forward
    sni_hosts: tuple[str, ...] = ()
    """Names, or with a left-most wildcard `*.`; `*` is any."""
    subnets: tuple[str, ...] = ()
    """Addresses or CIDRs."""
    source: ObjectKey | None = None
    path: str = ""
    """The field of `source`: `spec.tls[0].match[1]`; empty for defaults."""


class HashPolicy(msgspec.Struct, frozen=True):
    """What a consistent hash is taken of: one of these."""

    header: str = ""
    query: str = ""
    cookie: str = ""
    cookie_path: str = ""
    cookie_ttl: datetime.timedelta | None = None
    source: bool = False


class Forward(msgspec.Struct, frozen=True, tag="forward"):
    clusters: tuple[WeightedCluster, ...]
    rewrite: Rewrite | None
    timeout: datetime.timedelta | None
    retry: Retry
    mirrors: tuple[tuple[str, float], ...] = ()
    """(cluster, percent)."""
    hashes: tuple[HashPolicy, ...] = ()


class Route(msgspec.Struct, frozen=True):
    name: str
    match: Match
    action: Forward | Redirect | DirectResponse
    headers: HeaderEdits = HeaderEdits()
    fault: Fault | None = None
    cors: Cors | None = None
    source: ObjectKey | None = None
    path: str = ""
    """The field of `source` the route comes from; empty for defaults."""


class VirtualHost(msgspec.Struct, frozen=True):
    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...]
    https_only: bool = False


class InboundPort(msgspec.Struct, frozen=True):
    """One port of a workload, as clients may reach it."""

    port: int
    protocol: Protocol
    mutual: bool
    """Mesh traffic in mutual TLS is served."""
    plain: bool
    """Plaintext is served."""
    host: str
    """The service it belongs to, for metrics; empty: none."""
    service: str


class Inbound(msgspec.Struct, frozen=True):
    """The whole inbound side of one proxy."""

    address: str
    ports: tuple[InboundPort, ...]
    other_mutual: bool
    other_plain: bool
    """The same for ports no service declares."""
    namespace: str


class GatewayServer(msgspec.Struct, frozen=True):
    """One listener of a gateway."""

    port: int
    """Where the pod listens."""
    service_port: int
    bind: str
    route: str
    credential: str = ""
    """The Secret of a TLS server; empty: plaintext."""
    hosts: tuple[str, ...] = ()
    """SNI names of a TLS server."""
    mutual: bool = False


class ProxyPlan(msgspec.Struct, frozen=True):
    """Everything one proxy is sent, before it is written down for Envoy."""

    node: NodeInfo
    settings: MeshSettings
    clusters: Mapping[str, Cluster]
    endpoints: Mapping[str, tuple[Endpoint, ...]]
    """By cluster; a cluster that finds its endpoints otherwise is not in it."""
    routes: Mapping[str, tuple[VirtualHost, ...]]
    """Virtual hosts by route configuration."""
    servers: tuple[GatewayServer, ...] = ()
    inbound: Inbound | None = None

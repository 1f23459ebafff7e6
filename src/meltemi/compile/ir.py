"""What each Envoy resource should be, in our own types: no protobuf, no Envoy wording.

Everything is decided and ordered here; `envoy/` only writes it down. The simulator reads it too.
"""

import datetime
import enum
from collections.abc import Mapping

import msgspec

from meltemi.api.networking import ConnectionPool, Tunnel
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Problem
from meltemi.base.resource import NodeInfo
from meltemi.compile.settings import MeshSettings
from meltemi.model.endpoint import Endpoint
from meltemi.model.policy import Blocks
from meltemi.model.route import (
    ClaimMatch,
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
    DNS = "dns"
    """All addresses of the endpoints' names, resolved by Envoy."""
    DNS_ONE = "dns one"
    """One address of one name, resolved by Envoy."""
    DYNAMIC = "dynamic"
    """The name in the request or the SNI, resolved by Envoy."""


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


class EndpointGroup(msgspec.Struct, frozen=True):
    """Endpoints of one locality that are preferred alike."""

    locality: str
    priority: int
    """0 takes traffic first; the next as the endpoints of those before it fail."""
    weight: int
    """Among the localities of a priority, where the cluster weighs them."""
    endpoints: tuple[Endpoint, ...]


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
    weighs_localities: bool = False
    """A locality gets the share its weight says, however many endpoints it has."""
    zones: int | None = None
    """From how many endpoints on Envoy prefers its own zone; 0: never; None: it cannot."""
    credential: str = ""
    """The Secret whose certificates ORIGINATE uses; empty: the policy's files."""
    stat_name: str = ""
    """The name in Envoy's own statistics; empty: the cluster's."""
    groups: tuple[EndpointGroup, ...] = ()
    """What Envoy resolves; only of clusters found by DNS."""


class Assignment(msgspec.Struct, frozen=True):
    """The endpoints of one cluster: those that may take traffic."""

    cluster: str
    groups: tuple[EndpointGroup, ...]


class Match(msgspec.Struct, frozen=True):
    path: Matcher
    """Never Present: no condition is the prefix `/`."""
    ignore_case: bool = False
    headers: tuple[NamedMatch, ...] = ()
    """Pseudo-headers too."""
    claims: tuple[ClaimMatch, ...] = ()
    query: tuple[NamedMatch, ...] = ()


class WeightedCluster(msgspec.Struct, frozen=True):
    cluster: str
    weight: int
    headers: HeaderEdits = HeaderEdits()
    authority: str = ""
    """Stands for the request's host; empty: as the route says."""


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
    """None: a request without the cookie gets none, and is not hashed."""
    cookie_attributes: tuple[tuple[str, str], ...] = ()
    source: bool = False


class Forward(msgspec.Struct, frozen=True, tag="forward"):
    clusters: tuple[WeightedCluster, ...]
    rewrite: Rewrite | None
    timeout: datetime.timedelta | None
    retry: Retry
    mirrors: tuple[tuple[str, float], ...] = ()
    """(cluster, percent)."""
    hashes: tuple[HashPolicy, ...] = ()
    resolves: bool = False
    """It leads to a host that Envoy resolves, under the name that takes the authority's place."""


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
    stat_prefix: str = ""
    """Gives the route statistics of its own."""
    operation: str = ""
    """What traces call it; empty: by the request."""


class VirtualHost(msgspec.Struct, frozen=True):
    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...]
    https_only: bool = False


class RouteConfiguration(msgspec.Struct, frozen=True):
    """Routes that stand inside a listener: those of a sidecar's inbound side."""

    name: str
    hosts: tuple[VirtualHost, ...]


class Side(enum.Enum):
    """Whose traffic a listener takes; metrics, headers and trust follow from it."""

    CLIENT = "client"
    """What a sidecar's application sends."""
    SERVER = "server"
    """What a sidecar's application receives."""
    EDGE = "edge"
    """A gateway: clients are strangers."""


class Transport(enum.Enum):
    """What a connection begins with; told apart by the TLS inspector."""

    ANY = ""
    RAW = "raw_buffer"
    TLS = "tls"


SNIFFED_HTTP = ("http/1.0", "http/1.1", "h2c")
"""The application protocols that the HTTP inspector reports for plaintext."""


class ChainMatch(msgspec.Struct, frozen=True):
    """Which connections a filter chain takes.

    Envoy decides field by field in this order, each time keeping only the most specific chains:
    a chain that matches the port excludes chains without a port, even if it fails later.
    """

    port: int = 0
    """The original destination's port; 0: any."""
    addresses: tuple[str, ...] = ()
    """The original destination, as CIDRs; empty: any."""
    sni: tuple[str, ...] = ()
    """Exact names or `*.suffix`; empty: any."""
    transport: Transport = Transport.ANY
    protocols: tuple[str, ...] = ()
    """ALPN, or `SNIFFED_HTTP`; empty: any."""


class Destination(msgspec.Struct, frozen=True):
    """The service that a server-side chain stands for in metrics."""

    host: str
    service: str
    namespace: str


class Http(msgspec.Struct, frozen=True, tag="http"):
    """A chain that speaks HTTP."""

    prefix: str
    """Names its statistics."""
    routes: str | RouteConfiguration
    """The name of a shared route configuration, or one of its own."""
    destination: Destination | None = None
    protocol: Protocol = Protocol.HTTP
    trusted_hops: int = 0
    """At an edge: proxies before it whose x-forwarded-for is believed."""
    client_certificates: str = ""
    """How x-forwarded-client-cert is treated (`APPEND_FORWARD`, ...); empty: as the side does."""
    dynamic_hosts: bool = False
    """Some route leads to a cluster that resolves the host of each request."""


class Tcp(msgspec.Struct, frozen=True, tag="tcp"):
    """A chain that passes bytes on."""

    prefix: str
    """Names its statistics."""
    forward: L4Forward | None
    """None: the SNI names the cluster (AUTO_PASSTHROUGH)."""
    destination: Destination | None = None
    mongo: bool = False
    """Count MongoDB operations."""
    dynamic_port: int = 0
    """Resolve the SNI of each connection and connect to this port of it; 0: do not."""
    marks: bool = False
    """The other end sniffs, but cannot look into mutual TLS: tell it that this is not HTTP."""


REFUSE = Tcp("BlackHoleCluster", L4Forward((WeightedCluster("BlackHoleCluster", 100),)))
"""Closes every connection: its cluster has no endpoints."""


class ServerTlsMode(enum.Enum):
    MESH = "mesh"
    """The mesh's own certificates; a client shows one of the trust domain."""
    SIMPLE = "simple"
    MUTUAL = "mutual"
    OPTIONAL_MUTUAL = "optional mutual"


class ServerTls(msgspec.Struct, frozen=True):
    """TLS that a chain ends."""

    mode: ServerTlsMode
    credentials: tuple[str, ...] = ()
    """Names of secrets with certificate and key; several: RSA and ECDSA side by side."""
    authority: str = ""
    """The name of the secret with the clients' CA."""
    files: tuple[tuple[str, str], ...] = ()
    """Certificate chains and keys as paths in the proxy, instead of `credentials`."""
    authority_file: str = ""
    revoked_file: str = ""
    """A certificate revocation list."""
    alpn: tuple[str, ...] = ("h2", "http/1.1")
    min_version: str = ""
    """`TLSV1_2` and so on; empty: the default."""
    max_version: str = ""
    ciphers: tuple[str, ...] = ()
    curves: tuple[str, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    """A client's certificate names one of them; empty: anything the authority signed."""
    spki: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()


MESH_TLS = ServerTls(ServerTlsMode.MESH)


class FilterChain(msgspec.Struct, frozen=True):
    name: str
    match: ChainMatch
    network: Http | Tcp
    tls: ServerTls | None = None
    source: ObjectKey | None = None
    """The object that asked for the chain; None: the mesh's own."""
    path: str = ""
    """The field of `source`."""

    @property
    def mutual(self) -> bool:
        """Whether the peer's identity in the mesh is known."""
        return self.tls is not None and self.tls.mode is ServerTlsMode.MESH


class Listener(msgspec.Struct, frozen=True, cache_hash=True):
    """Everything a proxy does with connections to one address."""

    name: str
    side: Side
    address: str
    """An IP address, or a path (`unix:///run/app.sock`) with port 0."""
    port: int
    chains: tuple[FilterChain, ...] = ()
    default: FilterChain | None = None
    """Takes what no chain matches."""
    bind: bool = True
    """Opens a socket. Otherwise `virtualOutbound` hands over connections to this address."""
    hands_over: bool = False
    """Passes a captured connection to the listener of its original destination, if one exists."""
    original_destination: bool = False
    """Chains match the destination that the client chose, not this listener's own."""
    inspects_tls: bool = False
    inspects_http: bool = False
    quiet_tls: tuple[int, ...] = ()
    """Ports where the client may wait for the server: never inspected for TLS."""
    quiet_http: tuple[int, ...] = ()
    proxy_protocol: bool = False
    """A PROXY header precedes each connection."""
    reuse_port: bool = True
    sources: tuple[ObjectKey, ...] = ()
    """Every object that contributes, for problems of the whole listener."""
    also: tuple[str, ...] = ()
    """Further addresses, with the same port."""


class InboundCluster(msgspec.Struct, frozen=True):
    """A way from a proxy to its own application."""

    name: str
    address: str
    """Of the application; empty: wherever the client meant to go."""
    port: int
    speaks_http: bool
    destination: Destination | None
    translated: bool = False
    """Its requests were made gRPC of gRPC-Web: HTTP/2, whatever the client speaks."""
    stat_name: str = ""
    """The name in Envoy's own statistics; empty: the cluster's."""
    pool: ConnectionPool | None = None
    """Limits of the connections to the application."""
    also: tuple[str, ...] = ()
    """Its further addresses, tried where it does not listen at the first."""
    ipv6: bool = False
    """The application may be reached over IPv6, too."""


class Inbound(msgspec.Struct, frozen=True):
    """The whole inbound side of one proxy."""

    listeners: tuple[Listener, ...]
    clusters: tuple[InboundCluster, ...]


class ProxyPlan(msgspec.Struct, frozen=True):
    """Everything one proxy is sent, before it is written down for Envoy."""

    node: NodeInfo
    settings: MeshSettings
    clusters: Mapping[str, Cluster]
    endpoints: Mapping[str, tuple[EndpointGroup, ...]]
    """By cluster; a cluster that finds its endpoints otherwise is not in it."""
    routes: Mapping[str, tuple[VirtualHost, ...]]
    """Virtual hosts by route configuration."""
    listeners: tuple[Listener, ...] = ()
    """A gateway's servers, or a sidecar's outbound side."""
    inbound: Inbound | None = None
    problems: tuple[Problem, ...] = ()
    """What was wrong with objects on the way to this plan."""

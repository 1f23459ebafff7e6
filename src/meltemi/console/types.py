"""The console's API: what `/api/...` answers. TypeScript types are generated from these Structs."""

from collections.abc import Mapping
from typing import Literal

import msgspec

HealthStatus = Literal["healthy", "degraded", "failure", "not-ready", "unknown"]
NodeKind = Literal["app", "workload", "service", "service-entry", "gateway", "unknown"]
Severity = Literal["error", "warning", "info"]
GraphType = Literal["versionedApp", "app", "workload", "service"]
Protocol = Literal["http", "grpc", "tcp"]
Badge = Literal[
    "missing-sidecar",
    "virtual-service",
    "circuit-breaker",
    "fault-injection",
    "mirroring",
    "traffic-shifting",
    "gateway",
    "root",
    "outside",
]


class View(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of every answer: frozen, camelCase on the wire."""


class Health(View, frozen=True, kw_only=True):
    status: HealthStatus
    reason: str
    """One sentence: `3.2 % of requests fail with 5xx`; empty when there is nothing to say."""


class Rates(View, frozen=True, kw_only=True):
    """Requests a second by outcome; `tcp` is bytes a second."""

    http: float = 0.0
    grpc: float = 0.0
    tcp: float = 0.0
    errors: float = 0.0


class GraphBox(View, frozen=True, kw_only=True):
    """A frame around nodes: an application's versions, or a namespace."""

    id: str
    kind: Literal["namespace", "app"]
    label: str
    namespace: str
    parent: str | None
    health: Health


class GraphNode(View, frozen=True, kw_only=True):
    """One node; `id` is stable across answers for the same thing."""

    id: str
    kind: NodeKind
    label: str
    namespace: str
    app: str = ""
    version: str = ""
    workload: str = ""
    service: str = ""
    parent: str | None = None
    health: Health
    badges: tuple[Badge, ...] = ()
    inbound: Rates = Rates()
    outbound: Rates = Rates()


class ResponseTime(View, frozen=True, kw_only=True):
    """Milliseconds; None where there was no request."""

    average: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class CodeRate(View, frozen=True, kw_only=True):
    """Requests a second with this response code and these Envoy response flags."""

    code: str
    flags: str
    rate: float


class GraphEdge(View, frozen=True, kw_only=True):
    """Traffic from one node to another, of one protocol."""

    id: str
    source: str
    target: str
    protocol: Protocol
    rate: float
    """Requests a second; for tcp, bytes a second."""
    error_share: float
    """0 to 1."""
    share: float
    """0 to 1: this edge's part of the source's outgoing traffic of the protocol."""
    response_time: ResponseTime
    throughput: float
    """Response bytes a second."""
    mtls_share: float
    """0 to 1: the part of the traffic in mutual TLS."""
    source_principal: str
    destination_principal: str
    codes: tuple[CodeRate, ...]
    health: Health


class Graph(View, frozen=True, kw_only=True):
    at: str
    """RFC 3339, when the newest sample was taken."""
    duration: float
    """Seconds that the rates average over."""
    graph_type: GraphType
    namespaces: tuple[str, ...]
    boxes: tuple[GraphBox, ...]
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]


class NamespaceSummary(View, frozen=True, kw_only=True):
    name: str
    injection: bool
    workloads: int


class Mesh(View, frozen=True, kw_only=True):
    """`/api/mesh`: what the shell of the console shows on every page."""

    version: str
    namespaces: tuple[NamespaceSummary, ...]
    proxies: int
    proxies_synced: int
    problems: int
    components: Mapping[str, str]
    """Component to `healthy` or `unhealthy`."""


class Problem(View, frozen=True, kw_only=True):
    """One of `/api/problems`: what is wrong with an object, the gravest first."""

    code: str
    severity: Severity
    kind: str
    namespace: str
    name: str
    path: str
    """The field; empty for the object as a whole."""
    message: str

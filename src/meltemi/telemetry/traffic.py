"""From counters to traffic: who calls whom, how much, how well. Pure.

Client and server both report the same requests. As consoles for Istio do it, the client's count
is taken where there is one (it also knows the calls that never arrived), the server's where the
client has no proxy; times and mutual TLS come from the server, which knows the certificate.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import msgspec

from meltemi.telemetry.store import Sample, quantile

Protocol = Literal["http", "grpc", "tcp"]
UNKNOWN = "unknown"
_QUANTILES = (0.5, 0.95, 0.99)


class Peer(msgspec.Struct, frozen=True):
    """One end of traffic; empty strings where the metrics do not know."""

    namespace: str = ""
    workload: str = ""
    app: str = ""
    version: str = ""
    principal: str = ""

    @property
    def is_known(self) -> bool:
        return bool(self.workload)


class Code(msgspec.Struct, frozen=True):
    code: str
    """The HTTP or gRPC status; `-` where no answer came."""
    flags: str
    rate: float
    is_error: bool


class Times(msgspec.Struct, frozen=True):
    """Milliseconds; None without requests."""

    average: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Traffic(msgspec.Struct, frozen=True):
    """Calls from one workload to another, by way of one service, of one protocol."""

    source: Peer
    destination: Peer
    host: str
    """The service's full name; or PassthroughCluster, BlackHoleCluster."""
    service: str
    service_namespace: str
    protocol: Protocol
    rate: float
    """Requests a second; for tcp, bytes a second in both directions."""
    codes: tuple[Code, ...]
    times: Times
    buckets: tuple[tuple[float, float], ...]
    """(upper bound in ms, cumulative count): for merging the times of several."""
    seconds: tuple[float, float]
    """(sum in ms, count) of the times."""
    throughput: float
    """Response bytes a second."""
    mtls: float
    """0 to 1: the part in mutual TLS."""

    @property
    def errors(self) -> float:
        return sum(code.rate for code in self.codes if code.is_error)


class _Key(NamedTuple):
    source_namespace: str
    source: str
    destination_namespace: str
    destination: str
    host: str
    protocol: Protocol


class _Side:
    """What one reporter says of a key."""

    def __init__(self) -> None:
        self.codes: dict[tuple[str, str, bool], float] = defaultdict(float)
        self.tcp = 0.0
        self.buckets: dict[float, float] = defaultdict(float)
        self.sum = self.count = self.bytes = 0.0
        self.policies: dict[str, float] = defaultdict(float)

    @property
    def requests(self) -> float:
        return sum(self.codes.values())


class _Edge:
    def __init__(self) -> None:
        self.client = _Side()
        self.server = _Side()
        self.labels: dict[str, str] = {}


def traffic(samples: Iterable[Sample], seconds: float) -> list[Traffic]:
    """Merge a window's increases; `seconds` is what rates are divided by."""
    edges: dict[_Key, _Edge] = defaultdict(_Edge)
    for sample in samples:
        labels = sample.labels
        key = _key(sample.metric, labels)
        edge = edges[key]
        side = edge.client if labels.get("reporter") == "source" else edge.server
        _count(side, sample, key.protocol)
        for name, value in labels.items():
            if value and value != UNKNOWN:
                edge.labels.setdefault(name, value)
    found = [_traffic(key, edge, seconds) for key, edge in edges.items()]
    return sorted(
        (t for t in found if t.rate > 0),
        key=lambda t: (
            t.source.namespace,
            t.source.workload,
            t.host,
            t.destination.workload,
            t.protocol,
        ),
    )


def _key(metric: str, labels: Mapping[str, str]) -> _Key:
    protocol: Protocol = "tcp"
    if not metric.startswith("istio_tcp_"):
        protocol = "grpc" if labels.get("request_protocol") == "grpc" else "http"
    return _Key(
        _known(labels, "source_workload_namespace"),
        _known(labels, "source_workload"),
        _known(labels, "destination_workload_namespace"),
        _known(labels, "destination_workload"),
        _known(labels, "destination_service"),
        protocol,
    )


def _known(labels: Mapping[str, str], name: str) -> str:
    value = labels.get(name, "")
    return "" if value == UNKNOWN else value


def _count(side: _Side, sample: Sample, protocol: Protocol) -> None:
    labels, increase = sample.labels, sample.increase
    match sample.metric:
        case "istio_requests_total":
            code, is_error = _code(labels, protocol)
            flags = labels.get("response_flags", "-")
            side.codes[code, flags, is_error] += increase
            side.policies[labels.get("connection_security_policy", "")] += increase
        case "istio_request_duration_milliseconds_bucket":
            side.buckets[float(labels.get("le", "inf").replace("+Inf", "inf"))] += increase
        case "istio_request_duration_milliseconds_sum":
            side.sum += increase
        case "istio_request_duration_milliseconds_count":
            side.count += increase
        case "istio_response_bytes_sum":
            side.bytes += increase
        case "istio_tcp_sent_bytes_total" | "istio_tcp_received_bytes_total":
            side.tcp += increase
            side.policies[labels.get("connection_security_policy", "")] += increase


def _code(labels: Mapping[str, str], protocol: Protocol) -> tuple[str, bool]:
    """The code as people know it, and whether it is an error."""
    code = labels.get("response_code", "0")
    grpc = labels.get("grpc_response_status", "")
    if protocol == "grpc" and grpc:
        return grpc, grpc != "0"
    if code in ("0", ""):
        return "-", True
    return code, code[0] in "45"


def _traffic(key: _Key, edge: _Edge, seconds: float) -> Traffic:
    client, server, labels = edge.client, edge.server, edge.labels
    counted = client if client.requests or client.tcp else server
    timed = server if server.count else client
    codes = tuple(
        Code(code, flags, count / seconds, is_error)
        for (code, flags, is_error), count in sorted(counted.codes.items())
    )
    rate = counted.tcp / seconds if key.protocol == "tcp" else counted.requests / seconds
    buckets = tuple(sorted(timed.buckets.items()))
    return Traffic(
        source=_peer(labels, "source", key.source_namespace, key.source),
        destination=_peer(labels, "destination", key.destination_namespace, key.destination),
        host=key.host,
        service=labels.get("destination_service_name", key.host),
        service_namespace=labels.get("destination_service_namespace", ""),
        protocol=key.protocol,
        rate=rate,
        codes=codes,
        times=times(buckets, (timed.sum, timed.count)),
        buckets=buckets,
        seconds=(timed.sum, timed.count),
        throughput=timed.bytes / seconds,
        mtls=_mtls(server),
    )


def times(buckets: Iterable[tuple[float, float]], seconds: tuple[float, float]) -> Times:
    """Average and quantiles of a histogram."""
    total, count = seconds
    if not count:
        return Times()
    ordered = tuple(buckets)
    return Times(total / count, *(quantile(q, ordered) for q in _QUANTILES))


def _peer(labels: Mapping[str, str], side: str, namespace: str, workload: str) -> Peer:
    if not workload:
        return Peer()
    app = labels.get(f"{side}_canonical_service") or labels.get(f"{side}_app") or workload
    version = labels.get(f"{side}_version") or labels.get(f"{side}_canonical_revision", "")
    return Peer(
        namespace=namespace,
        workload=workload,
        app=app,
        version=version,
        principal=labels.get(f"{side}_principal", ""),
    )


def _mtls(side: _Side) -> float:
    total = sum(side.policies.values())
    return side.policies.get("mutual_tls", 0.0) / total if total else 0.0

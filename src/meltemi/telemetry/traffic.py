"""From counters to traffic: who calls whom, how much, how well. Pure.

Client and server both report the same requests. As consoles for Istio do it, the client's count
is taken where there is one (it also knows the calls that never arrived), the server's where the
client has no proxy; times and mutual TLS come from the server, which saw the certificate.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import msgspec

from meltemi.telemetry.histogram import quantile
from meltemi.telemetry.parse import Labels
from meltemi.telemetry.store import Sample

Protocol = Literal["http", "grpc", "tcp"]
NO_ANSWER = "-"
"""The code of a request that got none."""
_NO_VERSION = "latest"
"""What canonical revision says of a workload without one."""


class Peer(msgspec.Struct, frozen=True):
    """One end of traffic; empty strings where the metrics do not know."""

    namespace: str = ""
    workload: str = ""
    app: str = ""
    version: str = ""
    principal: str = ""
    """The identity of its certificate; only where mutual TLS showed it."""
    cluster: str = ""

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
    codes: tuple[Code, ...] = ()
    times: Times = Times()
    buckets: tuple[tuple[float, float], ...] = ()
    """(upper bound in ms, cumulative count): for merging the times of several."""
    seconds: tuple[float, float] = (0.0, 0.0)
    """(sum in ms, count) of the times."""
    request_bytes: float = 0.0
    """A second; for tcp, what the client sent."""
    response_bytes: float = 0.0
    mtls: float = 0.0
    """0 to 1: the part in mutual TLS."""

    @property
    def errors(self) -> float:
        return sum(code.rate for code in self.codes if code.is_error)


class _Pair(NamedTuple):
    source_namespace: str
    source: str
    destination_namespace: str
    destination: str


class _Key(NamedTuple):
    pair: _Pair
    host: str
    protocol: Protocol


class _Side:
    """What one reporter says of a key."""

    def __init__(self) -> None:
        self.labels = Labels()
        self.codes: dict[tuple[str, str, bool], float] = defaultdict(float)
        self.buckets: dict[float, float] = defaultdict(float)
        self.sum = self.count = 0.0
        self.request_bytes = self.response_bytes = 0.0
        self.mutual = self.weight = 0.0
        """What of the traffic was in mutual TLS, and all of it: requests, or bytes."""

    @property
    def requests(self) -> float:
        return sum(self.codes.values())

    @property
    def mtls(self) -> float:
        return self.mutual / self.weight if self.weight else 0.0


class _Reports:
    """All sides, by reporter."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.client: dict[_Key, _Side] = defaultdict(_Side)
        self.server: dict[_Key, _Side] = defaultdict(_Side)
        for sample in samples:
            labels = sample.series.labels
            sides = self.client if labels.reporter == "source" else self.server
            _count(sides[_key(sample)], sample)
        self._called = {key.pair for key in self.client}
        self._served: dict[_Pair, list[_Key]] = defaultdict(list)
        for key in sorted(self.server):
            self._served[key.pair].append(key)

    def merged(self) -> Iterator[tuple[_Key, _Side, _Side | None]]:
        """(key, whose numbers count, the server's side of them if it has one)."""
        for key, side in self.client.items():
            twin = self._twin(key)
            served = self.server[twin] if twin is not None else None
            if twin is not None and served is not None and twin.protocol == "grpc" != key.protocol:
                # Only the server saw that these requests were gRPC, and how they ended.
                yield twin._replace(host=key.host), served, served
            else:
                yield key, side, served
        for key, side in self.server.items():
            if not key.pair.source or key.pair not in self._called:
                yield key, side, side

    def _twin(self, key: _Key) -> _Key | None:
        """The server's report of the same calls.

        It may stand under another host, as a server names one service for each port, or under
        another protocol, where one side knew more than the other.
        """
        if not key.pair.destination:
            return None
        served = self._served.get(key.pair, ())
        return max(served, key=lambda k: _likeness(k, key), default=None)


def _likeness(one: _Key, other: _Key) -> tuple[bool, bool, bool]:
    return (
        one.protocol == other.protocol,
        (one.protocol == "tcp") == (other.protocol == "tcp"),
        one.host == other.host,
    )


def traffic(samples: Iterable[Sample], seconds: float) -> list[Traffic]:
    """Merge a window's increases; `seconds` is what rates are divided by. Sorted by who calls."""
    found: dict[_Key, Traffic] = {}
    for key, side, server in _Reports(samples).merged():
        if side.weight:
            found[key] = _traffic(key, side, server, seconds)
    return [found[key] for key in sorted(found)]


def _key(sample: Sample) -> _Key:
    labels = sample.series.labels
    protocol: Protocol = "tcp"
    if not sample.series.metric.startswith("istio_tcp_"):
        protocol = "grpc" if labels.request_protocol == "grpc" else "http"
    pair = _Pair(
        labels.source_workload_namespace if labels.source_workload else "",
        labels.source_workload,
        labels.destination_workload_namespace if labels.destination_workload else "",
        labels.destination_workload,
    )
    return _Key(pair, labels.destination_service, protocol)


def _count(side: _Side, sample: Sample) -> None:
    found, increase = sample
    labels = found.labels
    # Pods of one workload may differ while it is rolled out; the choice must not flicker.
    side.labels = max(side.labels, labels)
    match found.metric:
        case "istio_requests_total":
            side.codes[_code(labels)] += increase
            _secure(side, labels, increase)
        case "istio_request_duration_milliseconds_bucket" if found.bound is not None:
            side.buckets[found.bound] += increase
        case "istio_request_duration_milliseconds_sum":
            side.sum += increase
        case "istio_request_duration_milliseconds_count":
            side.count += increase
        case "istio_request_bytes_sum" | "istio_tcp_received_bytes_total":
            side.request_bytes += increase
        case "istio_response_bytes_sum" | "istio_tcp_sent_bytes_total":
            side.response_bytes += increase
    if found.metric.startswith("istio_tcp_"):
        # A connection weighs like a byte: bytes decide, but they are counted at its end.
        _secure(side, labels, increase)


def _secure(side: _Side, labels: Labels, weight: float) -> None:
    side.weight += weight
    if labels.connection_security_policy == "mutual_tls":
        side.mutual += weight


def _code(labels: Labels) -> tuple[str, str, bool]:
    """(the code as people know it, Envoy's flags, whether it is an error)."""
    flags = labels.response_flags or "-"
    if labels.request_protocol == "grpc" and labels.grpc_response_status:
        status = labels.grpc_response_status
        return status, flags, status != "0"
    code = labels.response_code
    if code in ("", "0"):
        return NO_ANSWER, flags, True
    return code, flags, code[0] in "45"


def _traffic(key: _Key, side: _Side, server: _Side | None, seconds: float) -> Traffic:
    timed = server if server is not None and server.count else side
    buckets = tuple(sorted(timed.buckets.items()))
    source, destination = _peers(key.pair, side.labels, server.labels if server else None)
    byte_rates = (side.request_bytes / seconds, side.response_bytes / seconds)
    return Traffic(
        source=source,
        destination=destination,
        host=key.host,
        service=side.labels.destination_service_name or key.host,
        service_namespace=side.labels.destination_service_namespace,
        protocol=key.protocol,
        rate=sum(byte_rates) if key.protocol == "tcp" else side.requests / seconds,
        codes=tuple(
            Code(code, flags, count / seconds, is_error)
            for (code, flags, is_error), count in sorted(side.codes.items())
        ),
        times=times(buckets, (timed.sum, timed.count)),
        buckets=buckets,
        seconds=(timed.sum, timed.count),
        request_bytes=byte_rates[0],
        response_bytes=byte_rates[1],
        mtls=server.mtls if server is not None else 0.0,
    )


def times(buckets: Iterable[tuple[float, float]], seconds: tuple[float, float]) -> Times:
    """Average and quantiles of a histogram."""
    total, count = seconds
    if not count:
        return Times()
    ordered = tuple(buckets)
    return Times(
        total / count, quantile(0.5, ordered), quantile(0.95, ordered), quantile(0.99, ordered)
    )


def _peers(pair: _Pair, side: Labels, server: Labels | None) -> tuple[Peer, Peer]:
    """Each end as it describes itself where it reports, and as the other sees it where not."""
    source = Peer()
    if pair.source:
        source = Peer(
            pair.source_namespace,
            pair.source,
            side.source_canonical_service or side.source_app or pair.source,
            _version(side.source_canonical_revision, side.source_version),
            server.source_principal if server else "",
            side.source_cluster,
        )
    if not pair.destination:
        return source, Peer()
    there = server or side
    destination = Peer(
        pair.destination_namespace,
        pair.destination,
        there.destination_canonical_service or there.destination_app or pair.destination,
        _version(there.destination_canonical_revision, there.destination_version),
        server.destination_principal if server else "",
        there.destination_cluster,
    )
    return source, destination


def _version(revision: str, label: str) -> str:
    return next((v for v in (revision, label) if v not in ("", _NO_VERSION)), "")

"""Edges of the graph: all traffic between two nodes, of one protocol, added up. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from meltemi.console import health as healths
from meltemi.console.nodes import Node, Step
from meltemi.console.types import CodeRate, GraphEdge, Health, Protocol, Rates, ResponseTime
from meltemi.telemetry.traffic import Traffic, times

_TRACE = 1e-9
"""Weighs a connection that has carried nothing yet."""


class Flow:
    """Adds up traffic from one node to another."""

    def __init__(self, source: Node, target: Node, protocol: Protocol) -> None:
        self.source = source
        self.target = target
        self.protocol = protocol
        self.rate = 0.0
        self._response_bytes = self._mtls = 0.0
        self._codes: dict[tuple[str, str, bool], float] = defaultdict(float)
        self._buckets: dict[float, float] = defaultdict(float)
        self._sum = self._count = 0.0
        self._principals = ("", "")

    @property
    def id(self) -> str:
        return f"{self.source.id}>{self.target.id}>{self.protocol}"

    @property
    def errors(self) -> float:
        return sum(rate for (_, _, is_error), rate in self._codes.items() if is_error)

    def add(self, piece: Traffic, share: float) -> None:
        self.rate += piece.rate * share
        self._response_bytes += piece.response_bytes * share
        # What carried nothing yet still says whether it was secure.
        self._mtls += (piece.rate or _TRACE) * share * piece.mtls
        for code in piece.codes:
            self._codes[code.code, code.flags, code.is_error] += code.rate * share
        for bound, count in piece.buckets:
            self._buckets[bound] += count * share
        self._sum += piece.seconds[0] * share
        self._count += piece.seconds[1] * share
        self._principals = (
            self._principals[0] or piece.source.principal,
            self._principals[1] or piece.destination.principal,
        )

    def by_code(self) -> Mapping[tuple[str, str], float]:
        """(protocol, code) to requests a second."""
        found: dict[tuple[str, str], float] = defaultdict(float)
        for (code, _, _), rate in self._codes.items():
            found[self.protocol, code] += rate
        return found

    def view(self, total: float) -> GraphEdge:
        """The edge as it is shown; `total` is what leaves the source in this protocol."""
        found = times(sorted(self._buckets.items()), (self._sum, self._count))
        return GraphEdge(
            id=self.id,
            source=self.source.id,
            target=self.target.id,
            protocol=self.protocol,
            rate=rounded(self.rate),
            error_share=rounded(self.errors / self.rate) if self.rate else 0.0,
            share=rounded(self.rate / total) if total else 0.0,
            response_time=ResponseTime(
                average=_maybe(found.average),
                p50=_maybe(found.p50),
                p95=_maybe(found.p95),
                p99=_maybe(found.p99),
            ),
            throughput=rounded(self._response_bytes),
            mtls_share=_part(self._mtls / (self.rate or _TRACE)),
            source_principal=self._principals[0],
            destination_principal=self._principals[1],
            codes=tuple(
                CodeRate(code=code, flags=flags, rate=rounded(rate))
                for (code, flags, _), rate in sorted(self._codes.items())
            ),
            health=healths.health_from_codes(self.by_code()),
        )


def flows(steps: Iterable[tuple[Traffic, Step]]) -> list[Flow]:
    """One flow for each pair of nodes and protocol, by id."""
    found: dict[tuple[str, str, Protocol], Flow] = {}
    for piece, step in steps:
        key = (step.source.id, step.target.id, piece.protocol)
        flow = found.get(key)
        if flow is None:
            flow = found[key] = Flow(step.source, step.target, piece.protocol)
        flow.add(piece, step.share)
    return sorted(found.values(), key=lambda flow: flow.id)


def views(all_flows: Iterable[Flow]) -> tuple[GraphEdge, ...]:
    """The edges, each with its part of what leaves its source."""
    listed = list(all_flows)
    totals: dict[tuple[str, Protocol], float] = defaultdict(float)
    for flow in listed:
        totals[flow.source.id, flow.protocol] += flow.rate
    return tuple(flow.view(totals[flow.source.id, flow.protocol]) for flow in listed)


def requests_health(some: Iterable[Flow]) -> Health:
    """Of all these flows' requests together."""
    rates: dict[tuple[str, str], float] = defaultdict(float)
    for flow in some:
        for key, rate in flow.by_code().items():
            rates[key] += rate
    return healths.health_from_codes(rates)


def rates_of(some: Iterable[Flow]) -> Rates:
    """What runs in these flows, by protocol."""
    sums: dict[Protocol, float] = {"http": 0.0, "grpc": 0.0, "tcp": 0.0}
    errors = 0.0
    for flow in some:
        sums[flow.protocol] += flow.rate
        errors += flow.errors
    return Rates(
        http=rounded(sums["http"]),
        grpc=rounded(sums["grpc"]),
        tcp=rounded(sums["tcp"]),
        errors=rounded(errors),
    )


def rounded(value: float) -> float:
    """Three decimals: what a person can read, and what keeps equal answers equal."""
    return round(value, 3)


def _maybe(value: float | None) -> float | None:
    return None if value is None else rounded(value)


def _part(value: float) -> float:
    """All is only said of all: a lock must not hide one request in the clear."""
    return 1.0 if value > 1 - 1e-6 else min(rounded(value), 0.999)

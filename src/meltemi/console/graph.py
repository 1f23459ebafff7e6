"""The traffic graph: from traffic and facts to nodes, boxes and edges. Pure.

Traffic is cut into pieces from node to node: to a service first, then from the service to the
workload that answered. Pieces of the same two nodes and protocol are one edge.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from meltemi.console import health as healths
from meltemi.console.facts import Facts, ServiceFacts, WorkloadFacts
from meltemi.console.types import (
    Badge,
    CodeRate,
    Graph,
    GraphBox,
    GraphEdge,
    GraphNode,
    GraphType,
    Health,
    NodeKind,
    Protocol,
    Rates,
    ResponseTime,
)
from meltemi.telemetry.traffic import Peer, Traffic, times

_OUTSIDE = ("PassthroughCluster", "BlackHoleCluster")


class _Node(msgspec.Struct, frozen=True):
    """Who a node stands for."""

    id: str
    kind: NodeKind
    label: str
    namespace: str = ""
    app: str = ""
    version: str = ""
    workload: str = ""
    service: str = ""


_UNKNOWN = _Node("unknown", "unknown", "unknown")


class _Edge:
    """Pieces between two nodes, of one protocol."""

    def __init__(self, source: _Node, target: _Node, protocol: Protocol) -> None:
        self.source = source
        self.target = target
        self.protocol = protocol
        self.rate = self.throughput = self.mtls = 0.0
        self.codes: dict[tuple[str, str, bool], float] = defaultdict(float)
        self.buckets: dict[float, float] = defaultdict(float)
        self.sum = self.count = 0.0
        self.principals = ("", "")

    def add(self, piece: Traffic) -> None:
        self.rate += piece.rate
        self.throughput += piece.throughput
        self.mtls += piece.rate * piece.mtls
        for code in piece.codes:
            self.codes[code.code, code.flags, code.is_error] += code.rate
        for bound, count in piece.buckets:
            self.buckets[bound] += count
        self.sum += piece.seconds[0]
        self.count += piece.seconds[1]
        self.principals = (
            self.principals[0] or piece.source.principal,
            self.principals[1] or piece.destination.principal,
        )

    @property
    def id(self) -> str:
        return f"{self.source.id}>{self.target.id}>{self.protocol}"

    @property
    def errors(self) -> float:
        return sum(rate for (_, _, is_error), rate in self.codes.items() if is_error)

    def by_code(self) -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], float] = defaultdict(float)
        for (code, _, _), rate in self.codes.items():
            found[self.protocol, code] += rate
        return found


def graph(
    traffic: Iterable[Traffic],
    facts: Facts,
    *,
    namespaces: Sequence[str],
    graph_type: GraphType,
    at: str,
    duration: float,
) -> Graph:
    """Nodes and edges of the traffic that touches `namespaces` (none: all)."""
    wanted = frozenset(namespaces)
    edges: dict[tuple[str, str, Protocol], _Edge] = {}
    for piece in traffic:
        touched = {piece.source.namespace, piece.destination.namespace, piece.service_namespace}
        if wanted and not touched & wanted:
            continue
        for source, target in _pieces(piece, graph_type):
            key = (source.id, target.id, piece.protocol)
            edge = edges.setdefault(key, _Edge(source, target, piece.protocol))
            edge.add(piece)
    nodes = {n.id: n for edge in edges.values() for n in (edge.source, edge.target)}
    boxes = _boxes(nodes.values(), graph_type)
    views = _nodes(nodes, list(edges.values()), facts, boxes, wanted)
    return Graph(
        at=at,
        duration=duration,
        graph_type=graph_type,
        namespaces=tuple(sorted(wanted)),
        boxes=_box_views(boxes, views),
        nodes=tuple(views),
        edges=_edges(list(edges.values())),
    )


def _pieces(piece: Traffic, graph_type: GraphType) -> Iterable[tuple[_Node, _Node]]:
    """The steps of one call, as this type of graph draws them."""
    source = _peer_node(piece.source, graph_type)
    service = _service_node(piece)
    if graph_type == "service":
        # Workloads that call are drawn by their service's name; callers without one stay.
        caller = _as_service(piece.source) if piece.source.is_known else _UNKNOWN
        return [(caller, service or _peer_node(piece.destination, "app"))]
    if service is None:
        return [(source, _peer_node(piece.destination, graph_type))]
    if not piece.destination.is_known:
        return [(source, service)]
    return [(source, service), (service, _peer_node(piece.destination, graph_type))]


def _peer_node(peer: Peer, graph_type: GraphType) -> _Node:
    if not peer.is_known:
        return _UNKNOWN
    space = peer.namespace
    if graph_type == "workload":
        return _Node(
            f"workload/{space}/{peer.workload}",
            "workload",
            peer.workload,
            namespace=space,
            app=peer.app,
            version=peer.version,
            workload=peer.workload,
        )
    if graph_type == "versionedApp":
        return _Node(
            f"app/{space}/{peer.app}/{peer.version}",
            "app",
            peer.version or peer.app,
            namespace=space,
            app=peer.app,
            version=peer.version,
            workload=peer.workload,
        )
    return _Node(f"app/{space}/{peer.app}", "app", peer.app, namespace=space, app=peer.app)


def _as_service(peer: Peer) -> _Node:
    return _Node(
        f"service/{peer.namespace}/{peer.app}",
        "service",
        peer.app,
        namespace=peer.namespace,
        service=peer.app,
    )


def _service_node(piece: Traffic) -> _Node | None:
    if piece.host in _OUTSIDE or piece.service in _OUTSIDE:
        return _Node(f"service//{piece.service}", "service", piece.service, service=piece.service)
    if not piece.service or not piece.service_namespace:
        return None
    return _Node(
        f"service/{piece.service_namespace}/{piece.service}",
        "service",
        piece.service,
        namespace=piece.service_namespace,
        service=piece.service,
    )


class _Boxes(msgspec.Struct, frozen=True):
    """Frames, and which node stands in which."""

    frames: dict[str, GraphBox]
    parent: dict[str, str]


def _boxes(nodes: Iterable[_Node], graph_type: GraphType) -> _Boxes:
    """A frame for each app in a graph of versions, and for each namespace if there are several."""
    found = list(nodes)
    frames: dict[str, GraphBox] = {}
    parent: dict[str, str] = {}
    spaces = {n.namespace for n in found if n.namespace}
    if len(spaces) > 1:
        for space in sorted(spaces):
            box = f"namespace/{space}"
            frames[box] = _frame(box, "namespace", space, space, None)
            parent |= {n.id: box for n in found if n.namespace == space}
    if graph_type == "versionedApp":
        for node in found:
            if node.kind == "app":
                box = f"box/{node.namespace}/{node.app}"
                above = parent.get(node.id)
                outer = above if above in frames and above.startswith("namespace/") else None
                if box not in frames:
                    frames[box] = _frame(box, "app", node.app, node.namespace, outer)
                parent[node.id] = box
    return _Boxes(frames, parent)


def _frame(box: str, kind: str, label: str, namespace: str, parent: str | None) -> GraphBox:
    return GraphBox(
        id=box,
        kind="namespace" if kind == "namespace" else "app",
        label=label,
        namespace=namespace,
        parent=parent,
        health=healths.UNKNOWN,
    )


def _box_views(boxes: _Boxes, nodes: Sequence[GraphNode]) -> tuple[GraphBox, ...]:
    inside: dict[str, list[Health]] = defaultdict(list)
    for node in nodes:
        box: str | None = node.parent
        while box is not None:
            inside[box].append(node.health)
            box = boxes.frames[box].parent
    return tuple(
        msgspec.structs.replace(frame, health=healths.worst(inside[frame.id]))
        for _, frame in sorted(boxes.frames.items())
    )


def _nodes(
    nodes: dict[str, _Node],
    edges: Sequence[_Edge],
    facts: Facts,
    boxes: _Boxes,
    wanted: frozenset[str],
) -> list[GraphNode]:
    inbound: dict[str, list[_Edge]] = defaultdict(list)
    outbound: dict[str, list[_Edge]] = defaultdict(list)
    for edge in edges:
        outbound[edge.source.id].append(edge)
        inbound[edge.target.id].append(edge)
    return [
        _node(node, inbound[node.id], outbound[node.id], facts, boxes, wanted)
        for _, node in sorted(nodes.items())
    ]


def _node(
    node: _Node,
    inbound: Sequence[_Edge],
    outbound: Sequence[_Edge],
    facts: Facts,
    boxes: _Boxes,
    wanted: frozenset[str],
) -> GraphNode:
    pods = _workloads_of(node, facts)
    kind: NodeKind = "gateway" if any(w.is_gateway for w in pods) else node.kind
    badges: list[Badge] = []
    if pods and all(w.in_mesh == 0 for w in pods) and kind != "gateway":
        badges.append("missing-sidecar")
    if kind == "gateway":
        badges.append("gateway")
    if node.kind == "service":
        badges += _service_badges(facts.services.get((node.namespace, node.service)))
    if not inbound and outbound:
        badges.append("root")
    if wanted and node.namespace and node.namespace not in wanted:
        badges.append("outside")
    own = [_requests(inbound), _requests(outbound)]
    own += [healths.health_from_pods(w.pods, w.ready) for w in pods]
    return GraphNode(
        id=node.id,
        kind=kind,
        label=node.label,
        namespace=node.namespace,
        app=node.app,
        version=node.version,
        workload=node.workload,
        service=node.service,
        parent=boxes.parent.get(node.id),
        health=healths.worst(own),
        badges=tuple(badges),
        inbound=_rates(inbound),
        outbound=_rates(outbound),
    )


def _workloads_of(node: _Node, facts: Facts) -> Sequence[WorkloadFacts]:
    if node.workload:
        found = facts.workloads.get((node.namespace, node.workload))
        return [found] if found is not None else []
    if node.kind == "app":
        return [
            w
            for (space, _), w in facts.workloads.items()
            if space == node.namespace and w.app == node.app
        ]
    return []


def _service_badges(service: ServiceFacts | None) -> list[Badge]:
    if service is None:
        return []
    pairs: list[tuple[bool, Badge]] = [
        (service.has_routes, "virtual-service"),
        (service.has_circuit_breaker, "circuit-breaker"),
        (service.has_fault, "fault-injection"),
        (service.has_mirror, "mirroring"),
        (service.shifts_traffic, "traffic-shifting"),
    ]
    return [badge for holds, badge in pairs if holds]


def _requests(edges: Sequence[_Edge]) -> Health:
    rates: dict[tuple[str, str], float] = defaultdict(float)
    for edge in edges:
        for key, rate in edge.by_code().items():
            rates[key] += rate
    return healths.health_from_codes(rates)


def _rates(edges: Sequence[_Edge]) -> Rates:
    sums: dict[Protocol, float] = {"http": 0.0, "grpc": 0.0, "tcp": 0.0}
    for edge in edges:
        sums[edge.protocol] += edge.rate
    return Rates(
        http=_round(sums["http"]),
        grpc=_round(sums["grpc"]),
        tcp=_round(sums["tcp"]),
        errors=_round(sum(edge.errors for edge in edges)),
    )


def _edges(edges: Sequence[_Edge]) -> tuple[GraphEdge, ...]:
    totals: dict[tuple[str, Protocol], float] = defaultdict(float)
    for edge in edges:
        totals[edge.source.id, edge.protocol] += edge.rate
    return tuple(
        _edge(edge, totals[edge.source.id, edge.protocol])
        for edge in sorted(edges, key=lambda e: e.id)
    )


def _edge(edge: _Edge, total: float) -> GraphEdge:
    found = times(sorted(edge.buckets.items()), (edge.sum, edge.count))
    return GraphEdge(
        id=edge.id,
        source=edge.source.id,
        target=edge.target.id,
        protocol=edge.protocol,
        rate=_round(edge.rate),
        error_share=_round(edge.errors / edge.rate) if edge.rate else 0.0,
        share=_round(edge.rate / total) if total else 0.0,
        response_time=ResponseTime(
            average=_maybe(found.average),
            p50=_maybe(found.p50),
            p95=_maybe(found.p95),
            p99=_maybe(found.p99),
        ),
        throughput=_round(edge.throughput),
        mtls_share=_round(edge.mtls / edge.rate) if edge.rate else 0.0,
        source_principal=edge.principals[0],
        destination_principal=edge.principals[1],
        codes=tuple(
            CodeRate(code=code, flags=flags, rate=_round(rate))
            for (code, flags, _), rate in sorted(edge.codes.items())
        ),
        health=healths.health_from_codes(edge.by_code()),
    )


def _maybe(value: float | None) -> float | None:
    return None if value is None else _round(value)


def _round(value: float) -> float:
    """Three decimals: what a person can read, and what keeps equal answers equal."""
    return round(value, 3)

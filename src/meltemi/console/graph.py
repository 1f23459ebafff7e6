"""The traffic graph: from traffic and facts to nodes, boxes and edges. Pure.

`nodes` says through which nodes a call runs, `flows` adds calls up to edges, `boxes` frames nodes;
here they meet what is known of the configuration.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from meltemi.console import boxes as frames
from meltemi.console import flows
from meltemi.console import health as healths
from meltemi.console.facts import Facts, ServiceFacts, WorkloadFacts
from meltemi.console.flows import Flow
from meltemi.console.nodes import Node, Steps, named_service, peer_node, with_facts
from meltemi.console.types import Badge, Graph, GraphNode, GraphType, NodeKind
from meltemi.telemetry.traffic import Peer, Traffic


class _Around(msgspec.Struct, frozen=True):
    """What surrounds the nodes of one graph."""

    facts: Facts
    graph_type: GraphType
    wanted: frozenset[str]
    """Namespaces; none: all."""
    of_app: Mapping[tuple[str, str], Sequence[str]]
    """Workloads by namespace and application."""
    parent: Mapping[str, str]
    inbound: Mapping[str, list[Flow]]
    outbound: Mapping[str, list[Flow]]


def graph(
    traffic: Iterable[Traffic],
    facts: Facts,
    *,
    namespaces: Sequence[str],
    graph_type: GraphType,
    at: str,
    duration: float,
    idle_nodes: bool = False,
) -> Graph:
    """Nodes and edges of the traffic that touches `namespaces` (none: all).

    `idle_nodes` adds the services and workloads of these namespaces that have no traffic.
    """
    wanted = frozenset(namespaces)
    pieces = [with_facts(piece, facts) for piece in traffic]
    steps = Steps(pieces, graph_type)
    shown = [piece for piece in pieces if not wanted or _touches(piece, wanted)]
    edges = flows.flows((piece, step) for piece in shown for step in steps.of(piece))
    nodes = {node.id: node for edge in edges for node in (edge.source, edge.target)}
    if idle_nodes:
        nodes = {node.id: node for node in _defined(facts, graph_type, wanted)} | nodes
    ordered = [nodes[name] for name in sorted(nodes)]
    made = frames.boxes(ordered, graph_type)
    around = _Around(facts, graph_type, wanted, _of_app(facts), made.parent, *_by_end(edges))
    views = tuple(_node(node, around) for node in ordered)
    return Graph(
        at=at,
        duration=duration,
        graph_type=graph_type,
        namespaces=tuple(sorted(wanted)),
        boxes=frames.views(made, views),
        nodes=views,
        edges=flows.views(edges),
    )


def _touches(piece: Traffic, wanted: frozenset[str]) -> bool:
    ends = {piece.source.namespace, piece.destination.namespace, piece.service_namespace}
    return not wanted.isdisjoint(ends)


def _defined(facts: Facts, graph_type: GraphType, wanted: frozenset[str]) -> Iterator[Node]:
    """The nodes of everything that exists, traffic or not."""
    for space, name in facts.services:
        if not wanted or space in wanted:
            yield named_service(space, name)
    if graph_type == "service":
        return
    for (space, name), known in facts.workloads.items():
        if not wanted or space in wanted:
            yield peer_node(Peer(space, name, known.app, known.version), graph_type)


def _by_end(
    edges: Iterable[Flow],
) -> tuple[Mapping[str, list[Flow]], Mapping[str, list[Flow]]]:
    inbound: dict[str, list[Flow]] = defaultdict(list)
    outbound: dict[str, list[Flow]] = defaultdict(list)
    for edge in edges:
        outbound[edge.source.id].append(edge)
        inbound[edge.target.id].append(edge)
    return inbound, outbound


def _node(node: Node, around: _Around) -> GraphNode:
    inbound = around.inbound.get(node.id, [])
    outbound = around.outbound.get(node.id, [])
    workloads = _workloads_of(node, around)
    is_gateway = any(known.is_gateway for known in workloads.values())
    kind: NodeKind = "gateway" if is_gateway else node.kind
    health = healths.UNKNOWN
    if node.kind != "unknown":
        found = [flows.requests_health(inbound), flows.requests_health(outbound)]
        found += [healths.health_from_pods(w.pods, w.ready) for w in workloads.values()]
        health = healths.worst(found)
    return GraphNode(
        id=node.id,
        kind=kind,
        label=node.label,
        namespace=node.namespace,
        app=node.app,
        version=node.version,
        workload=node.workload or (next(iter(workloads)) if len(workloads) == 1 else ""),
        service=node.service,
        parent=around.parent.get(node.id),
        health=health,
        badges=tuple(_badges(node, around, workloads, kind)),
        inbound=flows.rates_of(inbound),
        outbound=flows.rates_of(outbound),
    )


def _of_app(facts: Facts) -> Mapping[tuple[str, str], Sequence[str]]:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (space, name), known in sorted(facts.workloads.items()):
        found[space, known.app].append(name)
    return found


def _workloads_of(node: Node, around: _Around) -> Mapping[str, WorkloadFacts]:
    """The workloads that a node stands for, by name."""
    names: Sequence[str] = [node.workload]
    if node.kind == "app":
        names = around.of_app.get((node.namespace, node.app), ())
    found: dict[str, WorkloadFacts] = {}
    for name in names:
        known = around.facts.workloads.get((node.namespace, name))
        if known is None:
            continue
        if around.graph_type != "versionedApp" or known.version == node.version:
            found[name] = known
    return found


def _badges(
    node: Node, around: _Around, workloads: Mapping[str, WorkloadFacts], kind: NodeKind
) -> Iterator[Badge]:
    if kind == "gateway":
        yield "gateway"
    elif workloads and all(known.in_mesh == 0 for known in workloads.values()):
        yield "missing-sidecar"
    if node.kind == "service":
        service = around.facts.services.get((node.namespace, node.service))
        yield from _service_badges(service or ServiceFacts())
    if node.id in around.outbound and node.id not in around.inbound:
        yield "root"
    if around.wanted and node.namespace and node.namespace not in around.wanted:
        yield "outside"


def _service_badges(service: ServiceFacts) -> Iterator[Badge]:
    if service.has_routes:
        yield "virtual-service"
    if service.has_circuit_breaker:
        yield "circuit-breaker"
    if service.has_fault:
        yield "fault-injection"
    if service.has_mirror:
        yield "mirroring"
    if service.shifts_traffic:
        yield "traffic-shifting"

"""Which nodes a piece of traffic runs through, in each type of graph. Pure.

A call goes to a service first, then from the service to the workload that answered, so that one
sees what was asked for and what was done. In the graph of services the workloads fall away:
a caller is drawn as the service it serves, and stays itself where it serves none.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from meltemi.console.facts import Facts
from meltemi.console.types import GraphType, NodeKind
from meltemi.telemetry.traffic import Peer, Traffic

EGRESS = ("PassthroughCluster", "BlackHoleCluster")
"""Services that are none: calls to hosts outside the mesh, let through or refused."""


class Node(msgspec.Struct, frozen=True):
    """Who a node stands for; `id` is the same in every answer."""

    id: str
    kind: NodeKind
    label: str
    namespace: str = ""
    app: str = ""
    version: str = ""
    workload: str = ""
    service: str = ""


class Step(msgspec.Struct, frozen=True):
    """Traffic from one node to the next."""

    source: Node
    target: Node
    share: float = 1.0
    """0 to 1: the part of the traffic that goes this way."""


UNKNOWN_SOURCE = Node("unknown", "unknown", "unknown")
UNKNOWN_TARGET = Node("service//unknown", "unknown", "unknown")
"""Another node than the source: they have nothing to do with each other."""


def with_facts(traffic: Traffic, facts: Facts) -> Traffic:
    """Application and version as the mesh knows them: reporters may see different labels."""
    return msgspec.structs.replace(
        traffic,
        source=_corrected(traffic.source, facts),
        destination=_corrected(traffic.destination, facts),
    )


def _corrected(peer: Peer, facts: Facts) -> Peer:
    known = facts.workloads.get((peer.namespace, peer.workload))
    if known is None:
        return peer
    return msgspec.structs.replace(peer, app=known.app, version=known.version)


class Steps:
    """Cuts traffic into steps from node to node."""

    def __init__(self, traffic: Iterable[Traffic], graph_type: GraphType) -> None:
        self._type = graph_type
        self._services: dict[tuple[str, str], dict[str, Node]] = defaultdict(dict)
        """By workload: the services it answers for."""
        for piece in traffic:
            service = service_node(piece)
            if service is not None and piece.destination.is_known:
                key = (piece.destination.namespace, piece.destination.workload)
                self._services[key][service.id] = service

    def of(self, piece: Traffic) -> Sequence[Step]:
        """One call's way through the graph."""
        if self._type == "service":
            return self._between_services(piece)
        source = self._node(piece.source) or UNKNOWN_SOURCE
        service = service_node(piece)
        answering = self._node(piece.destination)
        if service is None:
            return [Step(source, answering or UNKNOWN_TARGET)]
        if answering is None:
            return [Step(source, service)]
        return [Step(source, service), Step(service, answering)]

    def _between_services(self, piece: Traffic) -> Sequence[Step]:
        target = service_node(piece) or self._node(piece.destination) or UNKNOWN_TARGET
        key = (piece.source.namespace, piece.source.workload)
        serving = self._services.get(key)
        if not serving:
            return [Step(self._node(piece.source) or UNKNOWN_SOURCE, target)]
        # Which of its services a workload was serving when it called, nobody knows.
        return [Step(node, target, 1 / len(serving)) for _, node in sorted(serving.items())]

    def _node(self, peer: Peer) -> Node | None:
        return peer_node(peer, self._type) if peer.is_known else None


def peer_node(peer: Peer, graph_type: GraphType) -> Node:
    """The node of a workload."""
    space = peer.namespace
    match graph_type:
        case "app":
            return Node(f"app/{space}/{peer.app}", "app", peer.app, space, peer.app)
        case "versionedApp":
            label = peer.version or peer.app
            name = f"app/{space}/{peer.app}/{peer.version}"
            return Node(name, "app", label, space, peer.app, peer.version)
        case "workload" | "service":
            name = f"workload/{space}/{peer.workload}"
            return Node(
                name, "workload", peer.workload, space, peer.app, peer.version, peer.workload
            )


def service_node(piece: Traffic) -> Node | None:
    """The node of the service that was asked for; None where no service was."""
    if piece.host in EGRESS:
        return Node(f"service//{piece.host}", "service", piece.host, service=piece.host)
    if not piece.service or not piece.service_namespace:
        return None
    return named_service(piece.service_namespace, piece.service)


def named_service(namespace: str, name: str) -> Node:
    return Node(f"service/{namespace}/{name}", "service", name, namespace, service=name)

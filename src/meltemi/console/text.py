"""The graph in a terminal."""

from collections.abc import Sequence

from meltemi.console.types import Graph, GraphEdge, GraphNode

HEADER = ("SOURCE", "DESTINATION", "PROTOCOL", "RATE", "ERRORS", "P95", "MTLS")


def rows(graph: Graph) -> Sequence[Sequence[str]]:
    """One row an edge: who, whom, how much, how well."""
    names = {node.id: _name(node) for node in graph.nodes}
    return [_row(edge, names[edge.source], names[edge.target]) for edge in graph.edges]


def _row(edge: GraphEdge, source: str, target: str) -> Sequence[str]:
    p95 = edge.response_time.p95
    return (
        source,
        target,
        edge.protocol,
        _rate(edge),
        "-" if edge.protocol == "tcp" else f"{edge.error_share * 100:.1f} %",
        "-" if p95 is None else f"{p95:.0f} ms",
        f"{edge.mtls_share * 100:.0f} %",
    )


def _name(node: GraphNode) -> str:
    shown = node.app or node.label
    name = f"{shown} {node.version}" if node.version and node.version != shown else shown
    if node.workload and node.kind == "workload":
        name = node.workload
    place = f".{node.namespace}" if node.namespace else ""
    return f"{name}{place} (service)" if node.kind == "service" else f"{name}{place}"


def _rate(edge: GraphEdge) -> str:
    return f"{edge.rate:.0f} B/s" if edge.protocol == "tcp" else f"{edge.rate:.2f} /s"

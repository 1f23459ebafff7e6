"""The graph in a terminal."""

from rich.table import Table

from meltemi.console.types import Graph, GraphEdge


def render(graph: Graph) -> Table:
    """One row an edge: who, whom, how much, how well."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("SOURCE", "DESTINATION", "PROTOCOL"):
        table.add_column(name, no_wrap=True)
    for name in ("RATE", "ERRORS", "P95", "MTLS"):
        table.add_column(name, justify="right", no_wrap=True)
    names = {node.id: _name(node.namespace, node.app or node.label, node.version) for node in
             graph.nodes}  # fmt: skip
    for edge in graph.edges:
        table.add_row(
            names[edge.source],
            names[edge.target] + (" (service)" if edge.target.startswith("service/") else ""),
            edge.protocol,
            _rate(edge),
            f"{edge.error_share * 100:.1f} %" if edge.protocol != "tcp" else "-",
            f"{edge.response_time.p95:.0f} ms" if edge.response_time.p95 is not None else "-",
            f"{edge.mtls_share * 100:.0f} %",
            style="red" if edge.health.status == "failure" else None,
        )
    return table


def _name(namespace: str, label: str, version: str) -> str:
    name = f"{label} {version}" if version and version != label else label
    return f"{name}.{namespace}" if namespace else name


def _rate(edge: GraphEdge) -> str:
    return f"{edge.rate:.0f} B/s" if edge.protocol == "tcp" else f"{edge.rate:.2f} /s"

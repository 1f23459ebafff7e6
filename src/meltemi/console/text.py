"""The graph in a terminal."""

from rich.table import Table
from rich.text import Text

from meltemi.console.types import Graph, GraphEdge, GraphNode


def render(graph: Graph) -> Table:
    """One row an edge: who, whom, how much, how well."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("SOURCE", "DESTINATION"):
        table.add_column(name, overflow="fold")
    # Numbers are never cut; where the terminal is narrow, names take a second line.
    table.add_column("PROTOCOL", min_width=8)
    for name, width in (("RATE", 9), ("ERRORS", 7), ("P95", 8), ("MTLS", 5)):
        table.add_column(name, justify="right", min_width=width)
    names = {node.id: _name(node) for node in graph.nodes}
    for edge in graph.edges:
        is_tcp = edge.protocol == "tcp"
        p95 = edge.response_time.p95
        cells = (
            names[edge.source],
            names[edge.target],
            edge.protocol,
            _rate(edge),
            "-" if is_tcp else f"{edge.error_share * 100:.1f} %",
            "-" if p95 is None else f"{p95:.0f} ms",
            f"{edge.mtls_share * 100:.0f} %",
        )
        # Names come from metrics: they are shown as they are, never read as rich's markup.
        style = {"failure": "red", "degraded": "yellow"}.get(edge.health.status)
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def _name(node: GraphNode) -> str:
    shown = node.app or node.label
    name = f"{shown} {node.version}" if node.version and node.version != shown else shown
    if node.workload and node.kind == "workload":
        name = node.workload
    place = f".{node.namespace}" if node.namespace else ""
    return f"{name}{place} (service)" if node.kind == "service" else f"{name}{place}"


def _rate(edge: GraphEdge) -> str:
    return f"{edge.rate:.0f} B/s" if edge.protocol == "tcp" else f"{edge.rate:.2f} /s"

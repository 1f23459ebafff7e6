"""Proxies by the names that traces and cases give them."""

from meltemi.base.resource import NodeInfo
from meltemi.simulate.world import World, node_of


def node_at(mesh: World, place: str) -> NodeInfo | None:
    """What the proxy of `NAME[.NS]` would say of itself; None for nobody's."""
    if not place:
        return None
    name, _, namespace = place.partition(".")
    return node_of(mesh.workload(name, namespace or "default"), mesh.domain)

"""Which endpoints a cluster may choose, how often, and how it speaks to them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from meltemi.compile import ir
from meltemi.model.endpoint import Endpoint
from meltemi.simulate.request import Connection
from meltemi.simulate.trace import Place

Resolver = Callable[[str], str]
"""A name that Envoy resolves to its address."""


class Balanced(NamedTuple):
    places: tuple[Place, ...]
    """Those that take requests, each with its share."""
    standby: tuple[Place, ...] = ()
    """Those of lower priority, used as the endpoints before them fail."""


def balanced(
    cluster: ir.Cluster,
    groups: Sequence[ir.EndpointGroup],
    connection: Connection,
    named: tuple[str, int],
    resolver: Resolver,
) -> Balanced:
    """The endpoints of a cluster while all of them are well. `named`: host and port that the
    traffic itself names."""
    match cluster.discovery:
        case ir.Discovery.ORIGINAL:
            return Balanced((_elsewhere(cluster, connection.address, connection.port),))
        case ir.Discovery.DYNAMIC:
            return Balanced((_elsewhere(cluster, resolver(named[0]), named[1]),))
        case ir.Discovery.DNS | ir.Discovery.DNS_ONE:
            return _grouped(cluster, cluster.groups, resolver)
        case ir.Discovery.ENDPOINTS:
            return _grouped(cluster, groups, lambda address: address)


def _grouped(
    cluster: ir.Cluster, groups: Sequence[ir.EndpointGroup], resolver: Resolver
) -> Balanced:
    """The first priority that has endpoints takes everything; localities count by their weight
    where the cluster says so, otherwise endpoints by theirs."""
    filled = sorted((g for g in groups if g.endpoints), key=lambda g: g.priority)
    if not filled:
        return Balanced(())
    first = [g for g in filled if g.priority == filled[0].priority]
    total = sum(_weight(cluster, g) for g in first) or 1
    taking = tuple(
        _place(cluster, e, _weight(cluster, g) / total * _share(g, e), filled[0].priority, resolver)
        for g in first
        for e in g.endpoints
    )
    spare = tuple(
        _place(cluster, e, 0.0, g.priority, resolver)
        for g in filled[len(first) :]
        for e in g.endpoints
    )
    return Balanced(taking, spare)


def _weight(cluster: ir.Cluster, group: ir.EndpointGroup) -> float:
    return group.weight if cluster.weighs_localities else sum(e.weight for e in group.endpoints)


def _share(group: ir.EndpointGroup, endpoint: Endpoint) -> float:
    return endpoint.weight / (sum(e.weight for e in group.endpoints) or 1)


def _elsewhere(cluster: ir.Cluster, address: str, port: int) -> Place:
    """An endpoint that only the request or the connection knows."""
    security = _SECURITY[cluster.security]
    return Place(address, port, 1.0, security=security, sni=_sni(cluster, security))


def _place(
    cluster: ir.Cluster, endpoint: Endpoint, share: float, priority: int, resolver: Resolver
) -> Place:
    security = _SECURITY[cluster.security]
    if cluster.security is ir.Security.AUTO:
        security = "mutual" if endpoint.mtls else "plain"
    return Place(
        address=resolver(endpoint.address),
        port=endpoint.port,
        share=share,
        workload=endpoint.workload,
        locality=endpoint.locality,
        priority=priority,
        security=security,
        sni=_sni(cluster, security),
    )


def _sni(cluster: ir.Cluster, security: str) -> str:
    return cluster.tls.sni if security == "mutual" else ""


_SECURITY = {
    ir.Security.AUTO: "plain",
    ir.Security.MUTUAL: "mutual",
    ir.Security.PLAIN: "plain",
    ir.Security.ORIGINATE: "tls",
}

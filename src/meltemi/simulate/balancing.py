"""Which endpoints a cluster may choose, how often, and how it speaks to them."""

from collections.abc import Sequence

from meltemi.compile import ir
from meltemi.model.endpoint import Endpoint
from meltemi.simulate.request import Connection
from meltemi.simulate.trace import Place


def places(
    cluster: ir.Cluster, endpoints: Sequence[Endpoint], connection: Connection
) -> tuple[Place, ...]:
    """The endpoints that take requests, each with its share."""
    if cluster.discovery is ir.Discovery.ORIGINAL:
        return (_original(cluster, connection),)
    total = sum(e.weight for e in endpoints)
    return tuple(_place(cluster, e, e.weight / total) for e in endpoints)


def _original(cluster: ir.Cluster, connection: Connection) -> Place:
    security = _SECURITY[cluster.security]
    return Place(
        connection.address,
        connection.port,
        1.0,
        security=security,
        sni=cluster.tls.sni if security == "mutual" else "",
    )


def _place(cluster: ir.Cluster, endpoint: Endpoint, share: float) -> Place:
    security = _SECURITY[cluster.security]
    if cluster.security is ir.Security.AUTO:
        security = "mutual" if endpoint.mtls else "plain"
    return Place(
        address=endpoint.address,
        port=endpoint.port,
        share=share,
        workload=endpoint.workload,
        locality=endpoint.locality,
        security=security,
        sni=cluster.tls.sni if security == "mutual" else "",
    )


_SECURITY = {
    ir.Security.AUTO: "plain",
    ir.Security.MUTUAL: "mutual",
    ir.Security.PLAIN: "plain",
    ir.Security.ORIGINATE: "tls",
}

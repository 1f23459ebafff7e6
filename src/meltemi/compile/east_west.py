"""Clusters of east-west gateways: TLS of the mesh goes on, unopened, to the service its SNI names.

Only the gateways with an AUTO_PASSTHROUGH server have them. They stand beside the ordinary
clusters and differ in their name (`outbound_.80_._.host`), in that they add no TLS of their own,
and in that only endpoints which take mutual TLS are there (mesh-semantics 1.4, 1.19).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from meltemi.base.problems import Outcome
from meltemi.compile import ir, names
from meltemi.compile.plan.locality import only
from meltemi.compile.planner import Planner
from meltemi.compile.scope import ScopeKey
from meltemi.compile.views import Variant, Views
from meltemi.compile.visibility import Pair
from meltemi.flow import Distinct, Fetch, Graph, View
from meltemi.model.build import Model
from meltemi.model.gateway import AutoPassthrough, GatewayDef
from meltemi.model.policy import Blocks
from meltemi.model.service import Protocol


class EastWest(NamedTuple):
    """Which services a scope passes traffic to, each under the policy it applies."""

    choices: View[Pair, Variant]
    variants: Distinct[Any, Variant]


def east_west(graph: Graph, model: Model, views: Views) -> EastWest:
    """Add the views; they are empty as long as no gateway passes traffic by name."""
    passing = graph.derive(
        "east-west scopes",
        views.scopes,
        lambda fetch, scope, _: (
            {scope: Outcome(True)} if passes(scope, fetch.all(model.gateways)) else {}
        ),
        reads=(model.gateways,),
    )

    def chosen(fetch: Fetch, pair: Pair, variant: Variant) -> Mapping[Pair, Outcome[Variant]]:
        return {pair: Outcome(variant)} if fetch.get(passing, pair.scope) else {}

    of_gateways = graph.select(
        "choices of gateways", views.choices, lambda pair, _: pair.scope.kind == "router"
    )
    choices = graph.derive("east-west choices", of_gateways, chosen, reads=(passing,))
    return EastWest(choices, graph.distinct("east-west variants", choices))


def passes(scope: ScopeKey, gateways: Sequence[GatewayDef]) -> bool:
    """Whether some Gateway makes the scope's proxies pass traffic by name."""
    labels = dict(scope.labels).items()
    return scope.kind == "router" and any(
        gateway.selector.items() <= labels
        and any(isinstance(server.tls, AutoPassthrough) for server in gateway.servers)
        for gateway in gateways
    )


def named_clusters(planner: Planner, fetch: Fetch, variant: Variant) -> tuple[ir.Cluster, ...]:
    """The clusters under their SNI names, where Envoy knows the endpoints."""
    return tuple(
        msgspec.structs.replace(
            cluster,
            name=names.sni_cluster(cluster.port, cluster.subset, cluster.host),
            protocol=Protocol.TCP,
            security=ir.Security.PLAIN,
            blocks=_bare(cluster.blocks),
        )
        for cluster in planner.clusters(fetch, variant)
        if cluster.discovery is ir.Discovery.ENDPOINTS
    )


def _bare(blocks: Blocks) -> Blocks:
    """What holds for bytes nobody looks into: no TLS, no hash of a request."""
    return msgspec.structs.replace(blocks, tls=None)


def named_assignments(
    planner: Planner, fetch: Fetch, variant: Variant
) -> tuple[ir.Assignment, ...]:
    """The endpoints that end mutual TLS themselves."""
    found = []
    for assignment in planner.assignments(fetch, variant, passes=True):
        parts = names.parse(assignment.cluster)
        if parts is not None:
            name = names.sni_cluster(parts.port, parts.subset, parts.host)
            mutual = only(assignment.groups, lambda endpoint: endpoint.mtls)
            found.append(msgspec.structs.replace(assignment, cluster=name, groups=mutual))
    return tuple(found)

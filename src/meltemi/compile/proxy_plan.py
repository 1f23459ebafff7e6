"""The plan of one proxy, gathered for those who ask: the simulator and whoever explains.

Nothing here decides anything: the planner's functions, which the sealed views run too, are asked
again for one proxy. The graph so needs to keep no plan in memory.
"""

from collections import defaultdict

from meltemi.base.resource import NodeInfo
from meltemi.compile import ir
from meltemi.compile.planner import Planner
from meltemi.compile.scope import ScopeKey
from meltemi.compile.views import Views
from meltemi.flow import Fetch, View
from meltemi.model.endpoint import Endpoint


def plan_of(
    planner: Planner, views: Views, proxies: View[str, NodeInfo], node_id: str
) -> ir.ProxyPlan | None:
    """What a connected proxy is sent, as of the last propagation; None when it is not connected."""
    node = proxies.get(node_id)
    scope = views.scopes_of.get(node_id)
    if node is None or scope is None:
        return None
    fetch = Fetch.unrecorded()
    clusters: dict[str, ir.Cluster] = {}
    endpoints: dict[str, tuple[Endpoint, ...]] = {}
    for pair, variant in views.choices.items().items():
        if pair.scope == scope:
            clusters |= {c.name: c for c in planner.clusters(fetch, variant)}
            endpoints |= {a.cluster: a.endpoints for a in planner.assignments(fetch, variant)}
    gateway = planner.gateway(fetch, scope) if scope.kind == "router" else None
    return ir.ProxyPlan(
        node=node,
        settings=planner.settings_now(),
        clusters=clusters,
        endpoints=endpoints,
        routes=gateway.routes if gateway else _routes(planner, views, scope, fetch),
        listeners=gateway.listeners if gateway else (),
        inbound=views.inbounds.get(node_id),
    )


def _routes(
    planner: Planner, views: Views, scope: ScopeKey, fetch: Fetch
) -> dict[str, tuple[ir.VirtualHost, ...]]:
    """A sidecar's route configurations, each service's part of them in the order of hosts."""
    found: defaultdict[str, list[ir.VirtualHost]] = defaultdict(list)
    pairs = [pair for pair in views.routes.items() if pair.scope == scope]
    for pair in sorted(pairs, key=lambda p: p.host):
        for name, host in planner.hosts(fetch, views.routes.items()[pair]).hosts:
            found[name].append(host)
    return {name: tuple(hosts) for name, hosts in found.items()}

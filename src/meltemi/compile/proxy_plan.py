"""The plan of one proxy, gathered for those who ask: the simulator and whoever explains.

Nothing here decides anything: the planner's functions, which the sealed views run too, are asked
again for one proxy. The graph so needs to keep no plan in memory.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Problem
from meltemi.base.resource import NodeInfo
from meltemi.compile import ir, names
from meltemi.compile.claims import Outbound, outbound
from meltemi.compile.client_secrets import client_secrets, in_need
from meltemi.compile.demand.learn import Learning, learning
from meltemi.compile.east_west import (
    EastWest,
    east_west,
    named_assignments,
    named_clusters,
)
from meltemi.compile.plan.hosts import fallback_host, without_duplicates
from meltemi.compile.plan.listeners import virtual_outbound
from meltemi.compile.plan.outside import dynamic_cluster
from meltemi.compile.planner import Planner
from meltemi.compile.scope import ScopeKey
from meltemi.compile.settings import Mesh, MeshSettings
from meltemi.compile.views import Views, views
from meltemi.flow import Fetch, Graph, View
from meltemi.model.build import Model

Routes = Mapping[str, tuple[ir.VirtualHost, ...]]


class Planning(NamedTuple):
    """All of the compiler but Envoy's bytes."""

    mesh: Mesh
    views: Views
    planner: Planner
    outbound: Outbound
    east_west: EastWest
    proxies: View[str, NodeInfo]
    learned: Learning
    in_need: View[str, bool]
    """The sidecars that need Secrets."""

    def plan_of(self, node_id: str) -> ir.ProxyPlan | None:
        """What a connected proxy is sent, as of the last propagation; None: it is not connected."""
        node = self.proxies.get(node_id)
        scope = self.views.scopes_of.get(node_id)
        if node is None or scope is None:
            return None
        return self._gathered(node, scope)

    def _gathered(self, node: NodeInfo, scope: ScopeKey) -> ir.ProxyPlan:
        fetch = Fetch.unrecorded()
        planner = self.planner
        clusters: dict[str, ir.Cluster] = {}
        endpoints: dict[str, tuple[ir.EndpointGroup, ...]] = {}
        for pair, variant in self.views.choices.items().items():
            if pair.scope == scope:
                clusters |= {c.name: c for c in planner.clusters(fetch, variant)}
                endpoints |= {a.cluster: a.groups for a in planner.assignments(fetch, variant)}
                if pair in self.east_west.choices:
                    passed = named_assignments(planner, fetch, variant)
                    clusters |= {c.name: c for c in named_clusters(planner, fetch, variant)}
                    endpoints |= {a.cluster: a.groups for a in passed}
        problems: tuple[Problem, ...]
        if scope.kind == "router":
            listeners, routes, problems = planner.gateway(fetch, scope)
        else:
            if self.mesh.now.resolves_outside:
                clusters[names.DYNAMIC_OUTSIDE] = dynamic_cluster(self.mesh.now)
            routes, problems = self._routes(scope, fetch)
            listeners = self._listeners(scope)
        return ir.ProxyPlan(
            node=node,
            settings=self.mesh.now,
            clusters=clusters,
            endpoints=endpoints,
            routes=routes,
            listeners=listeners,
            inbound=self.views.inbounds.get(node.id),
            problems=problems,
        )

    def _listeners(self, scope: ScopeKey) -> tuple[ir.Listener, ...]:
        """What captures a sidecar's connections first, then the listeners it hands them to."""
        view = self.outbound.listeners
        slots = sorted(slot for slot in view if slot.scope == scope)
        outside = self.outbound.outside.items()[scope]
        return (
            virtual_outbound(outside, ipv6=scope.has_ipv6),
            *(view.items()[slot] for slot in slots),
        )

    def _routes(self, scope: ScopeKey, fetch: Fetch) -> tuple[Routes, tuple[Problem, ...]]:
        """A sidecar's route configurations, each service's part of them in the order of hosts."""
        found: defaultdict[str, list[ir.VirtualHost]] = defaultdict(list)
        problems: dict[Problem, None] = {}
        ways = {
            way: variant
            for way, variant in self.views.routes.items().items()
            if way.pair.scope == scope
        }
        for way in sorted(ways):
            plan = self.planner.hosts(fetch, ways[way])
            problems |= dict.fromkeys(plan.problems)
            configurations = self.outbound.configurations(way)
            for port, host in plan.hosts:
                for name in configurations.get(port, ()):
                    found[name].append(host)
        for orphan in sorted(o for o in self.views.orphans if o.scope == scope):
            source = self.views.orphans.items()[orphan]
            plan = self.planner.orphan(fetch, orphan, source)
            problems |= dict.fromkeys(plan.problems)
            for port, host in plan.hosts:
                found[str(port)].append(host)
        fallback = fallback_host(self.outbound.outside.items()[scope])
        routes = {name: (*_distinct(hosts), fallback) for name, hosts in found.items()}
        return routes, tuple(problems)


def _distinct(hosts: Sequence[ir.VirtualHost]) -> Iterator[ir.VirtualHost]:
    kept = without_duplicates([host.domains for host in hosts])
    for host, domains in zip(hosts, kept, strict=True):
        yield msgspec.structs.replace(host, domains=domains)


def planning(
    graph: Graph,
    model: Model,
    proxies: View[str, NodeInfo],
    settings: View[str, MeshSettings],
    demands: View[ObjectKey, frozenset[str]] | None = None,
) -> Planning:
    """Add the planning views to the graph. `demands`: the names that workloads have asked for;
    without them every proxy is planned in full, which means the same for every request."""
    mesh = Mesh(graph, settings)
    asked = demands if demands is not None else graph.source("demands")
    learners = proxies if demands is not None else graph.source("no learners")
    learned = learning(graph, model, learners, mesh, asked)
    model = learned.model
    planned = views(graph, model, proxies, mesh, learned.workloads)
    planner = Planner(model, planned, mesh)
    leaving = outbound(graph, model, planner, planned)
    passing = east_west(graph, model, planned)
    needy = in_need(graph, model, planned, client_secrets(graph, model, planned, planner))
    return Planning(mesh, planned, planner, leaving, passing, proxies, learned, needy)

"""Wires the compiler into the graph and turns each propagation into a Change for xDS."""

from collections.abc import Iterable, Mapping
from typing import Any

from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Outcome, Problem
from meltemi.base.resource import Change, NodeInfo
from meltemi.compile.assemble import Assembler, Sealed
from meltemi.compile.demand.serve import OnDemand
from meltemi.compile.envoy.kit import Kit
from meltemi.compile.patch.overlay import Overlay
from meltemi.compile.patch.select import Filter, PatchSet, filter_from_object, selected
from meltemi.compile.proxy_plan import Planning, planning
from meltemi.compile.seal import Sealer
from meltemi.compile.settings import Mesh, MeshSettings
from meltemi.flow import Fetch, Graph, Source, View
from meltemi.model.build import Model
from meltemi.protos import Protos


class Compiled:
    """The compiler's end: what changed for whom."""

    def __init__(
        self,
        plans: Planning,
        sealed: Sealed,
        assembler: Assembler,
        on_demand: OnDemand,
        overlay: Overlay,
        filters: View[ObjectKey, Filter],
        patches: View[str, PatchSet],
    ) -> None:
        self.plans = plans
        self.views = plans.views
        self.outbound = plans.outbound
        self.sealed = sealed
        self._assembler = assembler
        self._on_demand = on_demand
        self.filters = filters
        """EnvoyFilters, parsed."""
        self._overlay = overlay
        self._patches = patches

    def change(self, changes: Mapping[View[Any, Any], Iterable[Any]], revision: int) -> Change:
        """What one propagation means for xDS."""
        change = self._assembler.change(changes, revision)
        change = self._on_demand.change(change, changes)
        nodes = changes.get(self._patches, ())
        return self._overlay.change(change, {node: self._patches.get(node) for node in nodes})

    def problems(self) -> Iterable[Problem]:
        """What only shows when patches meet what they change."""
        return self._overlay.problems()


def compile_views(
    graph: Graph,
    model: Model,
    proxies: Source[str, NodeInfo],
    settings: View[str, MeshSettings],
    protos: Protos,
    demands: View[ObjectKey, frozenset[str]] | None = None,
) -> Compiled:
    """Add the compiler to the graph. `demands`: the names that workloads have asked for."""
    asked = demands if demands is not None else graph.source("demands")
    plans = planning(graph, model, proxies, settings, asked)
    mesh, planned, planner, leaving, passing, _, learned, _ = plans
    kit = Kit(protos)
    sealer = Sealer(kit, planner)
    sealer.know(proxies)
    variants = graph.distinct("policy variants", planned.choices)
    route_variants = graph.distinct("route variants", planned.routes)
    sealed = Sealed(
        clusters=graph.derive(
            "sealed clusters",
            variants,
            sealer.clusters,
            reads=(model.services, model.policies, planned.behind, mesh.fields),
        ),
        endpoints=graph.derive(
            "sealed endpoints",
            variants,
            sealer.endpoints,
            reads=(model.services, model.policies, model.endpoints, model.networks, mesh.fields),
        ),
        passed=graph.derive(
            "sealed east-west clusters",
            passing.variants,
            sealer.passed,
            reads=(
                model.services,
                model.policies,
                model.endpoints,
                model.networks,
                planned.behind,
                mesh.fields,
            ),
        ),
        hosts=graph.derive(
            "sealed virtual hosts",
            route_variants,
            sealer.hosts,
            reads=(model.services, model.tables, model.policies, planned.covering, mesh.fields),
        ),
        orphans=graph.derive("sealed orphans", planned.orphans, sealer.orphan, reads=planner.reads),
        listeners=graph.derive(
            "sealed listeners", leaving.distinct, sealer.listener, reads=(mesh.fields,)
        ),
        outside=graph.derive(
            "sealed outside", leaving.outside, sealer.outside, reads=(mesh.fields,)
        ),
        common=graph.derive("common resources", settings, sealer.common),
        inbound=graph.derive(
            "sealed inbound", planned.inbounds, sealer.inbound, reads=(proxies, mesh.fields)
        ),
        peers=graph.derive(
            "sealed peers", proxies, sealer.peers, reads=(model.workloads, mesh.fields)
        ),
        gateways=graph.derive(
            "sealed gateways",
            planned.scopes,
            sealer.gateway,
            reads=(
                model.gateways,
                model.ingress_gateways,
                model.tables,
                model.ingress_tables,
                model.services,
                model.policies,
                model.workloads,
                model.credentials,
                model.credential_faults,
                planned.covering,
                mesh.fields,
            ),
        ),
        secrets=graph.derive(
            "sealed secrets", model.credentials, sealer.secrets, reads=(model.credentials,)
        ),
        variants=variants,
        route_variants=route_variants,
    )
    assembler = Assembler(kit, planned, leaving, passing, sealed)
    asking = graph.derive(
        "asking listeners", learned.ports, sealer.asking_listeners, reads=(mesh.fields,)
    )
    on_demand = OnDemand(kit, learned, asked, planned.scopes_of, asking, sealed.outside)
    filters, patches = _patches(graph, model, proxies, mesh, protos)
    return Compiled(plans, sealed, assembler, on_demand, Overlay(protos), filters, patches)


def _patches(
    graph: Graph, model: Model, proxies: View[str, NodeInfo], mesh: Mesh, protos: Protos
) -> tuple[View[ObjectKey, Filter], View[str, PatchSet]]:
    """EnvoyFilters, and the patches of each proxy that has any."""
    filters = graph.derive(
        "envoy filters",
        model.envoy_filters,
        lambda _f, key, obj: {key: filter_from_object(protos, obj)},
    )

    def chosen(fetch: Fetch, key: str, node: NodeInfo) -> Mapping[str, Outcome[PatchSet]]:
        found = selected(node, fetch.all(filters), mesh.of(fetch).root_namespace)
        return {} if found is None else {key: Outcome(found)}

    patches = graph.derive("patches of proxy", proxies, chosen, reads=(filters, mesh.fields))
    return filters, patches

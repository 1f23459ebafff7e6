"""Wires the compiler into the graph and turns each propagation into a Change for xDS."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from meltemi.base.keys import HostKey
from meltemi.base.problems import Outcome
from meltemi.base.resource import Change, NodeInfo, Resource
from meltemi.compile import ir
from meltemi.compile.assemble import Assembler
from meltemi.compile.envoy.kit import Kit
from meltemi.compile.planner import Planner
from meltemi.compile.proxy_plan import plan_of
from meltemi.compile.scope import ScopeKey
from meltemi.compile.seal import HostPieces, Resources, Sealer
from meltemi.compile.settings import Mesh, MeshSettings
from meltemi.compile.views import RouteVariant, Variant, Views, views
from meltemi.flow import Distinct, Fetch, Graph, Source, View
from meltemi.model.build import Model
from meltemi.model.service import Service
from meltemi.protos import Protos


class Sealed(NamedTuple):
    """The sealed views, before they are joined into sets."""

    clusters: View[Variant, Resources]
    endpoints: View[Variant, Resources]
    hosts: View[RouteVariant, HostPieces]
    tcp: View[HostKey, Resources]
    http: View[int, Resource]
    common: View[str, Resources]
    inbound: View[str, Resources]
    gateways: View[ScopeKey, Resources]
    variants: Distinct[Any, Variant]
    route_variants: Distinct[Any, RouteVariant]


class Compiled:
    """The compiler's end: what changed for whom."""

    def __init__(
        self,
        planner: Planner,
        planned: Views,
        sealed: Sealed,
        assembler: Assembler,
        proxies: View[str, NodeInfo],
    ) -> None:
        self.views = planned
        self.sealed = sealed
        self._planner = planner
        self._assembler = assembler
        self._proxies = proxies

    def plan_of(self, node_id: str) -> ir.ProxyPlan | None:
        """What a connected proxy is sent, before it is written down; None: it is not connected."""
        return plan_of(self._planner, self.views, self._proxies, node_id)

    def change(self, changes: Mapping[View[Any, Any], Iterable[Any]], revision: int) -> Change:
        """What one propagation means for xDS."""
        return self._assembler.change(changes, revision)


def compile_views(
    graph: Graph,
    model: Model,
    proxies: Source[str, NodeInfo],
    settings: View[str, MeshSettings],
    protos: Protos,
) -> Compiled:
    """Add the compiler to the graph."""
    mesh = Mesh(graph, settings)
    planned = views(graph, model, proxies, mesh)
    kit = Kit(protos)
    planner = Planner(model, planned, mesh)
    sealer = Sealer(kit, planner)
    sealer.know(proxies)
    variants = graph.distinct("policy variants", planned.choices)
    route_variants = graph.distinct("route variants", planned.routes)
    ports = graph.derive("http ports", model.services, _http_ports)
    sealed = Sealed(
        clusters=graph.derive(
            "sealed clusters",
            variants,
            sealer.clusters,
            reads=(model.services, model.policies, planned.identities, mesh.fields),
        ),
        endpoints=graph.derive(
            "sealed endpoints",
            variants,
            sealer.endpoints,
            reads=(model.services, model.policies, model.endpoints, mesh.fields),
        ),
        hosts=graph.derive(
            "sealed virtual hosts",
            route_variants,
            sealer.hosts,
            reads=(model.services, model.tables, model.policies, planned.covering, mesh.fields),
        ),
        tcp=graph.derive(
            "tcp listeners", model.services, sealer.tcp_listeners, reads=(mesh.fields,)
        ),
        http=graph.derive(
            "http listeners",
            graph.distinct("ports", ports),
            sealer.http_listener,
            reads=(mesh.fields,),
        ),
        common=graph.derive("common resources", settings, sealer.common),
        inbound=graph.derive(
            "sealed inbound", planned.inbounds, sealer.inbound, reads=(proxies, mesh.fields)
        ),
        gateways=graph.derive(
            "sealed gateways",
            planned.scopes,
            sealer.gateway,
            reads=(
                model.gateways,
                model.tables,
                model.services,
                model.policies,
                model.workloads,
                planned.covering,
                mesh.fields,
            ),
        ),
        variants=variants,
        route_variants=route_variants,
    )
    assembler = Assembler(kit, planned, sealed, settings)
    return Compiled(planner, planned, sealed, assembler, proxies)


def _http_ports(
    _fetch: Fetch, key: HostKey, service: Service
) -> Mapping[tuple[HostKey, int], Outcome[int]]:
    return {(key, p.number): Outcome(p.number) for p in service.ports if p.protocol.is_http}

"""Which listeners a sidecar's services claim, and the listeners that come of it.

Claims are small and change seldom; a listener is planned again when one of its claims, or a rule
about one of its services, changes. Scopes with equal listeners share their bytes.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from meltemi.base.keys import ServicePortKey
from meltemi.base.problems import Outcome, Problem
from meltemi.compile import ir, names
from meltemi.compile.plan.destinations import Client, Resolver
from meltemi.compile.plan.l4 import default_forward, tcp_routes, tls_routes
from meltemi.compile.plan.listeners import (
    ANY_ADDRESS,
    Claim,
    Claimed,
    Slot,
    claim_chains,
    outbound_listener,
)
from meltemi.compile.planner import Planner
from meltemi.compile.views import Pair, RouteVariant
from meltemi.flow import Distinct, Fetch, Graph, Index, View
from meltemi.model.build import Model
from meltemi.model.service import Port, Protocol, Resolution, Service

CLAIM_BY_SLOT: Index[Claim] = Index("slot", lambda c: (c.slot,))


class ClaimKey(NamedTuple):
    pair: Pair
    slot: Slot
    port: int


class Outbound(NamedTuple):
    """The outbound listeners of every sidecar scope."""

    claims: View[ClaimKey, Claim]
    listeners: View[Slot, ir.Listener]
    distinct: Distinct[Slot, ir.Listener]


def outbound(
    graph: Graph, model: Model, planner: Planner, routes: View[Pair, RouteVariant]
) -> Outbound:
    """Add claims and listeners to the graph. `routes` has the pairs of sidecars."""
    maker = _Maker(model, planner)
    claims = graph.derive(
        "listener claims",
        routes,
        maker.claims,
        reads=(model.endpoints, *planner.reads),
        indexes=(CLAIM_BY_SLOT,),
    )
    maker.know(claims)
    slots = graph.distinct(
        "listener slots",
        graph.derive("slot of claim", claims, lambda _f, key, claim: {key: Outcome(claim.slot)}),
    )
    listeners = graph.derive(
        "outbound listeners",
        slots,
        maker.listener,
        reads=(claims, *planner.reads),
    )
    return Outbound(claims, listeners, graph.distinct("different listeners", listeners))


class _Maker:
    def __init__(self, model: Model, planner: Planner) -> None:
        self._model = model
        self._planner = planner

    _claims: View[ClaimKey, Claim]

    def know(self, claims: View[ClaimKey, Claim]) -> None:
        """Where `listener` finds what `claims` made."""
        self._claims = claims

    def claims(
        self, fetch: Fetch, pair: Pair, _variant: RouteVariant
    ) -> Mapping[ClaimKey, Outcome[Claim]]:
        """Where the ports of one service want to be reached by one scope."""
        service = fetch.get(self._model.services, pair.host)
        if service is None:
            return {}
        found: dict[ClaimKey, Outcome[Claim]] = {}
        for port in service.ports or self._ports_of_alias(fetch, service):
            for bind, ranges in self._places(fetch, service, port):
                slot = Slot(pair.scope, bind, port.number)
                claim = Claim(
                    slot=slot,
                    host=pair.host,
                    port=port.number,
                    protocol=port.protocol,
                    source=service.source,
                    created=service.created,
                    ranges=ranges,
                    dynamic=service.resolution is Resolution.DYNAMIC,
                )
                found[ClaimKey(pair, slot, port.number)] = Outcome(claim)
        return found

    def _ports_of_alias(self, fetch: Fetch, service: Service) -> tuple[Port, ...]:
        """An ExternalName that lists no ports has those of the service it names."""
        if service.resolution is not Resolution.ALIAS:
            return ()
        place = self._planner.resolver(fetch, service.namespace, ()).place(service)
        return place.ports if place is not None else ()

    def _places(
        self, fetch: Fetch, service: Service, port: Port
    ) -> Iterator[tuple[str, tuple[str, ...]]]:
        """(address, CIDRs): HTTP shares one listener, others stand at their addresses; those of
        a headless service are its pods', and a service without any takes what is left."""
        if port.protocol.is_http:
            yield ANY_ADDRESS, ()
            return
        if service.resolution is Resolution.ALIAS:
            return
        ranges = tuple(a for a in service.addresses if "/" in a)
        if ranges:
            yield ANY_ADDRESS, ranges
        for address in service.addresses:
            if "/" not in address:
                yield address, ()
        if service.addresses:
            return
        if service.resolution is Resolution.HEADLESS:
            key = ServicePortKey(*service.key, port.number)
            endpoints = fetch.get(self._model.endpoints, key)
            for address in sorted({e.address for e in endpoints.ready} if endpoints else ()):
                yield address, ()
            return
        yield ANY_ADDRESS, ()

    def listener(
        self, fetch: Fetch, slot: Slot, _value: Slot
    ) -> Mapping[Slot, Outcome[ir.Listener]]:
        settings = self._planner.settings(fetch)
        problems: list[Problem] = []
        claimed = [
            Claimed(claim, self._chains(fetch, claim, problems))
            for claim in fetch.by(self._claims, CLAIM_BY_SLOT, slot)
        ]
        planned = outbound_listener(slot, claimed, settings)
        return {slot: Outcome(planned.listener, (*planned.problems, *problems))}

    def _chains(
        self, fetch: Fetch, claim: Claim, problems: list[Problem]
    ) -> tuple[ir.FilterChain, ...]:
        if claim.protocol.is_http:
            return ()
        scope = claim.slot.scope
        resolver = self._planner.resolver(fetch, scope.namespace, scope.labels)
        opaque = claim.protocol is Protocol.TLS
        layer = "tls" if opaque else "tcp"
        table = self._planner.l4_table(fetch, claim.host, scope.namespace, layer)
        routes: tuple[ir.L4Route, ...] = ()
        if table is not None:
            client = Client("mesh", scope.namespace, scope.labels, claim.port)
            planned = (tls_routes if opaque else tcp_routes)(table, client, resolver)
            routes = planned.routes
            problems += planned.problems
        default = default_forward(claim.host.host, claim.port, resolver)
        forwards = (default, *(route.forward for route in routes))
        marks = any(_is_sniffed(resolver, c.cluster) for f in forwards for c in f.clusters)
        return claim_chains(claim, routes, default, marks=marks)


def _is_sniffed(resolver: Resolver, cluster: str) -> bool:
    """Whether a cluster's servers sniff inside the mesh's mutual TLS."""
    parts = names.parse(cluster)
    service = resolver.service(parts.host) if parts else None
    port = service.port(parts.port) if service and parts else None
    if parts is None or port is None or port.protocol is not Protocol.AUTO:
        return False
    tls = resolver.blocks(parts.host, parts.subset, parts.port).tls
    return tls is None or tls.mode == "ISTIO_MUTUAL"

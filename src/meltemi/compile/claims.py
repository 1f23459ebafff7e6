"""Which listeners a sidecar's services claim, and the listeners that come of it.

Claims are small and change seldom; a listener is planned again when one of its claims, or a rule
about one of its services, changes. Scopes with equal listeners share their bytes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from meltemi.base.keys import ObjectKey, ServicePortKey
from meltemi.base.problems import Outcome, Problem
from meltemi.compile import ir, names
from meltemi.compile.plan.destinations import Client, Resolver
from meltemi.compile.plan.dynamic import with_dynamic_hosts
from meltemi.compile.plan.l4 import default_forward, tcp_routes, tls_routes
from meltemi.compile.plan.listeners import (
    ANY_ADDRESS,
    ANY_IPV6,
    Claim,
    Claimed,
    Slot,
    any_of,
    claim_chains,
    outbound_listener,
)
from meltemi.compile.plan.outside import Outside, outside
from meltemi.compile.planner import Planner
from meltemi.compile.scope import ScopeKey
from meltemi.compile.views import Views
from meltemi.compile.visibility import ORPHAN_PORT, Orphan, Pair, Sight, Way, egress_of
from meltemi.flow import Distinct, Fetch, Graph, Index, View
from meltemi.model.build import SERVICE_BY_HOST, Model
from meltemi.model.route import Forward, RouteTable
from meltemi.model.service import Port, Protocol, Resolution, Service
from meltemi.model.sidecar import Egress

CLAIM_BY_SLOT: Index[Claim] = Index("slot", lambda c: (c.slot,))
CLAIM_BY_WAY: Index[Claim] = Index("way", lambda c: (c.through,))


class ClaimKey(NamedTuple):
    way: Way
    slot: Slot
    port: int


class Outbound(NamedTuple):
    """The outbound listeners of every sidecar scope."""

    outside: View[ScopeKey, Outside]
    """What becomes of the traffic that none of the listeners takes."""
    claims: View[ClaimKey, Claim]
    listeners: View[Slot, ir.Listener]
    distinct: Distinct[Slot, ir.Listener]

    def configurations(self, way: Way) -> Mapping[int, tuple[str, ...]]:
        """The route configurations of a service's ports, as the listeners of a way name them."""
        found: dict[int, tuple[str, ...]] = {}
        for claim in self.claims.by(CLAIM_BY_WAY, way):
            names_ = found.get(claim.port, ())
            if claim.may_speak_http and claim.routes not in names_:
                found[claim.port] = (*names_, claim.routes)
        return found


def outbound(graph: Graph, model: Model, planner: Planner, planned: Views) -> Outbound:
    """Add claims and listeners to the graph."""
    maker = _Maker(model, planner)
    outside = graph.derive(
        "outside", planned.scopes, maker.outside, reads=(model.sidecars, *planner.reads)
    )
    claims = graph.derive(
        "listener claims",
        planned.pairs,
        maker.claims,
        reads=(model.endpoints, model.sidecars, *planner.reads),
        indexes=(CLAIM_BY_SLOT, CLAIM_BY_WAY),
    )
    leading = graph.derive(
        "tables to dynamic hosts", model.tables, maker.leading, reads=(model.services,)
    )
    maker.know(claims, outside, leading, planned)
    slots = graph.distinct_of("listener slots", claims, lambda claim: claim.slot)
    listeners = graph.derive(
        "outbound listeners",
        slots,
        maker.listener,
        reads=(
            claims,
            outside,
            leading,
            planned.routes,
            planned.orphans,
            model.sidecars,
            *planner.reads,
        ),
    )
    different = graph.distinct("different listeners", listeners)
    return Outbound(outside, claims, listeners, different)


class _Maker:
    def __init__(self, model: Model, planner: Planner) -> None:
        self._model = model
        self._planner = planner

    _claims: View[ClaimKey, Claim]
    _outside: View[ScopeKey, Outside]
    _leading: View[ObjectKey, RouteTable]
    _planned: Views

    def know(
        self,
        claims: View[ClaimKey, Claim],
        outside: View[ScopeKey, Outside],
        leading: View[ObjectKey, RouteTable],
        planned: Views,
    ) -> None:
        """Where `listener` finds what the other transforms made."""
        self._claims = claims
        self._outside = outside
        self._leading = leading
        self._planned = planned

    def leading(
        self, fetch: Fetch, key: ObjectKey, table: RouteTable
    ) -> Mapping[ObjectKey, Outcome[RouteTable]]:
        """The few route tables whose HTTP rules lead to a host that Envoy resolves itself."""
        actions = (rule.action for rule in table.http)
        targets = (w.target for a in actions if isinstance(a, Forward) for w in a.destinations)
        for host in dict.fromkeys(target.host for target in targets):
            for service in fetch.by(self._model.services, SERVICE_BY_HOST, host):
                if service.resolution is Resolution.DYNAMIC:
                    return {key: Outcome(table)}
        return {}

    def outside(
        self, fetch: Fetch, scope: ScopeKey, _value: ScopeKey
    ) -> Mapping[ScopeKey, Outcome[Outside]]:
        if scope.kind != "sidecar":
            return {}
        sidecar = fetch.get(self._model.sidecars, scope.sidecar) if scope.sidecar.name else None
        resolver = self._planner.resolver(fetch, scope.namespace, scope.labels)
        policy = sidecar.outside if sidecar is not None else None
        return {scope: Outcome(outside(policy, self._planner.settings(fetch), resolver))}

    def claims(self, fetch: Fetch, pair: Pair, sight: Sight) -> Mapping[ClaimKey, Outcome[Claim]]:
        """Where the ports of one service want to be reached by one scope. Of several ways out to
        one place the first has it, as in Istio."""
        service = fetch.get(self._model.services, pair.host)
        if service is None or pair.scope.kind != "sidecar":
            return {}
        ways = egress_of(fetch, self._model, pair.scope)
        reserved = {_reserved(way) for way in ways if way.port is not None} if ways[1:] else ()
        found: dict[ClaimKey, Outcome[Claim]] = {}
        owners: dict[Slot, int] = {}
        for index in sight.egress:
            way = ways[index]
            ports = service.ports or self._ports_of_alias(fetch, service)
            for port in _through(way, ports):
                for claim in self._of_port(fetch, Way(pair, index), service, port, way):
                    slot = claim.slot
                    if way.port is None and (slot.bind, slot.port) in reserved:
                        continue
                    if owners.setdefault(slot, index) == index:
                        found[ClaimKey(claim.through, slot, port.number)] = Outcome(claim)
        return found

    def _of_port(
        self, fetch: Fetch, through: Way, service: Service, port: Port, way: Egress
    ) -> Iterator[Claim]:
        """What one port claims through one way out."""
        protocol = port.protocol
        if way.protocol is not Protocol.AUTO and way.protocol.is_http == protocol.is_http:
            protocol = way.protocol
        if way.bind:
            places: Iterable[tuple[str, tuple[str, ...]]] = ((way.bind, ()),)
        else:
            places = self._places(fetch, service, port)
            if not through.pair.scope.has_ipv6:
                places = ((bind, ranges) for bind, ranges in places if ":" not in bind)
        for bind, ranges in places:
            number = way.port if way.port is not None else port.number
            yield Claim(
                slot=Slot(through.pair.scope, bind, number),
                through=through,
                port=port.number,
                protocol=protocol,
                source=service.source,
                created=service.created,
                ranges=ranges,
                dynamic=service.resolution is Resolution.DYNAMIC,
                opens=not way.captured,
            )

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
            for address in sorted(
                {a for e in endpoints.ready for a in e.addresses if a} if endpoints else ()
            ):
                yield address, ()
            return
        yield ANY_ADDRESS, ()

    def listener(
        self, fetch: Fetch, slot: Slot, _value: Slot
    ) -> Mapping[Slot, Outcome[ir.Listener]]:
        outside = fetch.get(self._outside, slot.scope) or Outside("")
        problems: list[Problem] = []
        claimed = [
            Claimed(claim, self._chains(fetch, claim, problems))
            for claim in fetch.by(self._claims, CLAIM_BY_SLOT, slot)
        ]
        planned = outbound_listener(slot, claimed, outside, self._also(fetch, slot))
        resolver = self._planner.resolver(fetch, slot.scope.namespace, slot.scope.labels)
        listener = with_dynamic_hosts(
            planned.listener, self._dynamic_routes(fetch, slot, claimed, outside), resolver
        )
        return {slot: Outcome(listener, (*planned.problems, *problems))}

    def _dynamic_routes(
        self, fetch: Fetch, slot: Slot, claimed: Sequence[Claimed], outside: Outside
    ) -> set[str]:
        """The route configurations from which requests get to hosts that Envoy resolves."""
        if outside.requests:
            return {claim.routes for claim, _ in claimed if claim.may_speak_http}
        tables = {table.source: table for table in fetch.all(self._leading)}
        found = {claim.routes for claim, _ in claimed if claim.dynamic and claim.may_speak_http}
        for claim, _ in claimed if tables else ():
            variant = fetch.get(self._planned.routes, claim.through)
            if claim.may_speak_http and variant is not None and variant.table in tables:
                found.add(claim.routes)
        if slot.port == ORPHAN_PORT and slot.bind == ANY_ADDRESS:
            orphans = (Orphan(slot.scope, host) for t in tables.values() for host in t.hosts)
            sources = (fetch.get(self._planned.orphans, orphan) for orphan in orphans)
            if any(source in tables for source in sources if source is not None):
                found.add(str(ORPHAN_PORT))
        return found

    def _also(self, fetch: Fetch, slot: Slot) -> tuple[str, ...]:
        """A listener of any address takes IPv6, too, unless another one has it to itself."""
        if slot.bind != ANY_ADDRESS or not slot.scope.has_ipv6:
            return ()
        apart = fetch.by(self._claims, CLAIM_BY_SLOT, slot._replace(bind=ANY_IPV6))
        return any_of(ipv6=not apart)

    def _chains(
        self, fetch: Fetch, claim: Claim, problems: list[Problem]
    ) -> tuple[ir.FilterChain, ...]:
        if claim.protocol.is_http:
            return ()
        scope = claim.slot.scope
        resolver = self._planner.resolver(fetch, scope.namespace, scope.labels)
        opaque = claim.protocol is Protocol.TLS
        layer = "tls" if opaque else "tcp"
        table = self._planner.l4_table(fetch, claim.through, layer)
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


def _through(way: Egress, ports: Sequence[Port]) -> Sequence[Port]:
    """The ports of a service that a way out leads to: all, the one of its number, or, through a
    unix socket, the first that speaks as the socket does."""
    if way.port is None:
        return ports
    if way.port:
        return [port for port in ports if port.number == way.port]
    http = way.protocol.is_http or way.protocol is Protocol.AUTO
    return [port for port in ports if http == (port.protocol.is_http)][:1]


def _reserved(way: Egress) -> tuple[str, int]:
    """The place of a way out with a port: what has no port leaves it alone."""
    return (way.bind or ANY_ADDRESS, way.port or 0)


def _is_sniffed(resolver: Resolver, cluster: str) -> bool:
    """Whether a cluster's servers sniff inside the mesh's mutual TLS."""
    parts = names.parse(cluster)
    service = resolver.service(parts.host) if parts else None
    port = service.port(parts.port) if service and parts else None
    if parts is None or port is None or port.protocol is not Protocol.AUTO:
        return False
    tls = resolver.blocks(parts.host, parts.subset, parts.port).tls
    return tls is None or tls.mode == "ISTIO_MUTUAL"

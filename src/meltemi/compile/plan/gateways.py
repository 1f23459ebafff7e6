"""Gateways: the listeners of a gateway proxy and the routes bound to them (mesh-semantics 1.4)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from meltemi.base.problems import Code, Problem, Severity
from meltemi.compile import ir, names
from meltemi.compile.plan.destinations import Resolver
from meltemi.compile.plan.gateway_routes import Binder
from meltemi.compile.plan.gateway_servers import (
    ANY_ADDRESS,
    ANY_IPV6,
    Bound,
    Place,
    Speech,
    merge,
    sni_names,
)
from meltemi.compile.plan.l4 import tcp_routes, tls_routes
from meltemi.compile.plan.secrets import Secrets
from meltemi.compile.plan.server_tls import faults, server_tls
from meltemi.compile.scope import ScopeKey, Topology, topology_of
from meltemi.model.gateway import (
    AutoPassthrough,
    GatewayDef,
    Passthrough,
    Terminate,
)
from meltemi.model.hosts import hosts_overlap, narrower
from meltemi.model.route import RouteTable
from meltemi.model.service import Protocol


class GatewayPlan(NamedTuple):
    """All of one gateway scope."""

    listeners: tuple[ir.Listener, ...]
    routes: Mapping[str, tuple[ir.VirtualHost, ...]]
    """Virtual hosts by route configuration."""
    problems: tuple[Problem, ...]


def plan(
    scope: ScopeKey,
    gateways: Sequence[GatewayDef],
    tables: Callable[[str], Sequence[RouteTable]],
    resolver: Resolver,
    target_ports: Mapping[int, Sequence[int]],
    secrets: Secrets,
) -> GatewayPlan:
    """Everything a gateway proxy serves. `tables`: those that name a gateway, in any order."""
    merged = merge(scope, gateways, target_ports)
    planner = _Planner(Binder(scope, tables, resolver), secrets, topology_of(scope))
    listeners = [found for place in merged.places if (found := planner.listener(place))]
    if scope.has_ipv6:
        listeners = [_beside(listener, listeners) for listener in listeners]
    problems = dict.fromkeys((*merged.problems, *planner.problems, *planner.binder.problems))
    return GatewayPlan(tuple(listeners), planner.routes, tuple(problems))


def _beside(listener: ir.Listener, others: Sequence[ir.Listener]) -> ir.Listener:
    """A listener of any address takes IPv6, too, unless another one has it to itself."""
    taken = {(other.address, other.port) for other in others}
    if listener.address != ANY_ADDRESS or (ANY_IPV6, listener.port) in taken:
        return listener
    return msgspec.structs.replace(listener, also=(ANY_IPV6,))


class _Planner:
    """Plans the places of one scope; collects their route configurations and problems."""

    def __init__(self, binder: Binder, secrets: Secrets, topology: Topology) -> None:
        self.binder = binder
        self._topology = topology
        self._secrets = secrets
        self.routes: dict[str, tuple[ir.VirtualHost, ...]] = {}
        self.problems: list[Problem] = []

    def listener(self, place: Place) -> ir.Listener | None:
        """None when nothing could be served there: a closed port says so at once."""
        match place.speech:
            case Speech.HTTP:
                chains = [self._plain_http(place)]
            case Speech.TCP:
                chains = list(self._plain_tcp(place))
            case Speech.TLS:
                chains = list(self._tls(place))
        if not chains:
            return None
        return ir.Listener(
            name=names.address_listener(place.address, place.port),
            side=ir.Side.EDGE,
            address=place.address,
            port=place.port,
            chains=tuple(chains),
            inspects_tls=place.speech is Speech.TLS,
            proxy_protocol=self._topology.proxy_protocol is not None,
            sources=tuple(dict.fromkeys(b.gateway.source for b in place.servers)),
        )

    def _plain_http(self, place: Place) -> ir.FilterChain:
        """All plaintext servers of a port share one route configuration."""
        bind = "" if place.address == ANY_ADDRESS else place.address
        name = names.gateway_route(place.port, bind)
        self.routes[name] = self.binder.virtual_hosts(place.servers)
        first = place.servers[0]
        return ir.FilterChain(
            name=name,
            match=ir.ChainMatch(),
            network=self._http(place, name, place.servers),
            source=first.gateway.source,
            path=first.server.path,
        )

    def _plain_tcp(self, place: Place) -> Iterator[ir.FilterChain]:
        (bound,) = place.servers
        yield from self._forwarding(
            bound, place, self.binder.l4(bound, tcp_routes), ir.ChainMatch()
        )

    def _tls(self, place: Place) -> Iterator[ir.FilterChain]:
        """Chains told apart by SNI; of two for the same name the first is kept."""
        taken: dict[tuple[str, str], ir.FilterChain] = {}
        for bound in place.servers:
            for chain in self._tls_server(bound, place):
                free = self._free(bound, chain, taken)
                if free is not None:
                    yield free

    def _tls_server(self, bound: Bound, place: Place) -> Iterator[ir.FilterChain]:
        server = bound.server
        match = ir.ChainMatch(sni=_envoy_names(sni_names(server)), transport=ir.Transport.TLS)
        match server.tls:
            case Passthrough():
                yield from self._passing(bound, place)
            case AutoPassthrough():
                yield self._chain(bound, match, ir.Tcp(_prefix(place), None))
            case Terminate():
                tls = self._server_tls(bound, server.tls)
                if tls is None:
                    return
                if server.protocol.is_http:
                    yield self._https(bound, place, match, tls)
                else:
                    planned = self.binder.l4(bound, tcp_routes)
                    yield from self._forwarding(bound, place, planned, match, tls)

    def _https(
        self, bound: Bound, place: Place, match: ir.ChainMatch, tls: ir.ServerTls
    ) -> ir.FilterChain:
        """An HTTPS server has routes of its own: none of another server's are reachable there."""
        source = bound.gateway.source
        name = names.gateway_tls_route(
            bound.server.port, bound.server.port_name, source.name, source.namespace
        )
        others = [b for b in place.servers if b is not bound]
        self.routes[name] = self.binder.virtual_hosts((bound,), others)
        return self._chain(bound, match, self._http(place, name, (bound,)), tls)

    def _passing(self, bound: Bound, place: Place) -> Iterator[ir.FilterChain]:
        """TLS that goes on as it is, by the `tls` rules of what binds to the server."""
        for route in self.binder.l4(bound, tls_routes):
            sni = _narrowed(route.sni_hosts, [host.host for host in bound.server.hosts])
            if sni:
                match = ir.ChainMatch(
                    sni=_envoy_names(sni), addresses=route.subnets, transport=ir.Transport.TLS
                )
                yield self._chain(bound, match, _tcp(place, route), route=route)

    def _forwarding(
        self,
        bound: Bound,
        place: Place,
        routes: Sequence[ir.L4Route],
        match: ir.ChainMatch,
        tls: ir.ServerTls | None = None,
    ) -> Iterator[ir.FilterChain]:
        """Bytes after TLS, or without any, by `tcp` rules; the first for a destination counts."""
        seen: set[tuple[str, ...]] = set()
        mongo = bound.server.protocol is Protocol.MONGO
        for route in routes:
            if route.subnets in seen:
                continue
            seen.add(route.subnets)
            where = ir.ChainMatch(sni=match.sni, addresses=route.subnets, transport=match.transport)
            yield self._chain(bound, where, _tcp(place, route, mongo=mongo), tls, route)

    def _http(self, place: Place, routes: str, servers: Sequence[Bound]) -> ir.Http:
        """Where some server speaks gRPC-Web, it is translated: other requests are left alone."""
        web = any(bound.server.protocol is Protocol.GRPC_WEB for bound in servers)
        return ir.Http(
            prefix=_prefix(place),
            routes=routes,
            protocol=Protocol.GRPC_WEB if web else Protocol.HTTP,
            trusted_hops=self._topology.trusted_hops,
            client_certificates=self._topology.client_certificates,
        )

    def _chain(
        self,
        bound: Bound,
        match: ir.ChainMatch,
        network: ir.Http | ir.Tcp,
        tls: ir.ServerTls | None = None,
        route: ir.L4Route | None = None,
    ) -> ir.FilterChain:
        source, path = bound.gateway.source, bound.server.path
        if route is not None and route.source is not None:
            source, path = route.source, route.path
        where = ",".join(match.sni) or "*"
        name = f"{bound.gateway.source.namespace}.{bound.gateway.source.name}.{where}"
        return ir.FilterChain(name, match, network, tls, source, path)

    def _free(
        self, bound: Bound, chain: ir.FilterChain, taken: dict[tuple[str, str], ir.FilterChain]
    ) -> ir.FilterChain | None:
        """A chain without the names that an earlier one has: Envoy refuses two equal matches."""
        kept: list[str] = []
        for name in chain.match.sni or ("",):
            keys = [(name, subnet) for subnet in chain.match.addresses or ("",)]
            winner = next((taken[key] for key in keys if key in taken), None)
            if winner is None:
                kept.append(name)
                taken |= dict.fromkeys(keys, chain)
            elif chain.source is not None:
                message = (
                    f"connections for {name or 'any host'} on port {bound.server.port} of "
                    f"gateway {bound.gateway.name} already go where {winner.source} "
                    f"{winner.path} says, which is older and wins; remove one of the two"
                )
                self.problems.append(
                    Problem(Code.HOST_CONFLICT, Severity.ERROR, chain.source, chain.path, message)
                )
        if len(kept) == len(chain.match.sni or ("",)):
            return chain
        if not kept:
            return None
        match = ir.ChainMatch(
            sni=tuple(kept), addresses=chain.match.addresses, transport=chain.match.transport
        )
        return ir.FilterChain(chain.name, match, chain.network, chain.tls, chain.source, chain.path)

    def _server_tls(self, bound: Bound, tls: Terminate) -> ir.ServerTls | None:
        """None when a certificate is missing: then only this server is not there."""
        found = [
            bound.problem(fault.code, f"tls.{fault.field}", fault.message)
            for fault in faults(tls, self._secrets)
        ]
        self.problems += found
        return None if found else server_tls(tls, http=bound.server.protocol.is_http)


def _prefix(place: Place) -> str:
    return f"outbound_{place.address}_{place.port}"


def _tcp(place: Place, route: ir.L4Route, *, mongo: bool = False) -> ir.Tcp:
    return ir.Tcp(_prefix(place), route.forward, mongo=mongo)


def _envoy_names(sni: Sequence[str]) -> tuple[str, ...]:
    """`*` is said by no condition at all; beside others it makes them pointless."""
    return () if "*" in sni else tuple(sni)


def _narrowed(sni_hosts: Sequence[str], hosts: Sequence[str]) -> tuple[str, ...]:
    """The names that fall under a rule and under the server it is bound to."""
    found = dict.fromkeys(
        narrower(sni, host)
        for sni in sni_hosts or ("*",)
        for host in hosts
        if hosts_overlap(sni, host)
    )
    return tuple(found)

"""Which route tables bind to a gateway's servers, and the virtual hosts they make there.

Tables of one host are merged, the oldest first, and what matches everything goes last
(mesh-semantics 1.2).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from meltemi.base.problems import Problem
from meltemi.compile import ir, names
from meltemi.compile.plan.destinations import Client, Resolver
from meltemi.compile.plan.gateway_servers import Bound
from meltemi.compile.plan.l4 import PlannedL4
from meltemi.compile.plan.routes import ANYTHING, Planned, is_catch_all, table_routes
from meltemi.compile.scope import ScopeKey
from meltemi.model.gateway import Server, Terminate
from meltemi.model.hosts import hosts_overlap, is_visible, matches_host, narrower
from meltemi.model.route import DirectResponse, RouteTable

MISDIRECTED = 421


class Binder:
    """Binds tables to the servers of one scope."""

    def __init__(
        self,
        scope: ScopeKey,
        tables: Callable[[str], Sequence[RouteTable]],
        resolver: Resolver,
    ) -> None:
        self._scope = scope
        self._tables = tables
        self._resolver = resolver
        self._planned: dict[tuple[object, ...], Planned] = {}
        self.problems: dict[Problem, None] = {}

    def virtual_hosts(
        self, servers: Sequence[Bound], beside: Iterable[Bound] = ()
    ) -> tuple[ir.VirtualHost, ...]:
        """The virtual hosts of servers that share a route configuration.

        `beside`: other TLS servers of the same port. A request that came in by one server's name
        and asks for another's is misdirected: the client checked the wrong certificate, or was
        checked by the wrong server.
        """
        first = servers[0].server
        foreign = _foreign(first, beside)
        hosts = _Hosts()
        for bound in servers:
            redirects = bound.server.https_redirect
            if redirects:
                hosts.redirect(host.host for host in bound.server.hosts)
            for host, table, planned in self._bound(bound):
                if not any(matches_host(name, host) for name in foreign):
                    hosts.add(host, table, bound.gateway.name, planned.routes)
                    hosts.redirect((host,) if redirects else ())
        built = hosts.built(first.port)
        if first.tls is not None:
            built += _strict_hosts(first, foreign, hosts.routes.keys())
        return tuple(built)

    def _bound(self, bound: Bound) -> Iterator[tuple[str, RouteTable, Planned]]:
        """The hosts under which tables bind to a server, with their routes."""
        for table in self._tables_of(bound):
            shared = _shared(table, bound)
            planned = self._routes(table, bound) if table.http and shared else None
            if planned is not None and planned.routes:
                for host in shared:
                    yield host, table, planned

    def _tables_of(self, bound: Bound) -> Sequence[RouteTable]:
        found = self._tables(bound.gateway.name)
        visible = [t for t in found if is_visible(t.export_to, self._scope.namespace)]
        return sorted(visible, key=lambda t: t.created)

    def _routes(self, table: RouteTable, bound: Bound) -> Planned:
        key = (table.source, table.hosts, bound.gateway.name, bound.server.port)
        planned = self._planned.get(key)
        if planned is None:
            planned = table_routes(table, self._client(bound), self._resolver)
            self._planned[key] = planned
            self.problems |= dict.fromkeys(planned.problems)
        return planned

    def l4(
        self, bound: Bound, rules: Callable[[RouteTable, Client, Resolver], PlannedL4]
    ) -> tuple[ir.L4Route, ...]:
        """The TLS or TCP routes bound to a server, oldest table first."""
        found: list[ir.L4Route] = []
        for table in self._tables_of(bound):
            if _shared(table, bound):
                planned = rules(table, self._client(bound), self._resolver)
                found += planned.routes
                self.problems |= dict.fromkeys(planned.problems)
        return tuple(found)

    def _client(self, bound: Bound) -> Client:
        return Client(
            gateway=bound.gateway.name,
            namespace=self._scope.namespace,
            labels=self._scope.labels,
            port=bound.server.port,
            tls=isinstance(bound.server.tls, Terminate),
        )


class _Hosts:
    """Gathers the routes of each host, table after table, the oldest first."""

    def __init__(self) -> None:
        self.routes: dict[str, list[ir.Route]] = {}
        self._gateways: dict[tuple[str, object], set[str]] = {}
        """By host and table: through which gateways the table is there already."""
        self._redirecting: set[str] = set()

    def redirect(self, hosts: Iterable[str]) -> None:
        """Whatever is bound to these hosts, plaintext is sent to https."""
        for host in hosts:
            self.routes.setdefault(host, [])
            self._redirecting.add(host)

    def add(self, host: str, table: RouteTable, gateway: str, routes: Sequence[ir.Route]) -> None:
        """A table may bind through several gateways: what they have in common stands once."""
        there = self.routes.setdefault(host, [])
        through = self._gateways.setdefault((host, (table.source, table.hosts)), set())
        if gateway not in through:
            there.extend([r for r in routes if r not in there] if through else routes)
            through.add(gateway)

    def built(self, port: int) -> list[ir.VirtualHost]:
        """In the order of their names; in each, what takes everything goes last."""
        return [
            ir.VirtualHost(
                name=names.virtual_host(host, port),
                domains=(host,),
                routes=tuple(sorted(self.routes[host], key=_is_last)),
                https_only=host in self._redirecting,
            )
            for host in sorted(self.routes)
        ]


def _shared(table: RouteTable, bound: Bound) -> tuple[str, ...]:
    """The hosts that a table and a server have in common, each the narrower of two patterns."""
    found = dict.fromkeys(
        narrower(host, offered.host)
        for host in table.hosts
        for offered in bound.server.hosts
        if offered.namespace in ("*", table.namespace) and hosts_overlap(host, offered.host)
    )
    return tuple(found)


def _is_last(route: ir.Route) -> bool:
    return is_catch_all(route.match)


def _foreign(server: Server, beside: Iterable[Bound]) -> frozenset[str]:
    """The hosts that this server covers and another one serves with certificates of its own."""
    own = {host.host for host in server.hosts}
    theirs = {
        host.host
        for other in beside
        if isinstance(other.server.tls, Terminate)
        for host in other.server.hosts
    }
    return frozenset(host for host in theirs - own if any(matches_host(m, host) for m in own))


def _strict_hosts(
    server: Server, foreign: frozenset[str], known: Iterable[str]
) -> Iterator[ir.VirtualHost]:
    """The server's own hosts without routes (404), and all that is not its own (421)."""
    listed = set(known)
    for host in sorted({host.host for host in server.hosts} - listed):
        listed.add(host)
        yield ir.VirtualHost(names.virtual_host(host, server.port), (host,), ())
    refused = foreign if "*" in listed else foreign | {"*"}
    if refused:
        refuse = ir.Route("misdirected", ANYTHING, DirectResponse(MISDIRECTED))
        yield ir.VirtualHost("misdirected", tuple(sorted(refused)), (refuse,))

"""Gateways: the listeners of a gateway proxy and the routes bound to them (mesh-semantics 1.4)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from meltemi.base.problems import Code, Problem, Severity
from meltemi.compile import ir, names
from meltemi.compile.plan.destinations import Client, Resolver
from meltemi.compile.plan.routes import Planned, table_routes
from meltemi.compile.scope import ScopeKey
from meltemi.model.gateway import GatewayDef, Server, ServerHost
from meltemi.model.hosts import hosts_overlap, is_visible, matches_host
from meltemi.model.route import RouteTable

_PLAIN = frozenset({"HTTP", "HTTP2", "GRPC", "GRPC-WEB"})


class GatewayPlan(NamedTuple):
    """All of one gateway scope."""

    listeners: tuple[ir.Listener, ...]
    routes: Mapping[str, tuple[ir.VirtualHost, ...]]
    """Virtual hosts by route configuration."""
    problems: tuple[Problem, ...]


class _Bound(NamedTuple):
    """One server of one gateway, on the port the pod listens on."""

    gateway: GatewayDef
    server: Server
    port: int


def plan(
    scope: ScopeKey,
    gateways: Sequence[GatewayDef],
    tables: Sequence[RouteTable],
    resolver: Resolver,
    target_ports: Mapping[int, int],
) -> GatewayPlan:
    """Merge the servers of all gateways that select the scope's labels, port by port.

    `target_ports` translates Service ports to the pod's; a port without a Service is taken as is.
    """
    problems: list[Problem] = []
    by_port: dict[int, list[_Bound]] = {}
    for gateway in sorted(gateways, key=lambda g: g.created):
        if not gateway.selector.items() <= dict(scope.labels).items():
            continue
        for server in gateway.servers:
            port = target_ports.get(server.port, server.port)
            by_port.setdefault(port, []).append(_Bound(gateway, server, port))
    listeners: list[ir.Listener] = []
    routes: dict[str, tuple[ir.VirtualHost, ...]] = {}
    for port in sorted(by_port):
        plain, conflicts = _plain_servers(by_port[port])
        problems.extend(conflicts)
        if plain:
            number = plain[0].server.port
            name = names.gateway_route(number)
            listeners.append(_listener(plain, port, name))
            routes[name] = _virtual_hosts(plain, scope, tables, resolver, problems)
    return GatewayPlan(tuple(listeners), routes, tuple(problems))


def _listener(plain: Sequence[_Bound], port: int, routes: str) -> ir.Listener:
    """One plaintext port: it faces strangers."""
    first = plain[0]
    bind = first.server.bind or "0.0.0.0"
    http = ir.Http(f"outbound_{names.wildcard_listener(first.server.port)}", routes)
    source, path = first.gateway.source, first.server.path
    return ir.Listener(
        name=names.address_listener(bind, port),
        side=ir.Side.EDGE,
        address=bind,
        port=port,
        chains=(ir.FilterChain("", ir.ChainMatch(), http, source=source, path=path),),
        sources=tuple(dict.fromkeys(item.gateway.source for item in plain)),
    )


def _plain_servers(bound: Sequence[_Bound]) -> tuple[list[_Bound], list[Problem]]:
    """The plaintext HTTP servers of a port; others on it are reported, and harm nothing."""
    plain: list[_Bound] = []
    problems: list[Problem] = []
    for item in bound:
        if item.server.protocol in _PLAIN:
            plain.append(item)
        else:
            problems.append(
                Problem(
                    Code.NOT_SUPPORTED,
                    Severity.WARNING,
                    item.gateway.source,
                    f"{item.server.path}.port.protocol",
                    f"servers of protocol {item.server.protocol} are not served yet: use HTTP",
                )
            )
    return plain, problems


def _virtual_hosts(
    bound: Sequence[_Bound],
    scope: ScopeKey,
    tables: Sequence[RouteTable],
    resolver: Resolver,
    problems: list[Problem],
) -> tuple[ir.VirtualHost, ...]:
    """One virtual host for each host that tables bind: their routes in order of age, those that
    match everything last. A server with httpsRedirect redirects, whatever is bound to it."""
    routes: dict[str, list[ir.Route]] = {}
    redirecting: set[str] = set()
    for item in bound:
        redirects = item.server.tls is not None and item.server.tls.https_redirect
        if redirects:
            own = [host.host for host in item.server.hosts]
            routes |= {host: routes.get(host, []) for host in own}
            redirecting.update(own)
        for table in sorted(tables, key=lambda t: t.created):
            found = _bind(table, item, scope, resolver)
            for host, planned in found.items():
                routes.setdefault(host, []).extend(
                    r for r in planned.routes if r not in routes[host]
                )
                problems.extend(p for p in planned.problems if p not in problems)
                if redirects:
                    redirecting.add(host)
    port = bound[0].server.port
    return tuple(
        ir.VirtualHost(
            name=names.virtual_host(host, port),
            domains=(host,),
            routes=tuple(sorted(routes[host], key=_is_last)),
            https_only=host in redirecting,
        )
        for host in sorted(routes)
    )


def _is_last(route: ir.Route) -> bool:
    return (
        not route.match.headers
        and not route.match.query
        and (getattr(route.match.path, "value", "") in ("/", ".*"))
    )


def _bind(
    table: RouteTable, item: _Bound, scope: ScopeKey, resolver: Resolver
) -> Mapping[str, Planned]:
    """The routes of a table under each host it shares with a server."""
    gateway = item.gateway.name
    named = {g for rule in table.http for match in rule.matches for g in match.gateways}
    if gateway not in (*table.gateways, *named) or not table.http:
        return {}
    if not is_visible(table.export_to, scope.namespace):
        return {}
    shared = (_shared(host, table.namespace, item.server.hosts) for host in table.hosts)
    hosts = [host for host in shared if host]
    if not hosts:
        return {}
    client = Client(gateway, scope.namespace, scope.labels, item.server.port)
    planned = table_routes(table, client, resolver)
    return dict.fromkeys(hosts, planned) if planned.routes else {}


def _shared(host: str, namespace: str, servers: Sequence[ServerHost]) -> str:
    """The narrower of a table's host and the server's host that admits it; empty: none does."""
    for server in servers:
        if server.namespace in ("*", namespace) and hosts_overlap(host, server.host):
            return host if matches_host(server.host, host) else server.host
    return ""

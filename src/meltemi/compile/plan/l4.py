"""TLS and TCP routes: which connections of one client go where (mesh-semantics 1.2, 1.3).

The caller turns each answer into filter chains of its listeners; nothing here knows addresses
of listeners. What the control plane can test itself (port, gateway, who the client is) is gone
from the answers; SNI names and destination subnets are left for Envoy.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from meltemi.base.problems import Code, Problem, Severity
from meltemi.compile import ir
from meltemi.compile.plan.destinations import (
    Client,
    Destinations,
    Place,
    Resolver,
    hash_policies,
    may_match,
)
from meltemi.model.policy import Blocks
from meltemi.model.route import L4Match, L4Rule, RouteTable, Weighted


class PlannedL4(msgspec.Struct, frozen=True):
    """In order of precedence. No routes: the table says nothing to this client."""

    routes: tuple[ir.L4Route, ...]
    problems: tuple[Problem, ...] = ()


def tls_routes(table: RouteTable, client: Client, resolver: Resolver) -> PlannedL4:
    """Where connections of opaque TLS go, told apart by their SNI. A connection that none of
    the answers takes stays with the listener's default."""
    return _planned(table, table.tls, client, resolver)


def tcp_routes(table: RouteTable, client: Client, resolver: Resolver) -> PlannedL4:
    """Where plain TCP connections go, up to the first answer that takes them all."""
    return _planned(table, table.tcp, client, resolver)


def default_forward(host: str, port: int, resolver: Resolver, subset: str = "") -> ir.L4Forward:
    """Where a connection goes that no rule is about: the service it names."""
    place = Place(host, subset, port)
    cluster = ir.WeightedCluster(place.cluster, 100)
    return _forward((cluster,), resolver.blocks(*place))


def _first_come(routes: Iterable[ir.L4Route]) -> PlannedL4:
    """The routes, each with only what earlier ones leave of it: Envoy refuses two chains for the
    same thing, and would not heed their order. What is left with nothing is reported."""
    found: list[ir.L4Route] = []
    problems: list[Problem] = []
    taken: dict[tuple[str, str], ir.L4Route] = {}
    for route in routes:
        left, first = _left(route, taken)
        if not left and first is not None:
            problems += _unreachable(route, first)
        for sni, subnets in left:
            found.append(msgspec.structs.replace(route, sni_hosts=sni, subnets=subnets))
        for piece in _pieces(route):
            taken.setdefault(piece, route)
    return PlannedL4(tuple(found), tuple(problems))


def _planned(
    table: RouteTable, rules: Sequence[L4Rule], client: Client, resolver: Resolver
) -> PlannedL4:
    destinations = Destinations(client, resolver)
    routes = [
        ir.L4Route(
            forward=_forward_of(rule, table, destinations, resolver),
            sni_hosts=match.sni_hosts,
            subnets=match.destination_subnets,
            source=table.source,
            path=path,
        )
        for rule in rules
        for path, match in _matches(rule)
        if _applies(table, match, client)
    ]
    kept = _first_come(routes)
    return PlannedL4(kept.routes, (*destinations.problems, *kept.problems))


def _matches(rule: L4Rule) -> Iterable[tuple[str, L4Match]]:
    if not rule.matches:
        yield rule.path, L4Match()
    for i, match in enumerate(rule.matches):
        yield f"{rule.path}.match[{i}]", match


def _applies(table: RouteTable, match: L4Match, client: Client) -> bool:
    """All conditions must hold; a match's own gateways stand for the table's."""
    if client.gateway not in (match.gateways or table.gateways):
        return False
    return may_match(client, match.port, match.source_namespace, match.source_labels)


def _pieces(route: ir.L4Route) -> list[tuple[str, str]]:
    """What a route takes, piece by piece: (SNI name, subnet), empty for any."""
    return [(s, d) for s in route.sni_hosts or ("",) for d in route.subnets or ("",)]


Part = tuple[tuple[str, ...], tuple[str, ...]]
"""(SNI names, subnets): any of the first with any of the second."""


def _left(
    route: ir.L4Route, taken: Mapping[tuple[str, str], ir.L4Route]
) -> tuple[list[Part], ir.L4Route | None]:
    """What earlier routes leave of this one, and the first that takes something of it."""
    first: ir.L4Route | None = None
    free: dict[str, list[str]] = {}
    for sni, net in _pieces(route):
        wider = ((sni, net), (sni, ""), ("", net), ("", ""))
        winner = next((taken[piece] for piece in wider if piece in taken), None)
        if winner is None:
            free.setdefault(sni, []).append(net)
        first = first or winner
    parts: dict[tuple[str, ...], list[str]] = {}
    for sni, nets in free.items():
        parts.setdefault(tuple(dict.fromkeys(nets)), []).append(sni)
    left = [
        (tuple(n for n in names if n), tuple(n for n in nets if n)) for nets, names in parts.items()
    ]
    return left, first


def _unreachable(route: ir.L4Route, first: ir.L4Route) -> Iterator[Problem]:
    if route.source is None:
        return
    place = first.path if first.source == route.source else f"{first.path} of {first.source}"
    yield Problem(
        Code.UNREACHABLE_ROUTE,
        Severity.WARNING,
        route.source,
        route.path,
        f"it never applies: {place} already takes every connection it could; reorder the rules, "
        "or narrow the earlier one",
    )


def _forward_of(
    rule: L4Rule, table: RouteTable, destinations: Destinations, resolver: Resolver
) -> ir.L4Forward:
    places = [destinations.place(w.target, table.source) for w in rule.destinations]
    return _weighted(rule.destinations, places, resolver)


def _weighted(
    weighted: Sequence[Weighted], places: Sequence[Place], resolver: Resolver
) -> ir.L4Forward:
    """The first destination's policy says how connections are kept: a listener has one answer."""
    clusters = tuple(
        ir.WeightedCluster(place.cluster, w.weight)
        for w, place in zip(weighted, places, strict=True)
    )
    return _forward(clusters, resolver.blocks(*places[0]))


def _forward(clusters: tuple[ir.WeightedCluster, ...], blocks: Blocks) -> ir.L4Forward:
    pool = blocks.connection_pool
    tcp = pool.tcp if pool is not None else None
    return ir.L4Forward(
        clusters=clusters,
        idle_timeout=tcp.idle_timeout if tcp is not None else None,
        longest=(tcp.max_connection_duration or None) if tcp is not None else None,
        hash_source=any(policy.source for policy in hash_policies(blocks)),
        tunnel=blocks.tunnel,
    )

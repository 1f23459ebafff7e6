"""TLS and TCP routes: which connections of one client go where (mesh-semantics 1.2, 1.3).

The caller turns each answer into filter chains of its listeners; nothing here knows addresses
of listeners. What the control plane can test itself (port, gateway, who the client is) is gone
from the answers; SNI names and destination subnets are left for Envoy.
"""

from collections.abc import Iterable, Sequence

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


def _planned(
    table: RouteTable, rules: Sequence[L4Rule], client: Client, resolver: Resolver
) -> PlannedL4:
    destinations = Destinations(client, resolver)
    routes: list[ir.L4Route] = []
    taken: dict[tuple[str, str], str] = {}
    unreachable: list[Problem] = []
    for rule in rules:
        for path, match in _matches(rule):
            if not _applies(table, match, client):
                continue
            shadow = _shadowed(match, taken)
            if shadow is not None:
                unreachable.append(_unreachable(table, path, shadow))
                continue
            routes.append(_route(table, rule, match, path, destinations, resolver))
            for what in _takes(match):
                taken.setdefault(what, path)
    return PlannedL4(tuple(routes), (*destinations.problems, *unreachable))


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


def _takes(match: L4Match) -> list[tuple[str, str]]:
    """What a match takes, piece by piece: (SNI name, subnet), empty for any."""
    return [(s, d) for s in match.sni_hosts or ("",) for d in match.destination_subnets or ("",)]


def _shadowed(match: L4Match, taken: dict[tuple[str, str], str]) -> str | None:
    """The path of an earlier match that takes all this one could; None: it may still take some."""
    found = [
        next((taken[t] for t in ((sni, net), (sni, ""), ("", net), ("", "")) if t in taken), None)
        for sni, net in _takes(match)
    ]
    return None if None in found else found[0]


def _unreachable(table: RouteTable, path: str, shadow: str) -> Problem:
    return Problem(
        Code.UNREACHABLE_ROUTE,
        Severity.WARNING,
        table.source,
        path,
        f"it never applies: {shadow} already takes every connection it could; reorder the rules, "
        "or narrow the earlier one",
    )


def _route(
    table: RouteTable,
    rule: L4Rule,
    match: L4Match,
    path: str,
    destinations: Destinations,
    resolver: Resolver,
) -> ir.L4Route:
    places = [destinations.place(w.target, table.source) for w in rule.destinations]
    return ir.L4Route(
        sni_hosts=match.sni_hosts,
        subnets=match.destination_subnets,
        forward=_weighted(rule.destinations, places, resolver),
        source=table.source,
        path=path,
    )


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

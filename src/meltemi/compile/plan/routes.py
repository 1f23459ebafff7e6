"""Routes: a route table as one proxy, on one port, applies it (mesh-semantics 1.2)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from meltemi.base.problems import Problem
from meltemi.compile import ir, names
from meltemi.compile.plan.destinations import Client, Destinations, Place, Resolver, may_match
from meltemi.model.route import (
    DEFAULT_RETRY,
    DirectResponse,
    Exact,
    Forward,
    HeaderEdits,
    HttpMatch,
    HttpRule,
    NamedMatch,
    Prefix,
    Redirect,
    Regex,
    Rewrite,
    RouteTable,
    Target,
    Weighted,
)

ANYTHING = ir.Match(Prefix("/"))


class Planned(NamedTuple):
    routes: tuple[ir.Route, ...]
    problems: tuple[Problem, ...]


def default_route(host: str, port: int, hashes: Sequence[ir.HashPolicy] = ()) -> ir.Route:
    """Where a request goes that no rule is about: the service it names."""
    cluster = ir.WeightedCluster(names.outbound(port, "", host), 100)
    forward = ir.Forward((cluster,), None, None, DEFAULT_RETRY, (), tuple(hashes))
    return ir.Route("default", ANYTHING, forward)


def table_routes(table: RouteTable, client: Client, resolver: Resolver) -> Planned:
    """The routes of a table for one client, in order, up to the first that matches everything."""
    planner = _Planner(table, client, resolver)
    routes: list[ir.Route] = []
    for rule in table.http:
        for route in planner.routes(rule):
            routes.append(route)
            if _is_catch_all(route.match):
                return Planned(tuple(routes), planner.problems)
        if not rule.matches:
            break
    return Planned(tuple(routes), planner.problems)


def _is_catch_all(match: ir.Match) -> bool:
    any_path = match.path in (Prefix("/"), Regex(".*"))
    return any_path and not match.headers and not match.query


class _Planner:
    """Plans the rules of one table for one client."""

    def __init__(self, table: RouteTable, client: Client, resolver: Resolver) -> None:
        self._table = table
        self._client = client
        self._resolver = resolver
        self._destinations = Destinations(client, resolver)

    def routes(self, rule: HttpRule) -> Iterator[ir.Route]:
        """One route for each match that can apply to this client."""
        for i, match in enumerate(rule.matches or (HttpMatch(),)):
            if self._applies(match):
                yield ir.Route(
                    name=f"{rule.name}.{match.name}".strip("."),
                    match=_envoy_match(match),
                    action=self._action(rule, match),
                    headers=_without_host(rule.headers),
                    fault=rule.fault,
                    cors=rule.cors,
                    source=self._table.source,
                    path=f"{rule.path}.match[{i}]" if rule.matches else rule.path,
                )

    def _applies(self, match: HttpMatch) -> bool:
        """A match's own gateways stand for every source condition; the table's do not."""
        client = self._client
        if match.gateways:
            on_port = match.port is None or match.port == client.port
            return on_port and client.gateway in match.gateways
        if client.gateway not in self._table.gateways:
            return False
        return may_match(client, match.port, match.source_namespace, match.source_labels)

    def _action(self, rule: HttpRule, match: HttpMatch) -> ir.Forward | Redirect | DirectResponse:
        action = rule.action
        if not isinstance(action, Forward):
            return action
        places = [self._place(w.target) for w in action.destinations]
        clusters = tuple(
            ir.WeightedCluster(place.cluster, w.weight, _without_host(w.headers))
            for w, place in zip(action.destinations, places, strict=True)
        )
        hashes = dict.fromkeys(p for place in places for p in self._resolver.hashes(*place))
        return ir.Forward(
            clusters=clusters,
            rewrite=_rewrite(rule, match, action.destinations),
            timeout=rule.timeout,
            retry=rule.retry,
            mirrors=tuple((self._place(m.target).cluster, m.percent) for m in rule.mirrors),
            hashes=tuple(hashes),
        )

    def _place(self, target: Target) -> Place:
        return self._destinations.place(target, self._table.source)

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self._destinations.problems)


def _envoy_match(match: HttpMatch) -> ir.Match:
    pseudo = ((":scheme", match.scheme), (":method", match.method), (":authority", match.authority))
    headers = tuple(NamedMatch(name, m) for name, m in pseudo if m is not None)
    return ir.Match(
        path=match.path or Prefix("/"),
        ignore_case=match.ignore_case,
        headers=(*headers, *match.headers),
        query=match.query,
    )


_HOST_HEADERS = frozenset(("host", ":authority"))


def _without_host(edits: HeaderEdits) -> HeaderEdits:
    """Header edits without the host, which is rewritten instead."""
    if not any(name.lower() in _HOST_HEADERS for name, _ in edits.request_set):
        return edits
    kept = tuple((n, v) for n, v in edits.request_set if n.lower() not in _HOST_HEADERS)
    return msgspec.structs.replace(edits, request_set=kept)


def _host_of(edits: HeaderEdits) -> str:
    return next((v for n, v in edits.request_set if n.lower() in _HOST_HEADERS), "")


def _rewrite(rule: HttpRule, match: HttpMatch, destinations: Sequence[Weighted]) -> Rewrite | None:
    """The rule's rewrite; a `host` in the headers to set is a rewrite of the authority.

    A path replaces the matched prefix, or the whole path where the match is exact or a regex.
    """
    base = rule.rewrite or Rewrite()
    host = _host_of(rule.headers)
    if not host and len(destinations) == 1:
        host = _host_of(destinations[0].headers)
    whole = bool(base.path) and isinstance(match.path, Exact | Regex)
    merged = msgspec.structs.replace(base, authority=base.authority or host, whole=whole)
    return None if merged == Rewrite() else merged

"""Routes: a route table as one proxy, on one port, applies it (mesh-semantics 1.2)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from meltemi.base.problems import Problem
from meltemi.compile import ir, names
from meltemi.compile.plan.destinations import Client, Destinations, Resolver, may_match
from meltemi.model.route import (
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
    Weighted,
)
from meltemi.model.service import Resolution

ANYTHING = ir.Match(Prefix("/"))


class Planned(NamedTuple):
    routes: tuple[ir.Route, ...]
    problems: tuple[Problem, ...]


def default_route(host: str, port: int, resolver: Resolver) -> ir.Route:
    """Where a request goes that no rule is about: the service it names."""
    cluster = ir.WeightedCluster(names.outbound(port, "", host), 100)
    hashes = resolver.hashes(host, "", port)
    forward = ir.Forward((cluster,), None, None, resolver.default_retry, (), hashes)
    return ir.Route("default", ANYTHING, forward)


def table_routes(table: RouteTable, client: Client, resolver: Resolver) -> Planned:
    """The routes of a table for one client, in order, up to the first that matches everything."""
    planner = _Planner(table, client, resolver)
    routes: list[ir.Route] = []
    for rule in table.http:
        for route in planner.routes(rule):
            routes.append(route)
            if is_catch_all(route.match):
                return Planned(tuple(routes), planner.problems)
        if not rule.matches:
            break
    return Planned(tuple(routes), planner.problems)


def is_catch_all(match: ir.Match) -> bool:
    """Whether every request satisfies it."""
    any_path = match.path in (Prefix("/"), Regex(".*"))
    return any_path and not (match.headers or match.claims or match.query)


class _Planner:
    """Plans the rules of one table for one client."""

    def __init__(self, table: RouteTable, client: Client, resolver: Resolver) -> None:
        self._table = table
        self._client = client
        self._resolver = resolver
        self._destinations = Destinations(client, resolver)

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self._destinations.problems)

    def routes(self, rule: HttpRule) -> Iterator[ir.Route]:
        """One route for each match that can apply to this client."""
        for i, match in enumerate(rule.matches or (HttpMatch(),)):
            if self._applies(match):
                yield ir.Route(
                    name=_name(rule, match, i),
                    match=_envoy_match(match),
                    action=self._action(rule, match),
                    headers=_without_host(rule.headers),
                    fault=rule.fault,
                    cors=rule.cors,
                    source=rule.source,
                    path=match.field or (f"{rule.path}.match[{i}]" if rule.matches else rule.path),
                    stat_prefix=match.stat_prefix,
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
        match rule.action:
            case Redirect():
                return self._redirect(rule.action)
            case DirectResponse():
                return rule.action
            case Forward():
                return self._forward(rule, rule.action.destinations, match)

    def _forward(
        self, rule: HttpRule, destinations: Sequence[Weighted], match: HttpMatch
    ) -> ir.Forward:
        places = [self._destinations.place(w.target, rule.source) for w in destinations]
        rewrite = _rewrite(rule, match, destinations)
        decided = len(destinations) == 1 or bool(rewrite and rewrite.authority)
        clusters = tuple(
            ir.WeightedCluster(
                cluster=place.cluster,
                weight=w.weight,
                headers=_without_host(w.headers),
                authority="" if decided else _host_of(w.headers),
            )
            for w, place in zip(destinations, places, strict=True)
        )
        hashes = dict.fromkeys(p for place in places for p in self._resolver.hashes(*place))
        mirrors = [
            (self._destinations.place(m.target, rule.source).cluster, m.percent)
            for m in rule.mirrors
        ]
        renamed = any(c.authority for c in clusters) or bool(rewrite and rewrite.authority)
        return ir.Forward(
            clusters=clusters,
            rewrite=rewrite,
            timeout=rule.timeout,
            retry=self._resolver.default_retry if rule.retry is None else rule.retry,
            mirrors=tuple(mirrors),
            hashes=tuple(hashes),
            resolves=renamed and any(self._is_dynamic(place.host) for place in places),
        )

    def _is_dynamic(self, host: str) -> bool:
        service = self._resolver.service(host)
        return service is not None and service.resolution is Resolution.DYNAMIC

    def _redirect(self, redirect: Redirect) -> Redirect:
        """A redirect with its port: derived from the request's, and left out where the scheme
        implies it."""
        port = self._client.port if redirect.port_from_request else redirect.port
        scheme = redirect.scheme or ("https" if self._client.tls else "http")
        if (scheme, port) in (("http", 80), ("https", 443)):
            port = None
        return msgspec.structs.replace(redirect, port=port, port_from_request=False)


def _name(rule: HttpRule, match: HttpMatch, index: int) -> str:
    """`rule.match`, the names its author gave; without any, the rule's place."""
    given = [name for name in (rule.name, match.name) if name]
    if given:
        return ".".join(given)
    place = rule.path.removeprefix("spec.http")
    return f"{place.strip('[]')}.{index}" if rule.matches else place.strip("[]")


def _envoy_match(match: HttpMatch) -> ir.Match:
    pseudo = ((":scheme", match.scheme), (":method", match.method), (":authority", match.authority))
    headers = tuple(NamedMatch(name, m) for name, m in pseudo if m is not None)
    return ir.Match(
        path=match.path or Prefix("/"),
        ignore_case=match.ignore_case,
        headers=(*headers, *match.headers),
        claims=match.claims,
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

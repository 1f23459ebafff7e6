"""Routes: a route table as one proxy, on one port, applies it (mesh-semantics 1.2)."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Problem, Severity
from meltemi.compile import ir, names
from meltemi.compile.scope import is_subset
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
from meltemi.model.service import Service

ANYTHING = ir.Match(Prefix("/"))


class Client(NamedTuple):
    """Who asks: what the control plane itself tests in a match."""

    gateway: str
    """`mesh`, or the gateway's `namespace/name`."""
    namespace: str
    labels: tuple[tuple[str, str], ...]
    port: int


class Resolver(NamedTuple):
    """How destinations are looked up while routes are planned."""

    service: Callable[[str], Service | None]
    subsets: Callable[[str], frozenset[str]]
    """The subsets the client's policy for a host defines."""
    hashes: Callable[[str, str, int], tuple[ir.HashPolicy, ...]]
    """(host, subset, port) to what its consistent hash is taken of."""


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
                return Planned(tuple(routes), tuple(planner.problems))
        if not rule.matches:
            break
    return Planned(tuple(routes), tuple(planner.problems))


def _is_catch_all(match: ir.Match) -> bool:
    any_path = match.path in (Prefix("/"), Regex(".*"))
    return any_path and not match.headers and not match.query


class _Planner:
    """Plans the rules of one table for one client."""

    def __init__(self, table: RouteTable, client: Client, resolver: Resolver) -> None:
        self._table = table
        self._client = client
        self._resolver = resolver
        self.problems: list[Problem] = []

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
        """What Envoy is never asked: the port, the gateway, and who the source is."""
        client = self._client
        if match.port is not None and match.port != client.port:
            return False
        if match.gateways:
            return client.gateway in match.gateways
        if client.gateway not in self._table.gateways:
            return False
        if match.source_namespace and match.source_namespace != client.namespace:
            return False
        return is_subset(match.source_labels, client.labels)

    def _action(self, rule: HttpRule, match: HttpMatch) -> ir.Forward | Redirect | DirectResponse:
        action = rule.action
        if not isinstance(action, Forward):
            return action
        clusters = tuple(
            ir.WeightedCluster(self._cluster(w.target), w.weight, _without_host(w.headers))
            for w in action.destinations
        )
        hashes = dict.fromkeys(
            policy
            for w in action.destinations
            for policy in self._resolver.hashes(
                w.target.host, w.target.subset, self._port(w.target)
            )
        )
        return ir.Forward(
            clusters=clusters,
            rewrite=_rewrite(rule, match, action.destinations),
            timeout=rule.timeout,
            retry=rule.retry,
            mirrors=tuple((self._cluster(m.target), m.percent) for m in rule.mirrors),
            hashes=tuple(hashes),
        )

    def _port(self, target: Target) -> int:
        """The destination's port: named, or the service's only one, or the listener's."""
        if target.port is not None:
            return target.port
        service = self._resolver.service(target.host)
        if service is not None and len(service.ports) == 1:
            return service.ports[0].number
        return self._client.port

    def _cluster(self, target: Target) -> str:
        """The cluster's name, whether it exists or not; a problem where it does not."""
        port = self._port(target)
        service = self._resolver.service(target.host)
        if service is None:
            self._report(
                Code.UNKNOWN_HOST,
                f"{target.path}.host",
                f"no service has the host {target.host}: requests routed there fail with 503; "
                "create the service, or correct the name",
            )
        elif service.port(port) is None:
            self._report(
                Code.UNKNOWN_PORT,
                f"{target.path}.port",
                f"{target.host} has no port {port}: it has "
                f"{', '.join(str(p.number) for p in service.ports) or 'none'}",
            )
        elif target.subset and target.subset not in self._resolver.subsets(target.host):
            self._report(
                Code.UNKNOWN_SUBSET,
                f"{target.path}.subset",
                f"no DestinationRule for {target.host} defines the subset {target.subset!r}: "
                "requests routed there fail with 503; define it, or correct the name",
            )
        return names.outbound(port, target.subset, target.host)

    def _report(self, code: Code, path: str, message: str) -> None:
        about: ObjectKey = self._table.source
        problem = Problem(code, Severity.ERROR, about, path, message)
        if problem not in self.problems:
            self.problems.append(problem)


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

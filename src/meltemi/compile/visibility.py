"""Who sees what: the services of each scope, by exportTo, Sidecars and precedence.

mesh-semantics 1.1 and 1.6.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

import msgspec

from meltemi.base.keys import HostKey, ObjectKey
from meltemi.base.problems import Outcome
from meltemi.compile.scope import ScopeKey
from meltemi.flow import Fetch, Graph, View
from meltemi.model.build import Model
from meltemi.model.hosts import is_visible, matches_host
from meltemi.model.route import MESH, Forward, RouteTable
from meltemi.model.service import Resolution, Service
from meltemi.model.sidecar import EVERYTHING, Egress

ORPHAN_PORT = 80
"""Where the hosts of route tables stand that no service has, as in Istio."""


class Pair(NamedTuple):
    """A service as one scope sees it."""

    scope: ScopeKey
    host: HostKey


class Way(NamedTuple):
    """A service as one way out of a scope leads to it."""

    pair: Pair
    number: int
    """Which of the scope's ways."""


class Sight(msgspec.Struct, frozen=True):
    """How a scope sees a service."""

    egress: tuple[int, ...]
    """Which of the Sidecar's ways out import it; none: only routes lead to it."""


class Listed(msgspec.Struct, frozen=True):
    """What visibility needs of a service, and nothing that changes often."""

    key: HostKey
    export_to: tuple[str, ...]
    precedence: tuple[bool, tuple[str, str, str]]
    alias_of: str
    """The host that this one is another name of; empty: it is its own."""


class Outline(msgspec.Struct, frozen=True):
    """What visibility needs of a route table."""

    namespace: str
    hosts: tuple[str, ...]
    export_to: tuple[str, ...]
    destinations: tuple[str, ...]
    source: ObjectKey
    created: tuple[str, str, str]
    speaks_http: bool


class Orphan(NamedTuple):
    """A host that only a route table knows, as one scope sees it."""

    scope: ScopeKey
    host: str


class Visibility(NamedTuple):
    listed: View[HostKey, Listed]
    pairs: View[Pair, Sight]
    orphans: View[Orphan, ObjectKey]
    """The table of each; its routes stand on `ORPHAN_PORT` alone."""


def egress_of(fetch: Fetch, model: Model, scope: ScopeKey) -> tuple[Egress, ...]:
    """The ways out of a scope's proxies."""
    sidecar = fetch.get(model.sidecars, scope.sidecar) if scope.sidecar.name else None
    return sidecar.egress if sidecar is not None else (EVERYTHING,)


def applied(
    tables: Sequence[RouteTable], egress: Sequence[Egress], namespace: str
) -> Sequence[RouteTable]:
    """The route tables that a proxy imports."""
    if EVERYTHING in egress:
        return tables
    return [t for t in tables if any(e.applies(t.namespace, t.hosts, namespace) for e in egress)]


def shared_way(egress: Sequence[Egress], port: int) -> tuple[Egress, ...]:
    """The way out whose routes stand in the route configuration that a port's services share:
    the first with the port of its own, or else those without any."""
    own = [way for way in egress if way.port == port and not way.bind]
    return tuple(own[:1] or [way for way in egress if way.port is None])


def visibility(graph: Graph, model: Model, scopes: View[ScopeKey, ScopeKey]) -> Visibility:
    """Add what each scope sees to the graph."""
    listed = graph.derive("listed services", model.services, _listed)
    outlines = graph.derive(
        "outlines of tables",
        model.tables,
        lambda _f, key, table: {key: Outcome(_outline(table))} if _is_mesh(table) else {},
    )
    seer = _Seer(model, listed, outlines)
    reads = (listed, outlines, model.sidecars)
    pairs = graph.derive("visible services", scopes, seer.services, reads=reads)
    orphans = graph.derive("orphan hosts", scopes, seer.orphans, reads=reads)
    return Visibility(listed, pairs, orphans)


class _Seer:
    """Transforms from a scope to what it sees."""

    def __init__(
        self, model: Model, listed: View[HostKey, Listed], outlines: View[ObjectKey, Outline]
    ) -> None:
        self._model = model
        self._listed = listed
        self._outlines = outlines

    def services(
        self, fetch: Fetch, scope: ScopeKey, _value: ScopeKey
    ) -> Mapping[Pair, Outcome[Sight]]:
        """The services of a scope, those that only routes lead to included."""
        own = scope.namespace
        services = [s for s in fetch.all(self._listed) if is_visible(s.export_to, own)]
        egress = egress_of(fetch, self._model, scope)
        if EVERYTHING in egress and len(egress) == 1:
            return {Pair(scope, s.key): Outcome(_WHOLE) for s in preferred(services, own)}
        found = _imported(services, egress, own)
        tables = self._tables(fetch, egress, own)
        wanted = {host for o in tables for host in o.destinations} - {key.host for key in found}
        for service in preferred((s for s in services if s.key.host in wanted), own):
            found[service.key] = Sight(())
        return {Pair(scope, key): Outcome(sight) for key, sight in found.items()}

    def orphans(
        self, fetch: Fetch, scope: ScopeKey, _value: ScopeKey
    ) -> Mapping[Orphan, Outcome[ObjectKey]]:
        """The hosts of a scope's route tables that none of its services has."""
        if scope.kind != "sidecar":
            return {}
        own = scope.namespace
        egress = shared_way(egress_of(fetch, self._model, scope), ORPHAN_PORT)
        hosts = {
            s.key.host
            for s in fetch.all(self._listed)
            if is_visible(s.export_to, own) and any(e.sees(s.key, own) for e in egress)
        }
        found: dict[Orphan, Outcome[ObjectKey]] = {}
        for table in sorted(self._tables(fetch, egress, own), key=lambda o: o.created):
            for host in table.hosts if table.speaks_http else ():
                if not _is_known(host, hosts):
                    found.setdefault(Orphan(scope, host), Outcome(table.source))
        return found

    def _tables(self, fetch: Fetch, egress: Sequence[Egress], own: str) -> list[Outline]:
        """The route tables that are exported to a namespace and imported into its proxies."""
        return [
            o
            for o in fetch.all(self._outlines)
            if is_visible(o.export_to, own)
            and any(e.applies(o.namespace, o.hosts, own) for e in egress)
        ]


def _is_known(host: str, hosts: Set[str]) -> bool:
    """Whether some service has the host, or one that a wildcard means."""
    return host in hosts or (host.startswith("*") and any(matches_host(host, h) for h in hosts))


_WHOLE = Sight((0,))


def _listed(_fetch: Fetch, key: HostKey, service: Service) -> Mapping[HostKey, Outcome[Listed]]:
    alias_of = service.external_name if service.resolution is Resolution.ALIAS else ""
    return {key: Outcome(Listed(key, service.export_to, service.precedence, alias_of))}


def _is_mesh(table: RouteTable) -> bool:
    return MESH in table.named_gateways


def _outline(table: RouteTable) -> Outline:
    return Outline(
        namespace=table.namespace,
        hosts=table.hosts,
        export_to=table.export_to,
        destinations=tuple(_destinations(table)),
        source=table.source,
        created=table.created,
        speaks_http=bool(table.http),
    )


def _destinations(table: RouteTable) -> list[str]:
    """Every host that the table's rules send or mirror traffic to."""
    found: dict[str, None] = {}
    for rule in table.http:
        if isinstance(rule.action, Forward):
            found |= dict.fromkeys(w.target.host for w in rule.action.destinations)
        found |= dict.fromkeys(m.target.host for m in rule.mirrors)
    for l4 in (*table.tls, *table.tcp):
        found |= dict.fromkeys(w.target.host for w in l4.destinations)
    return sorted(found)


def _imported(
    services: Iterable[Listed], egress: Sequence[Egress], own: str
) -> dict[HostKey, Sight]:
    ways = {
        s.key: tuple(i for i, way in enumerate(egress) if way.sees(s.key, own)) for s in services
    }
    candidates = [s for s in services if ways[s.key]]
    return {s.key: Sight(ways[s.key]) for s in preferred(candidates, own)}


def preferred(services: Iterable[Listed], namespace: str) -> Iterator[Listed]:
    """One service for each host: the namespace's own, or else the one that takes precedence."""
    chosen: dict[str, Listed] = {}
    for service in services:
        rival = chosen.get(service.key.host)
        if rival is None or _rank(service, namespace) < _rank(rival, namespace):
            chosen[service.key.host] = service
    yield from chosen.values()


def _rank(service: Listed, namespace: str) -> tuple[bool, object]:
    return (service.key.namespace != namespace, service.precedence)

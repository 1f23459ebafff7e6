"""Joins sealed pieces into sets: the last step, with no decisions left.

Keeps for every scope what each service contributes, so that one changed service touches its own
names and no others. A route configuration is its pieces, one after the other, in host order.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

from meltemi.base.keys import HostKey, ObjectKey
from meltemi.base.resource import (
    CLUSTER,
    ENDPOINT,
    LISTENER,
    ROUTE,
    SECRET,
    Change,
    ProxyView,
    Resource,
    SetKey,
    seal,
)
from meltemi.compile import ir
from meltemi.compile.claims import Outbound
from meltemi.compile.configuration import Configuration
from meltemi.compile.east_west import EastWest
from meltemi.compile.envoy import routes as envoy_routes
from meltemi.compile.envoy.kit import Kit
from meltemi.compile.scope import PEERS, READS_SECRETS, ScopeKey
from meltemi.compile.seal import Beyond, HostPieces, Resources
from meltemi.compile.settings import MESH
from meltemi.compile.views import RouteVariant, Variant, Views
from meltemi.compile.visibility import ORPHAN_PORT, Orphan, Way
from meltemi.flow import Distinct, View

COMMON = "common"
"""The owner of the sets that every proxy has."""

Changes = dict[SetKey, dict[str, Resource | None]]


Owner = ScopeKey | str
"""Many proxies, or one by its id, or the owner of sets that are in several views."""


class _Scope:
    """What a scope's sets hold, by where it comes from."""

    def __init__(self, name: str) -> None:
        self.name = name
        """The owner of its sets."""
        self.resources: dict[object, Resources] = {}
        """By contributor: (kind of contribution, host)."""
        self.configurations: dict[str, Configuration] = {}


class Sealed(NamedTuple):
    """The sealed views, before they are joined into sets."""

    clusters: View[Variant, Resources]
    endpoints: View[Variant, Resources]
    passed: View[Variant, Resources]
    hosts: View[RouteVariant, HostPieces]
    orphans: View[Orphan, HostPieces]
    listeners: View[ir.Listener, Resource]
    outside: View[ScopeKey, Beyond]
    common: View[str, Resources]
    inbound: View[str, Resources]
    peers: View[str, Resources]
    gateways: View[ScopeKey, Resources]
    secrets: View[ObjectKey, Resources]
    variants: Distinct[Any, Variant]
    route_variants: Distinct[Any, RouteVariant]


class Assembler:
    """Turns changed keys of the sealed views into a Change."""

    def __init__(
        self,
        kit: Kit,
        views: Views,
        outbound: Outbound,
        passing: EastWest,
        sealed: Sealed,
    ) -> None:
        self._kit = kit
        self._views = views
        self._outbound = outbound
        self._passing = passing
        self._sealed = sealed
        self._owners: dict[Owner, _Scope] = {}
        self._hosts_of: dict[Way, tuple[str, ...]] = {}
        self._out: Changes = {}
        self._dirty: set[tuple[ScopeKey, str]] = set()

    def change(self, changes: Mapping[View[Any, Any], Iterable[Any]], revision: int) -> Change:
        self._out = {}
        self._dirty = set()
        views, sealed = self._views, self._sealed
        if sealed.common in changes:
            self._common()
        for scope in changes.get(sealed.outside, ()):
            self._outside(scope)
        for key in changes.get(sealed.inbound, ()):
            self._contribute(key, "inbound", sealed.inbound.get(key) or ())
        for key in changes.get(sealed.peers, ()):
            self._contribute(key, "peers", sealed.peers.get(key) or ())
        for scope in changes.get(sealed.gateways, ()):
            found = sealed.gateways.get(scope) or ()
            self._contribute(scope, "gateway", found)
        for key in changes.get(sealed.secrets, ()):
            found = sealed.secrets.get(key) or ()
            self._contribute(_secrets_of(key.namespace), key, found)
        self._pairs(changes)
        self._passed(changes)
        self._listeners(changes)
        ways = self._ways(changes)
        for way in ways:
            self._forget_route(way)
        for way in ways:
            self._route(way)
        for orphan in changes.get(sealed.orphans, ()):
            self._orphan(orphan)
        for scope, name in sorted(self._dirty):
            self._configuration(scope, name)
        proxies = {
            node: self._view(node, views.scopes_of.get(node))
            for node in changes.get(views.scopes_of, ())
        }
        return Change(revision, self._out, proxies)

    def _common(self) -> None:
        self._contribute(COMMON, "common", self._sealed.common.get(MESH) or ())

    def _outside(self, key: ScopeKey) -> None:
        """What takes the rest, which stands in every route configuration."""
        found = self._sealed.outside.get(key)
        self._contribute(key, "outside", (found.listener,) if found else ())
        self._dirty |= {(key, name) for name in self._owner(key).configurations}

    def _pairs(self, changes: Mapping[View[Any, Any], Iterable[Any]]) -> None:
        """Clusters and endpoints of the pairs that something changed for."""
        sealed, choices = self._sealed, self._views.choices
        chosen = set(changes.get(choices, ()))
        kinds = (("cluster", sealed.clusters), ("endpoint", sealed.endpoints))
        for kind, view in kinds:
            dirty = set(chosen)
            for variant in changes.get(view, ()):
                dirty |= sealed.variants.members(variant)
            for pair in dirty:
                variant = choices.get(pair)
                found = view.get(variant) if variant is not None else None
                self._contribute(pair.scope, (kind, pair.host), found or ())

    def _passed(self, changes: Mapping[View[Any, Any], Iterable[Any]]) -> None:
        """What east-west gateways find by SNI."""
        passing, sealed = self._passing, self._sealed.passed
        dirty = set(changes.get(passing.choices, ()))
        for variant in changes.get(sealed, ()):
            dirty |= passing.variants.members(variant)
        for pair in dirty:
            variant = passing.choices.get(pair)
            found = sealed.get(variant) if variant is not None else None
            self._contribute(pair.scope, ("passed", pair.host), found or ())

    def _listeners(self, changes: Mapping[View[Any, Any], Iterable[Any]]) -> None:
        """Outbound listeners: those planned anew, and those written anew."""
        planned, sealed = self._outbound, self._sealed.listeners
        dirty = set(changes.get(planned.listeners, ()))
        for listener in changes.get(sealed, ()):
            dirty |= planned.distinct.members(listener)
        for slot in dirty:
            plan = planned.listeners.get(slot)
            found = sealed.get(plan) if plan is not None else None
            resources = () if found is None else (found,)
            contributor = ("listener", slot.bind, slot.port)
            self._contribute(slot.scope, contributor, resources)

    def _ways(self, changes: Mapping[View[Any, Any], Iterable[Any]]) -> set[Way]:
        sealed = self._sealed
        dirty: set[Way] = set(changes.get(self._views.routes, ()))
        dirty |= {key.way for key in changes.get(self._outbound.claims, ())}
        for variant in changes.get(sealed.hosts, ()):
            dirty |= sealed.route_variants.members(variant)
        return dirty

    def _forget_route(self, way: Way) -> None:
        """Take away the pieces of a service on one way out; another way may get their place."""
        scope, host = way.pair
        for name in self._hosts_of.pop(way, ()):
            self._dirty.add((scope, name))
            self._routes(scope, name).remove(host)

    def _route(self, way: Way) -> None:
        """Put the pieces of a service into the route configurations of one way out."""
        pair = way.pair
        variant = self._views.routes.get(way)
        found = self._sealed.hosts.get(variant) if variant is not None else None
        names = self._outbound.configurations(way)
        pieces = {
            name: piece
            for port, piece in (found.pieces if found else ())
            for name in names.get(port, ())
        }
        for name, piece in pieces.items():
            self._dirty.add((pair.scope, name))
            self._routes(pair.scope, name).put(pair.host, piece)
        if pieces:
            self._hosts_of[way] = tuple(pieces)

    def _orphan(self, orphan: Orphan) -> None:
        """Put a host without a service into the one configuration where it stands, after those
        of services."""
        found = self._sealed.orphans.get(orphan)
        key, name = HostKey("~", orphan.host), str(ORPHAN_PORT)
        configuration = self._routes(orphan.scope, name)
        configuration.remove(key)
        for _, piece in found.pieces if found is not None else ():
            configuration.put(key, piece)
        self._dirty.add((orphan.scope, name))

    def _configuration(self, key: ScopeKey, name: str) -> None:
        """Join a route configuration."""
        found = self._routes(key, name)
        if not found:
            del self._owner(key).configurations[name]
            self._contribute(key, ("route", name), ())
            return
        outside = self._sealed.outside.get(key)
        rest = (outside.host,) if outside is not None else ()
        body = envoy_routes.configuration(self._kit, name, (*found.bodies(), *rest))
        self._contribute(key, ("route", name), (seal(ROUTE, name, body),))

    def _routes(self, key: ScopeKey, name: str) -> Configuration:
        scope = self._owner(key)
        found = scope.configurations.get(name)
        if found is None:
            found = scope.configurations[name] = Configuration(self._kit)
        return found

    def _owner(self, key: Owner) -> _Scope:
        found = self._owners.get(key)
        if found is None:
            name = key if isinstance(key, str) else key.owner
            found = self._owners[key] = _Scope(name)
        return found

    def _contribute(self, owner: Owner, contributor: object, resources: Resources) -> None:
        """Replace what one contributor gives to an owner's sets; note the differences."""
        scope = self._owner(owner)
        before = scope.resources.pop(contributor, ())
        if resources:
            scope.resources[contributor] = resources
        elif not scope.resources and not scope.configurations:
            del self._owners[owner]
        if before == resources:
            return
        for resource in resources:
            if resource not in before:
                self._changes(resource, scope)[resource.name] = resource
        left = {(resource.type_url, resource.name) for resource in resources} if before else ()
        for resource in before:
            if (resource.type_url, resource.name) not in left:
                self._changes(resource, scope).setdefault(resource.name, None)

    def _changes(self, resource: Resource, scope: _Scope) -> dict[str, Resource | None]:
        """What changes in the set of an owner that a resource belongs to."""
        key = (resource.type_url, scope.name)
        found = self._out.get(cast("SetKey", key))
        if found is None:
            found = self._out[SetKey(*key)] = {}
        return found

    def _view(self, node: str, scope: ScopeKey | None) -> ProxyView | None:
        if scope is None:
            return None
        shared = scope.owner
        sets = [
            SetKey(CLUSTER, COMMON),
            SetKey(CLUSTER, shared),
            SetKey(ENDPOINT, shared),
            SetKey(LISTENER, shared),
            SetKey(ROUTE, shared),
        ]
        if READS_SECRETS in scope.traits:
            sets.append(SetKey(SECRET, _secrets_of(scope.namespace)))
        if PEERS in scope.traits:
            sets.append(SetKey(ENDPOINT, node))
        if scope.kind == "sidecar":
            sets += [SetKey(CLUSTER, node), SetKey(LISTENER, node)]
        return ProxyView(node, tuple(sets))


def _secrets_of(namespace: str) -> str:
    """The owner of a namespace's secrets: in the view only of who may read them."""
    return f"secrets/{namespace}"

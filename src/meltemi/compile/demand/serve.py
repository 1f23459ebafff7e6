"""What on-demand proxies are sent: listeners for every HTTP port, and virtual hosts by name.

The compiler plans a scope from what is learned, as ever; here its shared HTTP listeners and route
configurations give way to ones that ask, and each name that was asked gets its virtual host.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.base.resource import (
    LISTENER,
    ROUTE,
    VIRTUAL_HOST,
    Change,
    ProxyView,
    Resource,
    SetKey,
    seal,
)
from meltemi.compile import names
from meltemi.compile.demand.learn import Learning, authority
from meltemi.compile.envoy.kit import Kit, set_struct
from meltemi.compile.patch.apply import OWN, USUAL_NAME
from meltemi.compile.scope import IPV6, ON_DEMAND, ScopeKey
from meltemi.compile.seal import Asking, Beyond
from meltemi.flow import View
from meltemi.model.hosts import wildcards_over

_CONFIGURATION = "envoy.config.route.v3.RouteConfiguration"
_ASKING = "on-demand"
"""The owner of what all on-demand proxies share."""
_WAIT = "0.1s"
"""How long a route configuration waits for its first virtual hosts: it starts without any."""

Resources = dict[str, Resource]
Changes = dict[SetKey, dict[str, Resource | None]]


class OnDemand:
    """Turns the assembler's changes into those that on-demand proxies see."""

    def __init__(
        self,
        kit: Kit,
        learned: Learning,
        demands: View[ObjectKey, frozenset[str]],
        scopes_of: View[str, ScopeKey],
        listeners: View[Asking, Resource],
        outside: View[ScopeKey, Beyond],
    ) -> None:
        self._kit = kit
        self._learned = learned
        self._demands = demands
        self._scopes_of = scopes_of
        self._listeners = listeners
        self._outside = outside
        self._scopes: dict[str, ScopeKey] = {}
        """By owner."""
        self._base: dict[SetKey, Resources] = {}
        self._sent: dict[SetKey, Resources] = {}

    def change(self, change: Change, changes: Mapping[View[Any, Any], Iterable[Any]]) -> Change:
        ports = self._listeners in changes or self._learned.ports in changes
        gone: set[str] = set()
        if change.views:
            current = {s.owner: s for s in self._scopes_of.values() if ON_DEMAND in s.traits}
            gone = self._scopes.keys() - current.keys()
            self._scopes = current
        if not self._scopes and not gone:
            return change
        touched = self._mirror(change)
        asked = set(changes.get(self._demands, ()))
        out: Changes = {key: dict(found) for key, found in change.resources.items()}
        for owner in gone:
            self._forget(owner, out)
        if ports or not self._sent:
            for ipv6 in (False, True):
                self._put(SetKey(LISTENER, _asking(ipv6)), self._shared_listeners(ipv6=ipv6), out)
            self._put(SetKey(ROUTE, _ASKING), self._shared_routes(), out)
        for owner, scope in self._scopes.items():
            if ports or owner in touched or scope.sidecar in asked:
                self._scope(owner, scope, out)
        views = {node: view and self._view(node, view) for node, view in change.views.items()}
        return Change(change.revision, out, views)

    def _forget(self, owner: str, out: Changes) -> None:
        """A scope without proxies keeps nothing."""
        for key in (*(_own(t, owner) for t in (LISTENER, ROUTE)), SetKey(VIRTUAL_HOST, owner)):
            self._put(key, {}, out)
            self._sent.pop(key)
        for type_url in (LISTENER, ROUTE):
            self._base.pop(SetKey(type_url, owner), None)

    def _mirror(self, change: Change) -> set[str]:
        """Keep what the scopes' own sets hold; answers the owners that changed."""
        touched: set[str] = set()
        for key, resources in change.resources.items():
            if key.owner not in self._scopes or key.type_url not in (LISTENER, ROUTE):
                continue
            touched.add(key.owner)
            held = self._base.setdefault(key, {})
            for name, resource in resources.items():
                if resource is None:
                    held.pop(name, None)
                else:
                    held[name] = resource
        return touched

    def _ports(self) -> list[int]:
        return sorted(self._learned.ports)

    def _shared_listeners(self, *, ipv6: bool) -> Resources:
        found = (self._listeners.get(Asking(port, ipv6)) for port in self._ports())
        return {r.name: r for r in found if r is not None}

    def _shared_routes(self) -> Resources:
        """Route configurations that know no host and ask for every one."""
        source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": _WAIT}
        found: Resources = {}
        for port in self._ports():
            body = {"name": str(port), "vhds": {"config_source": source}}
            message = self._kit.from_dict(_CONFIGURATION, body | {"validate_clusters": False})
            found[str(port)] = seal(ROUTE, str(port), message.SerializeToString(deterministic=True))
        return found

    def _scope(self, owner: str, scope: ScopeKey, out: Changes) -> None:
        asking = {str(port) for port in self._ports()}
        listening = {names.wildcard_listener(port) for port in self._ports()}
        for type_url, replaced in ((LISTENER, listening), (ROUTE, asking)):
            base = self._base.get(SetKey(type_url, owner), {})
            own = {name: r for name, r in base.items() if name not in replaced}
            self._put(_own(type_url, owner), own, out)
        hosts = _Hosts(self._kit, self._base.get(SetKey(ROUTE, owner), {}), self._last(scope))
        found = {
            name: resource
            for name in self._demands.get(scope.sidecar) or ()
            if (resource := hosts.of(name)) is not None
        }
        self._put(SetKey(VIRTUAL_HOST, owner), found, out)

    def _last(self, scope: ScopeKey) -> bytes:
        found = self._outside.get(scope)
        return found.host if found is not None else b""

    def _put(self, key: SetKey, resources: Resources, out: Changes) -> None:
        before = self._sent.get(key, {})
        for gone in before.keys() - resources.keys():
            out.setdefault(key, {})[gone] = None
        for name, resource in resources.items():
            if before.get(name) != resource:
                out.setdefault(key, {})[name] = resource
        self._sent[key] = resources

    def _view(self, node: str, view: ProxyView) -> ProxyView:
        scope = self._scopes_of.get(node)
        if scope is None or ON_DEMAND not in scope.traits:
            return view
        replaced = {SetKey(t, scope.owner): _own(t, scope.owner) for t in (LISTENER, ROUTE)}
        sets = [replaced.get(key, key) for key in view.sets]
        sets += [SetKey(LISTENER, _asking(scope.has_ipv6)), SetKey(ROUTE, _ASKING)]
        sets.append(SetKey(VIRTUAL_HOST, scope.owner))
        return msgspec.structs.replace(view, sets=tuple(sets))


def _asking(has_ipv6: bool) -> str:
    return f"{_ASKING}/{IPV6}" if has_ipv6 else _ASKING


def _own(type_url: str, owner: str) -> SetKey:
    return SetKey(type_url, f"{owner}~own")


class _Hosts:
    """Finds the virtual host of an authority in a scope's route configurations, as Envoy would."""

    def __init__(self, kit: Kit, configurations: Resources, last: bytes) -> None:
        self._kit = kit
        self._configurations = configurations
        self._last = last
        self._parsed: dict[str, dict[str, Any]] = {}

    def of(self, name: str) -> Resource | None:
        """A virtual host for exactly the authority that was asked for; None: there is none."""
        configuration, host = authority(name)
        domains = self._domains(configuration)
        found = next((domains[d] for d in (host, *wildcards_over(host)) if d in domains), None)
        if found is None:
            return None
        message = self._kit.new("envoy.config.route.v3.VirtualHost")
        message.CopyFrom(found)
        # Envoy tells virtual hosts apart by their names, patches know them by the usual one.
        set_struct(message.metadata.filter_metadata[OWN], {USUAL_NAME: found.name})
        message.name = name
        del message.domains[:]
        message.domains.append(name.partition("/")[2])
        return seal(VIRTUAL_HOST, name, message.SerializeToString(deterministic=True))

    def _domains(self, configuration: str) -> dict[str, Any]:
        if configuration not in self._parsed:
            resource = self._configurations.get(configuration)
            message = self._kit.new(_CONFIGURATION)
            message.ParseFromString(resource.body if resource is not None else self._last)
            self._parsed[configuration] = {
                domain.lower(): host for host in message.virtual_hosts for domain in host.domains
            }
        return self._parsed[configuration]

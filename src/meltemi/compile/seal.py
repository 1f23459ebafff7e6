"""From plans to sealed resources: transforms that plan one thing and write its bytes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Outcome
from meltemi.base.resource import (
    CLUSTER,
    ENDPOINT,
    LISTENER,
    ROUTE,
    SECRET,
    NodeInfo,
    Resource,
    seal,
)
from meltemi.compile import east_west, ir
from meltemi.compile.envoy import clusters as envoy_clusters
from meltemi.compile.envoy import endpoints as envoy_endpoints
from meltemi.compile.envoy import inbound as envoy_inbound
from meltemi.compile.envoy import listeners as envoy_listeners
from meltemi.compile.envoy import outbound as envoy_outbound
from meltemi.compile.envoy import routes as envoy_routes
from meltemi.compile.envoy import secrets as envoy_secrets
from meltemi.compile.envoy.kit import Kit
from meltemi.compile.plan.hosts import fallback_host
from meltemi.compile.plan.listeners import asking_listener, virtual_outbound
from meltemi.compile.plan.outside import Outside, dynamic_cluster
from meltemi.compile.planner import Planner
from meltemi.compile.scope import ScopeKey, knows_peers
from meltemi.compile.settings import MeshSettings
from meltemi.compile.views import RouteVariant, Variant
from meltemi.compile.visibility import Orphan
from meltemi.flow import Fetch, View
from meltemi.model.credential import Credential

Resources = tuple[Resource, ...]


class Piece(NamedTuple):
    domains: tuple[str, ...]
    body: bytes


class HostPieces(NamedTuple):
    """The virtual hosts of one service, by port: pieces of route configurations."""

    pieces: tuple[tuple[int, Piece], ...]


class Asking(NamedTuple):
    """Which listener of on-demand proxies."""

    port: int
    ipv6: bool


class Beyond(NamedTuple):
    """Where a scope's traffic goes that no service takes."""

    listener: Resource
    host: bytes
    """The last virtual host of its route configurations."""


class Sealer:
    """Writes what the planner plans; owns the message kit."""

    def __init__(self, kit: Kit, planner: Planner) -> None:
        self._kit = kit
        self._planner = planner

    def _settings(self, fetch: Fetch) -> MeshSettings:
        return self._planner.settings(fetch)

    def clusters(
        self, fetch: Fetch, variant: Variant, _value: Variant
    ) -> Mapping[Variant, Outcome[Resources]]:
        """All clusters of a service under one policy."""
        settings = self._settings(fetch)
        sealed = tuple(
            _seal(CLUSTER, plan.name, envoy_clusters.cluster(self._kit, plan, settings))
            for plan in self._planner.clusters(fetch, variant)
        )
        return {variant: Outcome(sealed)}

    def endpoints(
        self, fetch: Fetch, variant: Variant, _value: Variant
    ) -> Mapping[Variant, Outcome[Resources]]:
        """The endpoints of each of those clusters."""
        settings = self._settings(fetch)
        sealed = []
        for plan in self._planner.assignments(fetch, variant):
            message = envoy_endpoints.assignment(self._kit, plan, settings)
            sealed.append(_seal(ENDPOINT, plan.cluster, message))
        return {variant: Outcome(tuple(sealed))}

    def passed(
        self, fetch: Fetch, variant: Variant, _value: Variant
    ) -> Mapping[Variant, Outcome[Resources]]:
        """The clusters and endpoints that east-west gateways find by SNI."""
        settings = self._settings(fetch)
        sealed = [
            _seal(CLUSTER, plan.name, envoy_clusters.cluster(self._kit, plan, settings))
            for plan in east_west.named_clusters(self._planner, fetch, variant)
        ]
        for assigned in east_west.named_assignments(self._planner, fetch, variant):
            message = envoy_endpoints.assignment(self._kit, assigned, settings)
            sealed.append(_seal(ENDPOINT, assigned.cluster, message))
        return {variant: Outcome(tuple(sealed))}

    def hosts(
        self, fetch: Fetch, variant: RouteVariant, _value: RouteVariant
    ) -> Mapping[RouteVariant, Outcome[HostPieces]]:
        """The virtual hosts of a service, one for each port that may carry HTTP."""
        plan = self._planner.hosts(fetch, variant)
        pieces = tuple(
            (port, Piece(host.domains, self._element(host))) for port, host in plan.hosts
        )
        return {variant: Outcome(HostPieces(pieces), plan.problems)}

    def orphan(
        self, fetch: Fetch, key: Orphan, source: ObjectKey
    ) -> Mapping[Orphan, Outcome[HostPieces]]:
        """The virtual host of a host that only a route table knows."""
        plan = self._planner.orphan(fetch, key, source)
        pieces = ((port, Piece(host.domains, self._element(host))) for port, host in plan.hosts)
        return {key: Outcome(HostPieces(tuple(pieces)), plan.problems)}

    def _element(self, host: ir.VirtualHost) -> bytes:
        return envoy_routes.element(self._kit, envoy_routes.virtual_host(self._kit, host))

    def outside(
        self, fetch: Fetch, scope: ScopeKey, plan: Outside
    ) -> Mapping[ScopeKey, Outcome[Beyond]]:
        """What takes the traffic that nothing else does."""
        listener = self._listener(
            virtual_outbound(plan, ipv6=scope.has_ipv6), self._settings(fetch)
        )
        return {scope: Outcome(Beyond(listener, self._element(fallback_host(plan))))}

    def listener(
        self, fetch: Fetch, plan: ir.Listener, _value: ir.Listener
    ) -> Mapping[ir.Listener, Outcome[Resource]]:
        """A listener that scopes share."""
        return {plan: Outcome(self._listener(plan, self._settings(fetch)))}

    def asking_listeners(
        self, fetch: Fetch, port: int, _value: int
    ) -> Mapping[Asking, Outcome[Resource]]:
        """A port's listeners for on-demand proxies, without and with IPv6."""
        settings = self._settings(fetch)
        return {
            Asking(port, ipv6): Outcome(
                self._listener(asking_listener(port, settings, ipv6=ipv6), settings)
            )
            for ipv6 in (False, True)
        }

    def _listener(self, plan: ir.Listener, settings: MeshSettings) -> Resource:
        message = envoy_listeners.listener(self._kit, plan, settings)
        return _seal(LISTENER, plan.name, message)

    def common(
        self, _fetch: Fetch, key: str, settings: MeshSettings
    ) -> Mapping[str, Outcome[Resources]]:
        """What every sidecar has, whatever the objects say."""
        built = envoy_outbound.common_clusters(self._kit, settings)
        if settings.resolves_outside:
            plan = dynamic_cluster(settings)
            built.append(envoy_clusters.cluster(self._kit, plan, settings))
        sealed = [_seal(CLUSTER, message.name, message) for message in built]
        return {key: Outcome(tuple(sealed))}

    def peers(self, fetch: Fetch, key: str, node: NodeInfo) -> Mapping[str, Outcome[Resources]]:
        """What a proxy knows of its peers, if it wants to."""
        if not knows_peers(node):
            return {}
        plan = self._planner.peers(fetch, node)
        message = envoy_endpoints.assignment(self._kit, plan, self._settings(fetch))
        return {key: Outcome((_seal(ENDPOINT, plan.cluster, message),))}

    def inbound(self, fetch: Fetch, key: str, plan: ir.Inbound) -> Mapping[str, Outcome[Resources]]:
        """A proxy's own listener and the clusters behind it."""
        settings = self._settings(fetch)
        node = fetch.get(self._nodes, key) if self._nodes is not None else None
        mark = _mark(node)
        listeners = [self._listener(listener, settings) for listener in plan.listeners]
        built = envoy_inbound.clusters(self._kit, plan, mark, settings)
        sealed = [_seal(CLUSTER, message.name, message) for message in built]
        return {key: Outcome((*sealed, *listeners))}

    _nodes: View[str, NodeInfo] | None = None

    def know(self, nodes: View[str, NodeInfo]) -> None:
        """Where `inbound` finds what proxies say of themselves."""
        self._nodes = nodes

    def gateway(
        self, fetch: Fetch, scope: ScopeKey, _value: ScopeKey
    ) -> Mapping[ScopeKey, Outcome[Resources]]:
        """All listeners and route configurations of a gateway scope."""
        if scope.kind != "router":
            return {}
        settings = self._settings(fetch)
        plan = self._planner.gateway(fetch, scope)
        sealed = [self._listener(listener, settings) for listener in plan.listeners]
        for name, hosts in sorted(plan.routes.items()):
            pieces = [
                envoy_routes.element(self._kit, envoy_routes.virtual_host(self._kit, h))
                for h in hosts
            ]
            body = envoy_routes.configuration(self._kit, name, pieces)
            sealed.append(seal(ROUTE, name, body))
        return {scope: Outcome(tuple(sealed), plan.problems)}

    def secrets(
        self, fetch: Fetch, key: ObjectKey, credential: Credential
    ) -> Mapping[ObjectKey, Outcome[Resources]]:
        """A Secret under every name that gateways of its namespace may ask for."""
        found = self._planner.served_secrets(fetch, key, credential)
        sealed = [
            _seal(SECRET, name, envoy_secrets.authority(self._kit, name, credential))
            for name in found.authority
        ]
        if credential.pair is not None:
            sealed += [
                _seal(SECRET, name, envoy_secrets.certificate(self._kit, name, credential.pair))
                for name in found.certificate
            ]
        return {key: Outcome(tuple(sealed))}


def _seal(type_url: str, name: str, message: Any) -> Resource:
    return seal(type_url, name, message.SerializeToString(deterministic=True))


def _mark(node: NodeInfo | None) -> int | None:
    mark = node.metadata.get("SOCKET_MARK") if node is not None else None
    return int(mark) if isinstance(mark, int | float) else None

"""From plans to sealed resources: transforms that plan one thing and write its bytes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from meltemi.base.keys import HostKey, ServicePortKey
from meltemi.base.problems import Outcome
from meltemi.base.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, NodeInfo, Resource, seal
from meltemi.compile import ir, names
from meltemi.compile.envoy import clusters as envoy_clusters
from meltemi.compile.envoy import inbound as envoy_inbound
from meltemi.compile.envoy import outbound as envoy_outbound
from meltemi.compile.envoy import routes as envoy_routes
from meltemi.compile.envoy.kit import Kit
from meltemi.compile.plan import gateways as plan_gateways
from meltemi.compile.plan.clusters import clusters, in_subset
from meltemi.compile.plan.hosts import virtual_host
from meltemi.compile.plan.inbound import selects, target_port
from meltemi.compile.plan.routes import Client, Resolver, default_route, table_routes
from meltemi.compile.scope import ScopeKey
from meltemi.compile.settings import MeshSettings
from meltemi.compile.views import MESH, RouteVariant, Variant, Views
from meltemi.flow import Fetch, View
from meltemi.model.build import SERVICE_BY_HOST, SERVICE_BY_NAMESPACE, WORKLOAD_BY_NAMESPACE, Model
from meltemi.model.policies import choose_policy
from meltemi.model.policy import DestinationPolicy
from meltemi.model.service import Port, Protocol, Resolution, Service

Resources = tuple[Resource, ...]


class HostPieces(NamedTuple):
    """The virtual hosts of one service: for each route configuration, its piece of it."""

    pieces: tuple[tuple[str, bytes], ...]


class Sealer:
    """Reads the model and the planning views; owns the message kit."""

    def __init__(self, kit: Kit, model: Model, views: Views, mesh: View[str, MeshSettings]) -> None:
        self._kit = kit
        self._model = model
        self._views = views
        self._mesh = mesh

    def _settings(self, fetch: Fetch) -> MeshSettings:
        return fetch.get(self._mesh, MESH) or MeshSettings()

    def clusters(
        self, fetch: Fetch, variant: Variant, _value: Variant
    ) -> Mapping[Variant, Outcome[Resources]]:
        """All clusters of a service under one policy."""
        service = fetch.get(self._model.services, variant.host)
        if service is None:
            return {}
        settings = self._settings(fetch)
        policy = fetch.get(self._model.policies, variant.policy) if variant.policy else None
        identities = {
            port.number: fetch.get(
                self._views.identities, ServicePortKey(*variant.host, port.number)
            )
            or ()
            for port in service.ports
        }
        plans = clusters(service, policy, identities, settings)
        sealed = tuple(
            _seal(CLUSTER, plan.name, envoy_clusters.cluster(self._kit, plan, settings))
            for plan in plans
        )
        return {variant: Outcome(sealed)}

    def endpoints(
        self, fetch: Fetch, variant: Variant, _value: Variant
    ) -> Mapping[Variant, Outcome[Resources]]:
        """The endpoints of each of those clusters."""
        service = fetch.get(self._model.services, variant.host)
        if service is None or service.resolution is not Resolution.ENDPOINTS:
            return {}
        settings = self._settings(fetch)
        policy = fetch.get(self._model.policies, variant.policy) if variant.policy else None
        subsets = (None, *(policy.subsets if policy else ()))
        sealed = []
        for port in service.ports:
            found = fetch.get(self._model.endpoints, ServicePortKey(*variant.host, port.number))
            ready = found.ready if found else ()
            for subset in subsets:
                name = names.outbound(port.number, subset.name if subset else "", service.host)
                chosen = [e for e in ready if in_subset(e, subset)]
                message = envoy_clusters.assignment(self._kit, name, chosen, settings)
                sealed.append(_seal(ENDPOINT, name, message))
        return {variant: Outcome(tuple(sealed))}

    def hosts(
        self, fetch: Fetch, variant: RouteVariant, _value: RouteVariant
    ) -> Mapping[RouteVariant, Outcome[HostPieces]]:
        """The virtual hosts of a service, one for each port that may carry HTTP."""
        service = fetch.get(self._model.services, variant.host)
        if service is None:
            return {}
        table = fetch.get(self._model.tables, variant.table) if variant.table else None
        namespace = variant.client.namespace if variant.client else variant.host.namespace
        labels = variant.client.labels if variant.client else ()
        resolver = self._resolver(fetch, namespace, labels)
        pieces: list[tuple[str, bytes]] = []
        problems: list[Any] = []
        for port in service.ports:
            if not (port.protocol.is_http or port.protocol is Protocol.AUTO):
                continue
            if table is not None and table.http:
                client = Client("mesh", namespace, labels, port.number)
                planned = table_routes(table, client, resolver)
                routes = planned.routes
                problems += [p for p in planned.problems if p not in problems]
            else:
                hashes = resolver.hashes(service.host, "", port.number)
                routes = (default_route(service.host, port.number, hashes),)
            host = virtual_host(service, port.number, routes, local=variant.local)
            body = envoy_routes.element(self._kit, envoy_routes.virtual_host(self._kit, host))
            pieces += [(name, body) for name in _configurations(service, port)]
        return {variant: Outcome(HostPieces(tuple(pieces)), tuple(problems))}

    def _resolver(
        self, fetch: Fetch, namespace: str, labels: tuple[tuple[str, str], ...]
    ) -> Resolver:
        root = self._settings(fetch).root_namespace

        def service(host: str) -> Service | None:
            found = fetch.by(self._model.services, SERVICE_BY_HOST, host)
            return found[0] if found else None

        def policy(host: str) -> DestinationPolicy | None:
            target = service(host)
            covering = fetch.get(self._views.covering, target.key) if target else None
            if target is None or covering is None:
                return None
            key = choose_policy(
                covering.policies,
                service_namespace=target.namespace,
                client_namespace=namespace,
                root_namespace=root,
                client_labels=dict(labels),
            )
            return fetch.get(self._model.policies, key) if key else None

        def subsets(host: str) -> frozenset[str]:
            found = policy(host)
            return frozenset(s.name for s in found.subsets) if found else frozenset()

        def hashes(host: str, subset: str, port: int) -> tuple[ir.HashPolicy, ...]:
            found = policy(host)
            return _hash_policies(found, subset, port) if found else ()

        return Resolver(service, subsets, hashes)

    def tcp_listeners(
        self, fetch: Fetch, key: HostKey, service: Service
    ) -> Mapping[HostKey, Outcome[Resources]]:
        """A listener at each address of each port that is not plain HTTP."""
        settings = self._settings(fetch)
        sealed = []
        for port in service.ports:
            if port.protocol.is_http:
                continue
            for address in service.addresses:
                message = envoy_outbound.tcp_listener(
                    self._kit, service.host, address, port.number, port.protocol, settings
                )
                sealed.append(_seal(LISTENER, message.name, message))
        return {key: Outcome(tuple(sealed))}

    def http_listener(
        self, fetch: Fetch, port: int, _value: int
    ) -> Mapping[int, Outcome[Resource]]:
        """The one listener of all HTTP services on a port."""
        message = envoy_outbound.http_listener(self._kit, port, self._settings(fetch))
        return {port: Outcome(_seal(LISTENER, message.name, message))}

    def common(
        self, _fetch: Fetch, key: str, settings: MeshSettings
    ) -> Mapping[str, Outcome[Resources]]:
        """What every sidecar has, whatever the objects say."""
        built = envoy_outbound.common_clusters(self._kit, settings)
        listener = envoy_outbound.virtual_outbound(self._kit, settings)
        sealed = [_seal(CLUSTER, message.name, message) for message in built]
        return {key: Outcome((*sealed, _seal(LISTENER, listener.name, listener)))}

    def inbound(self, fetch: Fetch, key: str, plan: ir.Inbound) -> Mapping[str, Outcome[Resources]]:
        """A proxy's own listener and the clusters behind it."""
        settings = self._settings(fetch)
        node = fetch.get(self._nodes, key) if self._nodes is not None else None
        mark = _mark(node)
        listener = envoy_inbound.listener(self._kit, plan, settings)
        built = envoy_inbound.clusters(self._kit, plan, mark)
        sealed = [_seal(CLUSTER, message.name, message) for message in built]
        return {key: Outcome((*sealed, _seal(LISTENER, listener.name, listener)))}

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
        plan = plan_gateways.plan(
            scope,
            fetch.all(self._model.gateways),
            fetch.all(self._model.tables),
            self._resolver(fetch, scope.namespace, scope.labels),
            self._target_ports(fetch, scope),
        )
        sealed = []
        for server in plan.servers:
            message = envoy_outbound.gateway_listener(self._kit, server, settings)
            sealed.append(_seal(LISTENER, message.name, message))
        for name, hosts in sorted(plan.routes.items()):
            pieces = [
                envoy_routes.element(self._kit, envoy_routes.virtual_host(self._kit, h))
                for h in hosts
            ]
            body = envoy_routes.configuration(self._kit, name, pieces)
            sealed.append(seal(ROUTE, name, body))
        return {scope: Outcome(tuple(sealed), plan.problems)}

    def _target_ports(self, fetch: Fetch, scope: ScopeKey) -> Mapping[int, int]:
        """Service ports to pod ports, by the Services that select the scope's pods."""
        labels = dict(scope.labels)
        pods = [
            w
            for w in fetch.by(self._model.workloads, WORKLOAD_BY_NAMESPACE, scope.namespace)
            if labels.items() <= w.labels.items()
        ]
        ports: dict[int, int] = {}
        for service in fetch.by(self._model.services, SERVICE_BY_NAMESPACE, scope.namespace):
            for pod in pods[:1]:
                if selects(service, pod):
                    ports |= {p.number: target_port(p, pod) or p.number for p in service.ports}
        return ports


def _seal(type_url: str, name: str, message: Any) -> Resource:
    return seal(type_url, name, message.SerializeToString(deterministic=True))


def _configurations(service: Service, port: Port) -> tuple[str, ...]:
    """The route configurations that carry a port: the port's own, or one for a sniffed port."""
    if port.protocol is Protocol.AUTO:
        return (names.virtual_host(service.host, port.number),)
    return (str(port.number),)


def _mark(node: NodeInfo | None) -> int | None:
    mark = node.metadata.get("SOCKET_MARK") if node is not None else None
    return int(mark) if isinstance(mark, int | float) else None


def _hash_policies(policy: DestinationPolicy, subset: str, port: int) -> tuple[ir.HashPolicy, ...]:
    balancer = policy.blocks(port, subset).load_balancer
    consistent = balancer.consistent_hash if balancer is not None else None
    if consistent is None:
        return ()
    if consistent.http_header_name:
        return (ir.HashPolicy(header=consistent.http_header_name),)
    if consistent.http_query_parameter_name:
        return (ir.HashPolicy(query=consistent.http_query_parameter_name),)
    if consistent.http_cookie is not None:
        cookie = consistent.http_cookie
        return (ir.HashPolicy(cookie=cookie.name, cookie_path=cookie.path, cookie_ttl=cookie.ttl),)
    return (ir.HashPolicy(source=True),) if consistent.use_source_ip else ()

"""Plans for one proxy's parts: reads the model through `fetch`, returns IR.

The graph seals what these functions return, and `plan_of` shows the same to the simulator: there
is no second way to a plan.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from meltemi.base.keys import ObjectKey, ServicePortKey, WorkloadKey
from meltemi.base.problems import Problem
from meltemi.base.resource import NodeInfo
from meltemi.compile import ir, names
from meltemi.compile.plan import gateways as plan_gateways
from meltemi.compile.plan.clusters import Behind, blocks_of, clusters, in_subset, is_original
from meltemi.compile.plan.destinations import Client, Resolver
from meltemi.compile.plan.dynamic import dynamic_routes, with_dynamic_hosts
from meltemi.compile.plan.hosts import virtual_host
from meltemi.compile.plan.locality import grouped, preference
from meltemi.compile.plan.networks import direct, reached
from meltemi.compile.plan.routes import default_route, table_routes
from meltemi.compile.plan.secrets import Secrets, Served, secrets_in, served
from meltemi.compile.scope import READS_SECRETS, ScopeKey
from meltemi.compile.settings import Mesh, MeshSettings
from meltemi.compile.views import RouteVariant, Variant, Views
from meltemi.compile.visibility import ORPHAN_PORT, Orphan, Way, applied, egress_of
from meltemi.flow import Fetch, View
from meltemi.model.build import (
    SERVICE_BY_HOST,
    SERVICE_BY_NAMESPACE,
    TABLE_BY_GATEWAY,
    Model,
)
from meltemi.model.credential import Credential
from meltemi.model.endpoint import Endpoint
from meltemi.model.endpoints import WORKLOAD_BY_NAMESPACE
from meltemi.model.gateway import INGRESS
from meltemi.model.hosts import is_visible
from meltemi.model.locality import NETWORK
from meltemi.model.mesh import MESH
from meltemi.model.policies import choose_policy
from meltemi.model.policy import Blocks, DestinationPolicy
from meltemi.model.route import DEFAULT_RETRY, RouteTable
from meltemi.model.rules import retry_from_api
from meltemi.model.service import Protocol, Resolution, Service
from meltemi.model.tables import table_for
from meltemi.model.workload import Workload


class HostsPlan(NamedTuple):
    """The virtual hosts of one service, by its port."""

    hosts: tuple[tuple[int, ir.VirtualHost], ...]
    problems: tuple[Problem, ...]


class Planner:
    """Reads the model and the planning views."""

    def __init__(self, model: Model, views: Views, mesh: Mesh) -> None:
        self._model = model
        self._views = views
        self._mesh = mesh

    @property
    def reads(self) -> tuple[View[Any, Any], ...]:
        """What planning routes of any kind may read."""
        model = self._model
        return (
            model.services,
            model.tables,
            model.policies,
            self._views.covering,
            self._mesh.fields,
        )

    def l4_table(self, fetch: Fetch, way: Way, layer: str) -> RouteTable | None:
        """The table whose `tls` or `tcp` rules are applied to a service on one way out."""
        scope, host = way.pair
        covering = fetch.get(self._views.covering, host)
        if covering is None:
            return None
        egress = egress_of(fetch, self._model, scope)
        tables = applied(covering.tables, (egress[way.number],), scope.namespace)
        return table_for(host.host, tables, scope.namespace, layer)

    def settings(self, fetch: Fetch) -> MeshSettings:
        """Each field that is read of them is a dependency."""
        return self._mesh.of(fetch)

    def settings_now(self) -> MeshSettings:
        return self._mesh.now

    def clusters(self, fetch: Fetch, variant: Variant) -> tuple[ir.Cluster, ...]:
        """All clusters of a service under one policy."""
        service = fetch.get(self._model.services, variant.host)
        if service is None:
            return ()
        policy = fetch.get(self._model.policies, variant.policy) if variant.policy else None
        keys = {port.number: ServicePortKey(*variant.host, port.number) for port in service.ports}
        behind = {n: fetch.get(self._views.behind, key) or Behind() for n, key in keys.items()}
        return clusters(
            service,
            policy,
            behind,
            self.settings(fetch),
            client=dict(variant.client),
            secrets=variant.secrets,
            peers=variant.peers,
        )

    def assignments(
        self, fetch: Fetch, variant: Variant, *, passes: bool = False
    ) -> tuple[ir.Assignment, ...]:
        """The endpoints of each of those clusters that has any of its own. `passes`: the client is
        a gateway between networks, which passes traffic on to its own."""
        service = fetch.get(self._model.services, variant.host)
        if service is None or service.resolution is not Resolution.ENDPOINTS:
            return ()
        policy = fetch.get(self._model.policies, variant.policy) if variant.policy else None
        settings = self.settings(fetch)
        client = dict(variant.client)
        networks = fetch.get(self._model.networks, MESH)
        found: list[ir.Assignment] = []
        for port in service.ports:
            key = ServicePortKey(*variant.host, port.number)
            endpoints = fetch.get(self._model.endpoints, key)
            ready = endpoints.ready if endpoints else ()
            for subset in (None, *(policy.subsets if policy else ())):
                name = names.outbound(port.number, subset.name if subset else "", service.host)
                blocks = blocks_of(policy, port.number, subset, settings)
                if is_original(blocks):
                    continue
                chosen = [e for e in ready if in_subset(e, subset)]
                if networks is None:
                    chosen = [e for e in chosen if e.address]
                else:
                    own, cluster = client.get(NETWORK, ""), settings.cluster
                    chosen = (
                        direct(chosen, own, networks, cluster)
                        if passes
                        else reached(chosen, own, networks, cluster, mutual=_is_mutual(blocks))
                    )
                wanted = preference(blocks, service.distribution, settings)
                groups = grouped(chosen, wanted, client, settings.cluster)
                found.append(ir.Assignment(name, groups))
        return tuple(found)

    def peers(self, fetch: Fetch, node: NodeInfo) -> ir.Assignment:
        """The proxies of the workload that a proxy belongs to, by where they run."""
        own = fetch.get(self._model.workloads, WorkloadKey(node.namespace, node.name))
        name = own.name if own is not None else node.name
        found: dict[str, list[Endpoint]] = {}
        for pod in fetch.by(self._model.workloads, WORKLOAD_BY_NAMESPACE, node.namespace):
            if pod.name == name and pod.ready and pod.address:
                found.setdefault(pod.locality, []).append(_peer(pod))
        groups = (
            ir.EndpointGroup(place, 0, len(found[place]), tuple(found[place]))
            for place in sorted(found)
        )
        return ir.Assignment(names.LOCAL_CLUSTER, tuple(groups))

    def hosts(self, fetch: Fetch, variant: RouteVariant) -> HostsPlan:
        """The virtual hosts of a service, one for each port that may carry HTTP."""
        service = fetch.get(self._model.services, variant.host)
        if service is None:
            return HostsPlan((), ())
        table = fetch.get(self._model.tables, variant.table) if variant.table else None
        namespace = variant.client.namespace if variant.client else variant.host.namespace
        labels = variant.client.labels if variant.client else ()
        resolver = self.resolver(fetch, namespace, labels)
        place = resolver.place(service)
        if place is None:
            return HostsPlan((), ())
        hosts: list[tuple[int, ir.VirtualHost]] = []
        problems: dict[Problem, None] = {}
        for port in service.ports or place.ports:
            if not (port.protocol.is_http or port.protocol is Protocol.AUTO):
                continue
            if table is not None and table.http:
                client = Client("mesh", namespace, labels, port.number)
                planned = table_routes(table, client, resolver)
                routes = planned.routes
                problems |= dict.fromkeys(planned.problems)
            else:
                routes = (default_route(place.host, port.number, resolver),)
            host = virtual_host(service, port.number, routes, local=variant.local)
            hosts.append((port.number, host))
        return HostsPlan(tuple(hosts), tuple(problems))

    def orphan(self, fetch: Fetch, orphan: Orphan, source: ObjectKey) -> HostsPlan:
        """The virtual host of a host that no service has."""
        table = fetch.get(self._model.tables, source)
        if table is None:
            return HostsPlan((), ())
        scope = orphan.scope
        client = Client("mesh", scope.namespace, scope.labels, ORPHAN_PORT)
        planned = table_routes(table, client, self.resolver(fetch, scope.namespace, scope.labels))
        if not planned.routes:
            return HostsPlan((), planned.problems)
        absolute = () if orphan.host.startswith("*") else (f"{orphan.host}.",)
        host = ir.VirtualHost(
            name=names.virtual_host(orphan.host, ORPHAN_PORT),
            domains=(orphan.host, *absolute),
            routes=planned.routes,
        )
        return HostsPlan(((ORPHAN_PORT, host),), planned.problems)

    def gateway(self, fetch: Fetch, scope: ScopeKey) -> plan_gateways.GatewayPlan:
        """All listeners and route configurations of a gateway scope."""
        resolver = self.resolver(fetch, scope.namespace, scope.labels)
        plan = plan_gateways.plan(
            scope,
            (*fetch.all(self._model.gateways), *fetch.all(self._model.ingress_gateways)),
            self._tables_of(fetch),
            resolver,
            self._target_ports(fetch, scope),
            self.secrets_of(fetch, scope),
        )
        dynamic = dynamic_routes(plan.routes, resolver)
        listeners = (with_dynamic_hosts(one, dynamic, resolver) for one in plan.listeners)
        return plan._replace(listeners=tuple(listeners))

    def _tables_of(self, fetch: Fetch) -> Callable[[str], Sequence[RouteTable]]:
        def tables(gateway: str) -> Sequence[RouteTable]:
            if gateway == INGRESS:
                return fetch.all(self._model.ingress_tables)
            return fetch.by(self._model.tables, TABLE_BY_GATEWAY, gateway)

        return tables

    def secrets_of(self, fetch: Fetch, scope: ScopeKey) -> Secrets:
        """What the proxies of a scope find in their namespace."""
        may_read = READS_SECRETS in scope.traits
        return secrets_in(fetch, self._model, scope.namespace, may_read=may_read)

    def served_secrets(self, fetch: Fetch, key: ObjectKey, credential: Credential) -> Served:
        return served(key, credential, lambda k: fetch.get(self._model.credentials, k))

    def resolver(
        self, fetch: Fetch, namespace: str, labels: tuple[tuple[str, str], ...]
    ) -> Resolver:
        root = self.settings(fetch).root_namespace

        def service(host: str) -> Service | None:
            found = fetch.by(self._model.services, SERVICE_BY_HOST, host)
            return min(found, key=lambda s: _rank(s, namespace), default=None)

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

        declared = self.settings(fetch).default_retry
        retry = DEFAULT_RETRY if declared is None else retry_from_api(declared)
        return Resolver(service, policy, retry, self.settings(fetch).default_policy)

    def _target_ports(self, fetch: Fetch, scope: ScopeKey) -> Mapping[int, Sequence[int]]:
        """Service ports to pod ports, by the Services that select the scope's pods."""
        labels = dict(scope.labels).items()
        ports: dict[int, list[int]] = {}
        for service in fetch.by(self._model.services, SERVICE_BY_NAMESPACE, scope.namespace):
            if not service.selector or not service.selector.items() <= labels:
                continue
            for port in service.ports:
                target = port.target
                if isinstance(target, str):
                    target = self._named_port(fetch, scope, target) or port.number
                there = ports.setdefault(port.number, [])
                if target not in there:
                    there.append(target)
        return ports

    def _named_port(self, fetch: Fetch, scope: ScopeKey, name: str) -> int:
        """A container's port by its name; the scope's pods are alike."""
        labels = dict(scope.labels).items()
        for pod in fetch.by(self._model.workloads, WORKLOAD_BY_NAMESPACE, scope.namespace):
            if labels <= pod.labels.items() and name in pod.container_ports:
                return pod.container_ports[name]
        return 0


def _peer(workload: Workload) -> Endpoint:
    """Nobody connects to it: only its locality counts."""
    return Endpoint(address=workload.address, port=names.INBOUND_PORT, ready=True)


def _is_mutual(blocks: Blocks) -> bool:
    """Whether a policy lets clients speak mutual TLS of the mesh."""
    return blocks.tls is None or blocks.tls.mode == "ISTIO_MUTUAL"


def _rank(service: Service, namespace: str) -> tuple[bool, bool, object]:
    """Of several services with one host: what the client sees, its own, what takes precedence."""
    hidden = not is_visible(service.export_to, namespace)
    return (hidden, service.namespace != namespace, service.precedence)

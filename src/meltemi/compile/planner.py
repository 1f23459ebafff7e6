"""Plans for one proxy's parts: reads the model through `fetch`, returns IR.

The graph seals what these functions return, and `plan_of` shows the same to the simulator: there
is no second way to a plan.
"""

from collections.abc import Mapping
from typing import NamedTuple

from meltemi.base.keys import ServicePortKey
from meltemi.base.problems import Problem
from meltemi.compile import ir, names
from meltemi.compile.plan import gateways as plan_gateways
from meltemi.compile.plan.clusters import clusters, in_subset
from meltemi.compile.plan.destinations import Client, Resolver
from meltemi.compile.plan.hosts import virtual_host
from meltemi.compile.plan.inbound import selects, target_port
from meltemi.compile.plan.routes import default_route, table_routes
from meltemi.compile.scope import ScopeKey
from meltemi.compile.settings import Mesh, MeshSettings
from meltemi.compile.views import RouteVariant, Variant, Views
from meltemi.flow import Fetch
from meltemi.model.build import SERVICE_BY_HOST, SERVICE_BY_NAMESPACE, WORKLOAD_BY_NAMESPACE, Model
from meltemi.model.policies import choose_policy
from meltemi.model.policy import DestinationPolicy
from meltemi.model.service import Port, Protocol, Resolution, Service


class HostsPlan(NamedTuple):
    """The virtual hosts of one service, each with the route configuration it belongs to."""

    hosts: tuple[tuple[str, ir.VirtualHost], ...]
    problems: tuple[Problem, ...]


class Planner:
    """Reads the model and the planning views."""

    def __init__(self, model: Model, views: Views, mesh: Mesh) -> None:
        self._model = model
        self._views = views
        self._mesh = mesh

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
        identities = {
            port.number: fetch.get(
                self._views.identities, ServicePortKey(*variant.host, port.number)
            )
            or ()
            for port in service.ports
        }
        return clusters(service, policy, identities, self.settings(fetch))

    def assignments(self, fetch: Fetch, variant: Variant) -> tuple[ir.Assignment, ...]:
        """The endpoints of each of those clusters that has any of its own."""
        service = fetch.get(self._model.services, variant.host)
        if service is None or service.resolution is not Resolution.ENDPOINTS:
            return ()
        policy = fetch.get(self._model.policies, variant.policy) if variant.policy else None
        found: list[ir.Assignment] = []
        for port in service.ports:
            key = ServicePortKey(*variant.host, port.number)
            endpoints = fetch.get(self._model.endpoints, key)
            ready = endpoints.ready if endpoints else ()
            for subset in (None, *(policy.subsets if policy else ())):
                name = names.outbound(port.number, subset.name if subset else "", service.host)
                chosen = tuple(e for e in ready if in_subset(e, subset))
                found.append(ir.Assignment(name, chosen))
        return tuple(found)

    def hosts(self, fetch: Fetch, variant: RouteVariant) -> HostsPlan:
        """The virtual hosts of a service, one for each port that may carry HTTP."""
        service = fetch.get(self._model.services, variant.host)
        if service is None:
            return HostsPlan((), ())
        table = fetch.get(self._model.tables, variant.table) if variant.table else None
        namespace = variant.client.namespace if variant.client else variant.host.namespace
        labels = variant.client.labels if variant.client else ()
        resolver = self._resolver(fetch, namespace, labels)
        hosts: list[tuple[str, ir.VirtualHost]] = []
        problems: dict[Problem, None] = {}
        for port in service.ports:
            if not (port.protocol.is_http or port.protocol is Protocol.AUTO):
                continue
            if table is not None and table.http:
                client = Client("mesh", namespace, labels, port.number)
                planned = table_routes(table, client, resolver)
                routes = planned.routes
                problems |= dict.fromkeys(planned.problems)
            else:
                hashes = resolver.hashes(service.host, "", port.number)
                routes = (default_route(service.host, port.number, hashes),)
            host = virtual_host(service, port.number, routes, local=variant.local)
            hosts += [(name, host) for name in _configurations(service, port)]
        return HostsPlan(tuple(hosts), tuple(problems))

    def gateway(self, fetch: Fetch, scope: ScopeKey) -> plan_gateways.GatewayPlan:
        """All listeners and route configurations of a gateway scope."""
        return plan_gateways.plan(
            scope,
            fetch.all(self._model.gateways),
            fetch.all(self._model.tables),
            self._resolver(fetch, scope.namespace, scope.labels),
            self._target_ports(fetch, scope),
        )

    def _resolver(
        self, fetch: Fetch, namespace: str, labels: tuple[tuple[str, str], ...]
    ) -> Resolver:
        root = self.settings(fetch).root_namespace

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

        return Resolver(service, policy)

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


def _configurations(service: Service, port: Port) -> tuple[str, ...]:
    """The route configurations that carry a port: the port's own, or one for a sniffed port."""
    if port.protocol is Protocol.AUTO:
        return (names.virtual_host(service.host, port.number),)
    return (str(port.number),)

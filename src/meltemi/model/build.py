"""Wires the model's views into a graph."""

from collections.abc import Hashable
from typing import NamedTuple, TypeVar

from meltemi.api import core
from meltemi.base.keys import HostKey, ObjectKey, ServicePortKey, WorkloadKey
from meltemi.base.problems import Outcome
from meltemi.flow import Fetch, Graph, Index, View
from meltemi.model.endpoint import EndpointSet
from meltemi.model.endpoints import EndpointJoin
from meltemi.model.gateway import GatewayDef
from meltemi.model.gateways import gateway_from_object
from meltemi.model.inbound import inbound_tls
from meltemi.model.mesh import MESH, ExportDefaults, exported
from meltemi.model.objects import BY_NAMESPACE, Objects, host_of_rule
from meltemi.model.policies import PolicyKey, merged_policy
from meltemi.model.policy import DestinationPolicy
from meltemi.model.route import RouteTable
from meltemi.model.service import Service
from meltemi.model.services import service_from_object
from meltemi.model.tables import table_from_virtual_service
from meltemi.model.tls import InboundTls
from meltemi.model.workload import Workload
from meltemi.model.workloads import workload_from_pod

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

SERVICE_BY_HOST: Index[Service] = Index("host", lambda s: (s.host,))
SERVICE_BY_NAMESPACE: Index[Service] = Index("namespace", lambda s: (s.namespace,))
WORKLOAD_BY_ADDRESS: Index[Workload] = Index("address", lambda w: (w.address,))
WORKLOAD_BY_NAMESPACE: Index[Workload] = Index("namespace", lambda w: (w.key.namespace,))
TABLE_BY_HOST: Index[RouteTable] = Index("host", lambda t: t.hosts)
TABLE_BY_GATEWAY: Index[RouteTable] = Index("gateway", lambda t: t.gateways)
POLICY_BY_HOST: Index[DestinationPolicy] = Index("host", lambda p: (p.host,))


class Model(NamedTuple):
    """Every view of the model, for those who read it."""

    services: View[HostKey, Service]
    workloads: View[WorkloadKey, Workload]
    endpoints: View[ServicePortKey, EndpointSet]
    inbound_tls: View[WorkloadKey, InboundTls]
    tables: View[ObjectKey, RouteTable]
    policies: View[PolicyKey, DestinationPolicy]
    gateways: View[ObjectKey, GatewayDef]


class Domain(NamedTuple):
    """The names a mesh is built with."""

    cluster: str = "cluster.local"
    """The DNS domain of services."""
    trust: str = "cluster.local"
    """The trust domain of identities."""
    root: str = "istio-system"
    """The namespace whose selector-less policies are mesh-wide."""


def build(graph: Graph, objects: Objects, domain: Domain) -> Model:
    """Add the model's views to the graph."""

    def defaults(fetch: Fetch) -> ExportDefaults | None:
        return fetch.get(objects.mesh.exports, MESH)

    services = graph.derive(
        "services",
        objects.services,
        lambda fetch, _k, obj: _service(exported(obj, defaults(fetch)), domain),
        reads=(objects.mesh.exports,),
        indexes=(SERVICE_BY_HOST, SERVICE_BY_NAMESPACE),
    )
    workloads = graph.derive(
        "workloads",
        objects.pods,
        lambda _f, _k, pod: _some(workload_from_pod(pod, domain.trust)),
        indexes=(WORKLOAD_BY_ADDRESS, WORKLOAD_BY_NAMESPACE),
    )
    tls = graph.derive(
        "inbound tls",
        workloads,
        lambda fetch, key, workload: _one(
            inbound_tls(
                workload,
                fetch.by(objects.peer_authentications, BY_NAMESPACE, key.namespace),
                fetch.by(objects.peer_authentications, BY_NAMESPACE, domain.root),
            ),
            key,
        ),
        reads=(objects.peer_authentications,),
    )
    join = EndpointJoin(objects.slices, workloads, WORKLOAD_BY_ADDRESS, tls)
    return Model(
        services=services,
        workloads=workloads,
        endpoints=graph.derive(
            "endpoints", services, join.endpoint_sets, reads=(objects.slices, workloads, tls)
        ),
        inbound_tls=tls,
        tables=graph.derive(
            "route tables",
            objects.virtual_services,
            lambda fetch, key, obj: _one(
                table_from_virtual_service(exported(obj, defaults(fetch)), domain.cluster), key
            ),
            reads=(objects.mesh.exports,),
            indexes=(TABLE_BY_HOST, TABLE_BY_GATEWAY),
        ),
        policies=graph.derive(
            "destination policies",
            objects.destination_rules,
            lambda fetch, _k, rule: merged_policy(
                exported(rule, defaults(fetch)),
                [
                    exported(sibling, defaults(fetch))
                    for sibling in fetch.by(
                        objects.destination_rules,
                        objects.rules_of_host,
                        host_of_rule(rule, domain.cluster),
                    )
                ],
                domain.cluster,
            ),
            reads=(objects.destination_rules, objects.mesh.exports),
            indexes=(POLICY_BY_HOST,),
        ),
        gateways=graph.derive(
            "gateways",
            objects.gateways,
            lambda _f, key, obj: _one(gateway_from_object(obj), key),
        ),
    )


def _service(obj: core.Service, domain: Domain) -> dict[HostKey, Outcome[Service]]:
    service = service_from_object(obj, domain.cluster)
    return _one(service, service.key)


def _one(value: V, key: K) -> dict[K, Outcome[V]]:
    return {key: Outcome(value)}


def _some(workload: Workload | None) -> dict[WorkloadKey, Outcome[Workload]]:
    return {} if workload is None else _one(workload, workload.key)

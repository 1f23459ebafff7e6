"""Wires the model's views into a graph."""

from collections.abc import Hashable
from typing import NamedTuple, TypeVar

from meltemi.api import core
from meltemi.api.networking import VirtualService
from meltemi.base.keys import HostKey, ObjectKey, ServicePortKey, WorkloadKey
from meltemi.base.problems import Outcome
from meltemi.flow import Fetch, Graph, Index, View
from meltemi.model.credential import Credential
from meltemi.model.credentials import credentials, faults
from meltemi.model.endpoint import EndpointSet
from meltemi.model.endpoints import EndpointJoin
from meltemi.model.gateway import GatewayDef
from meltemi.model.gateways import gateway_from_object
from meltemi.model.inbound import inbound_tls
from meltemi.model.ingresses import RULES_BY_HOST, Ingresses, table_of_host
from meltemi.model.mesh import MESH, ExportDefaults, exported
from meltemi.model.objects import BY_NAMESPACE, Objects, host_of_rule
from meltemi.model.policies import PolicyKey, merged_policy
from meltemi.model.policy import DestinationPolicy
from meltemi.model.route import RouteTable
from meltemi.model.service import Service
from meltemi.model.services import service_from_object
from meltemi.model.tables import host_conflicts, table_from_virtual_service
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
TABLE_BY_GATEWAY: Index[RouteTable] = Index("gateway", lambda t: t.named_gateways)
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
    ingress_gateways: View[ObjectKey, GatewayDef]
    ingress_tables: View[str, RouteTable]
    """By host."""
    credentials: View[ObjectKey, Credential]
    credential_faults: View[ObjectKey, str]
    """Why a Secret that is meant for TLS cannot be used as it is now."""


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
    ingresses = Ingresses(objects.ingress_classes, services, domain.cluster)
    ingress_rules = graph.derive(
        "ingress rules",
        objects.ingresses,
        ingresses.rules,
        reads=(objects.ingress_classes, services),
        indexes=(RULES_BY_HOST,),
    )
    ingress_hosts = graph.distinct(
        "ingress hosts",
        graph.derive("hosts of ingress rules", ingress_rules, lambda _f, k, _r: _one(k.host, k)),
    )
    tables = graph.derive(
        "route tables",
        objects.virtual_services,
        lambda fetch, key, obj: {
            key: table_from_virtual_service(
                exported(obj, defaults(fetch)),
                domain.cluster,
                lambda delegate: _delegate(fetch, objects, delegate, defaults(fetch)),
            )
        },
        reads=(objects.virtual_services, objects.mesh.exports),
        indexes=(TABLE_BY_HOST, TABLE_BY_GATEWAY),
    )
    graph.derive(
        "host conflicts",
        tables,
        lambda fetch, key, table: {
            key: Outcome(
                True,
                tuple(
                    host_conflicts(
                        table, [t for h in table.hosts for t in fetch.by(tables, TABLE_BY_HOST, h)]
                    )
                ),
            )
        },
        reads=(tables,),
    )
    join = EndpointJoin(objects.slices, workloads, WORKLOAD_BY_ADDRESS, tls)
    return Model(
        services=services,
        workloads=workloads,
        endpoints=graph.derive(
            "endpoints", services, join.endpoint_sets, reads=(objects.slices, workloads, tls)
        ),
        inbound_tls=tls,
        tables=tables,
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
        ingress_gateways=graph.derive(
            "ingress gateways",
            objects.ingresses,
            ingresses.gateway,
            reads=(objects.ingress_classes,),
        ),
        ingress_tables=graph.derive(
            "ingress tables",
            ingress_hosts,
            lambda fetch, host, _h: table_of_host(fetch, host, ingress_rules),
            reads=(ingress_rules,),
        ),
        credentials=graph.derive("credentials", objects.raw["Secret"], credentials),
        credential_faults=graph.derive("credential faults", objects.raw["Secret"], faults),
    )


def _delegate(
    fetch: Fetch, objects: Objects, key: ObjectKey, defaults: ExportDefaults | None
) -> VirtualService | None:
    found = fetch.get(objects.virtual_services, key)
    return exported(found, defaults) if found is not None else None


def _service(obj: core.Service, domain: Domain) -> dict[HostKey, Outcome[Service]]:
    service = service_from_object(obj, domain.cluster)
    return _one(service, service.key)


def _one(value: V, key: K) -> dict[K, Outcome[V]]:
    return {key: Outcome(value)}


def _some(workload: Workload | None) -> dict[WorkloadKey, Outcome[Workload]]:
    return {} if workload is None else _one(workload, workload.key)

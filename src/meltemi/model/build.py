"""Wires the model's views into a graph."""

from collections.abc import Hashable
from typing import NamedTuple, TypeVar

from meltemi.api import core
from meltemi.api.envoy_filter import EnvoyFilter
from meltemi.api.networking import VirtualService
from meltemi.base.keys import HostKey, ObjectKey, ServicePortKey, WorkloadKey
from meltemi.base.problems import Outcome
from meltemi.flow import Fetch, Graph, Index, View
from meltemi.model.allocate import allocate, wanted_by_entry
from meltemi.model.credential import Credential
from meltemi.model.credentials import credentials, faults
from meltemi.model.endpoint import EndpointSet
from meltemi.model.endpoints import (
    ENTRY_BY_NAMESPACE,
    WORKLOAD_BY_ADDRESS,
    WORKLOAD_BY_NAMESPACE,
    EndpointJoin,
    Sources,
)
from meltemi.model.entries import ENTRY_BY_HOST, EntryHost, entry_hosts, service_from_entries
from meltemi.model.gateway import GatewayDef
from meltemi.model.gateways import gateway_from_object, unknown_gateways
from meltemi.model.inbound import inbound_tls
from meltemi.model.ingresses import RULES_BY_HOST, Ingresses, ingress_settings, table_of_host
from meltemi.model.locality import locality_of_labels
from meltemi.model.mesh import MESH, ExportDefaults, MeshViews, exported
from meltemi.model.networks import Networks, networks
from meltemi.model.objects import BY_NAMESPACE, Objects, host_of_rule
from meltemi.model.policies import PolicyKey, merged_policy
from meltemi.model.policy import DestinationPolicy
from meltemi.model.route import RouteTable
from meltemi.model.service import Service
from meltemi.model.services import service_from_object
from meltemi.model.sidecar import SidecarDef
from meltemi.model.sidecars import sidecar_from_object
from meltemi.model.tables import host_conflicts, table_from_virtual_service
from meltemi.model.tls import InboundTls
from meltemi.model.workload import Workload
from meltemi.model.workloads import workload_from_entry, workload_from_pod

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

SERVICE_BY_HOST: Index[Service] = Index("host", lambda s: (s.host,))
SERVICE_BY_ADDRESS: Index[Service] = Index("address", lambda s: s.addresses)
SERVICE_BY_NAMESPACE: Index[Service] = Index("namespace", lambda s: (s.namespace,))
SIDECAR_BY_NAMESPACE: Index[SidecarDef] = Index("namespace", lambda s: (s.source.namespace,))
TABLE_BY_HOST: Index[RouteTable] = Index("host", lambda t: t.hosts)
TABLE_BY_GATEWAY: Index[RouteTable] = Index("gateway", lambda t: t.named_gateways)
POLICY_BY_HOST: Index[DestinationPolicy] = Index("host", lambda p: (p.host,))


class Model(NamedTuple):
    """Every view of the model, for those who read it."""

    services: View[HostKey, Service]
    workloads: View[WorkloadKey, Workload]
    endpoints: View[ServicePortKey, EndpointSet]
    inbound_tls: View[WorkloadKey, InboundTls]
    sidecars: View[ObjectKey, SidecarDef]
    allocated: View[HostKey, tuple[str, ...]]
    """The addresses of the mesh's own of ServiceEntries' hosts that have none."""
    tables: View[ObjectKey, RouteTable]
    policies: View[PolicyKey, DestinationPolicy]
    gateways: View[ObjectKey, GatewayDef]
    ingress_gateways: View[ObjectKey, GatewayDef]
    ingress_tables: View[str, RouteTable]
    """By host."""
    credentials: View[ObjectKey, Credential]
    credential_faults: View[ObjectKey, str]
    """Why a Secret that is meant for TLS cannot be used as it is now."""
    envoy_filters: View[ObjectKey, EnvoyFilter]
    mesh: MeshViews
    networks: View[str, Networks]
    """Empty where all addresses are reached directly."""


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

    kubernetes = graph.derive(
        "Kubernetes services",
        objects.services,
        lambda fetch, _k, obj: _service(exported(obj, defaults(fetch)), domain),
        reads=(objects.mesh.exports,),
    )
    allocated = _allocated(graph, objects)
    declared = _declared_services(graph, objects, domain, allocated)
    services = graph.union(
        "services",
        (kubernetes, declared),
        indexes=(SERVICE_BY_HOST, SERVICE_BY_NAMESPACE, SERVICE_BY_ADDRESS),
    )
    workloads = _workloads(graph, objects, domain)
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
    ingress_gateways, ingress_tables = _ingress(graph, objects, services, domain)
    gateways = graph.derive(
        "gateways",
        objects.gateways,
        lambda _f, key, obj: _one(gateway_from_object(obj), key),
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
    graph.derive(
        "gateway references",
        tables,
        lambda fetch, key, table: unknown_gateways(fetch, key, table, gateways),
        reads=(gateways,),
    )
    sources = Sources(objects.slices, objects.service_entries, workloads, tls)
    join = EndpointJoin(sources, domain.trust)
    return Model(
        services=services,
        workloads=workloads,
        endpoints=graph.derive("endpoints", services, join.endpoint_sets, reads=sources),
        inbound_tls=tls,
        allocated=allocated,
        sidecars=graph.derive(
            "sidecars",
            objects.sidecars,
            lambda _f, key, obj: _one(sidecar_from_object(obj, domain.cluster), key),
            indexes=(SIDECAR_BY_NAMESPACE,),
        ),
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
        gateways=gateways,
        ingress_gateways=ingress_gateways,
        ingress_tables=ingress_tables,
        credentials=graph.derive("credentials", objects.raw["Secret"], credentials),
        credential_faults=graph.derive("credential faults", objects.raw["Secret"], faults),
        envoy_filters=objects.envoy_filters,
        mesh=objects.mesh,
        networks=networks(
            graph, objects.config_maps, objects.namespaces, objects.services, domain.root
        ),
    )


def _ingress(
    graph: Graph, objects: Objects, services: View[HostKey, Service], domain: Domain
) -> tuple[View[ObjectKey, GatewayDef], View[str, RouteTable]]:
    """What Ingress objects ask of their gateway, and the routes of each host."""
    settings = graph.derive("ingress settings", objects.mesh.config, ingress_settings)
    ingresses = Ingresses(objects.ingress_classes, services, settings, domain.cluster)
    rules = graph.derive(
        "ingress rules",
        objects.ingresses,
        ingresses.rules,
        reads=(objects.ingress_classes, services, settings),
        indexes=(RULES_BY_HOST,),
    )
    hosts = graph.distinct(
        "ingress hosts",
        graph.derive("hosts of ingress rules", rules, lambda _f, k, _r: _one(k.host, k)),
    )
    gateways = graph.derive(
        "ingress gateways",
        objects.ingresses,
        ingresses.gateway,
        reads=(objects.ingress_classes, settings),
    )
    tables = graph.derive(
        "ingress tables",
        hosts,
        lambda fetch, host, _h: table_of_host(fetch, host, rules),
        reads=(rules,),
    )
    return gateways, tables


def _delegate(
    fetch: Fetch, objects: Objects, key: ObjectKey, defaults: ExportDefaults | None
) -> VirtualService | None:
    found = fetch.get(objects.virtual_services, key)
    return exported(found, defaults) if found is not None else None


def _allocated(graph: Graph, objects: Objects) -> View[HostKey, tuple[str, ...]]:
    """One decision for all hosts, since no two may share an address."""
    wanted = graph.derive(
        "addresses wanted",
        objects.service_entries,
        lambda _f, key, entry: {
            EntryHost(key, w.key.host): Outcome(w) for w in wanted_by_entry(entry)
        },
    )
    return graph.derive(
        "allocated addresses",
        graph.constant(),
        lambda fetch, _k, _v: {
            key: Outcome(found) for key, found in allocate(fetch.all(wanted)).items()
        },
        reads=(wanted,),
    )


def _declared_services(
    graph: Graph,
    objects: Objects,
    domain: Domain,
    allocated: View[HostKey, tuple[str, ...]],
) -> View[HostKey, Service]:
    """The services that ServiceEntries say, with addresses of the mesh's own where they have
    none."""
    entries = objects.service_entries
    hosts = graph.distinct(
        "declared hosts",
        graph.derive("hosts of entries", entries, lambda _f, _k, entry: entry_hosts(entry)),
    )

    def service(fetch: Fetch, key: HostKey, _value: HostKey) -> dict[HostKey, Outcome[Service]]:
        defaults = fetch.get(objects.mesh.exports, MESH)
        found = [exported(e, defaults) for e in fetch.by(entries, ENTRY_BY_HOST, key)]
        own = fetch.get(allocated, key) or ()
        return {key: service_from_entries(key, found, own[:1], domain.cluster)} if found else {}

    return graph.derive(
        "declared services", hosts, service, reads=(entries, allocated, objects.mesh.exports)
    )


def _workloads(graph: Graph, objects: Objects, domain: Domain) -> View[WorkloadKey, Workload]:
    """Pods and WorkloadEntries; a pod keeps its name from an entry of the same name."""
    places = graph.derive("node localities", objects.nodes, _locality)
    pods = graph.derive(
        "pod workloads",
        objects.pods,
        lambda fetch, _k, pod: _some(
            workload_from_pod(pod, domain.trust, fetch.get(places, pod.spec.node_name) or "")
        ),
        reads=(places,),
    )
    entries = graph.derive(
        "entry workloads",
        objects.workload_entries,
        lambda _f, _k, entry: _some(workload_from_entry(entry, domain.trust)),
    )
    indexes = (WORKLOAD_BY_ADDRESS, WORKLOAD_BY_NAMESPACE, ENTRY_BY_NAMESPACE)
    return graph.union("workloads", (pods, entries), indexes=indexes)


def _service(obj: core.Service, domain: Domain) -> dict[HostKey, Outcome[Service]]:
    service = service_from_object(obj, domain.cluster)
    return _one(service, service.key)


def _one(value: V, key: K) -> dict[K, Outcome[V]]:
    return {key: Outcome(value)}


def _locality(_f: Fetch, key: ObjectKey, node: core.Node) -> dict[str, Outcome[str]]:
    found = locality_of_labels(node.metadata.labels)
    return _one(found, key.name) if found else {}


def _some(workload: Workload | None) -> dict[WorkloadKey, Outcome[Workload]]:
    return {} if workload is None else _one(workload, workload.key)

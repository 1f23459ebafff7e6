"""The first stage of the line: raw objects decoded and validated, the last good one kept."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from meltemi.api.core import ConfigMap, EndpointSlice, Namespace, Node, Pod, Service
from meltemi.api.decode import decode
from meltemi.api.envoy_filter import EnvoyFilter
from meltemi.api.ingress import Ingress, IngressClass
from meltemi.api.meta import Object
from meltemi.api.networking import DestinationRule, Gateway, VirtualService
from meltemi.api.proxy_config import ProxyConfig
from meltemi.api.security import PeerAuthentication
from meltemi.api.service_entry import ServiceEntry
from meltemi.api.sidecar import Sidecar
from meltemi.api.validate import validate
from meltemi.api.workload_entry import WorkloadEntry, WorkloadGroup
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Outcome, Severity
from meltemi.flow import Fetch, Graph, Index, Source, View
from meltemi.model.entries import ENTRY_BY_HOST
from meltemi.model.hosts import full_host
from meltemi.model.mesh import MeshViews, mesh_views

O = TypeVar("O", bound=Object)  # noqa: E741

BY_NAMESPACE: Index[Any] = Index("namespace", lambda o: (o.metadata.namespace,))
SLICE_BY_SERVICE: Index[EndpointSlice] = Index(
    "service",
    lambda s: ((s.metadata.namespace, s.metadata.labels.get("kubernetes.io/service-name", "")),),
)


class Objects(NamedTuple):
    """Decoded objects by kind; `raw` is what informers write."""

    raw: Mapping[str, Source[ObjectKey, bytes]]
    namespaces: View[ObjectKey, Namespace]
    services: View[ObjectKey, Service]
    slices: View[ObjectKey, EndpointSlice]
    pods: View[ObjectKey, Pod]
    nodes: View[ObjectKey, Node]
    config_maps: View[ObjectKey, ConfigMap]
    mesh: MeshViews
    virtual_services: View[ObjectKey, VirtualService]
    destination_rules: View[ObjectKey, DestinationRule]
    rules_of_host: Index[DestinationRule]
    """Files DestinationRules under (namespace, full host)."""
    gateways: View[ObjectKey, Gateway]
    peer_authentications: View[ObjectKey, PeerAuthentication]
    ingresses: View[ObjectKey, Ingress]
    ingress_classes: View[ObjectKey, IngressClass]
    service_entries: View[ObjectKey, ServiceEntry]
    workload_entries: View[ObjectKey, WorkloadEntry]
    workload_groups: View[ObjectKey, WorkloadGroup]
    sidecars: View[ObjectKey, Sidecar]
    envoy_filters: View[ObjectKey, EnvoyFilter]
    proxy_configs: View[ObjectKey, ProxyConfig]


KINDS = (
    "Namespace",
    "Service",
    "EndpointSlice",
    "Pod",
    "Node",
    "ConfigMap",
    "VirtualService",
    "DestinationRule",
    "Gateway",
    "PeerAuthentication",
    "Secret",
    "Ingress",
    "IngressClass",
    "ServiceEntry",
    "WorkloadEntry",
    "WorkloadGroup",
    "Sidecar",
    "EnvoyFilter",
    "ProxyConfig",
)
"""The kinds the model reads: the control plane keeps an informer for each."""


def objects(graph: Graph, domain: str, root: str = "istio-system") -> Objects:
    """Add one raw source and one decoded view for each kind.

    Objects in namespaces that the mesh does not discover are not decoded.
    """
    raw: dict[str, Source[ObjectKey, bytes]] = {kind: graph.source(f"raw {kind}") for kind in KINDS}

    def decoded(
        kind: str, *indexes: Index[Any], but: View[str, bool] | None = None
    ) -> View[ObjectKey, Any]:
        reads = () if but is None else (but,)
        return graph.derive(kind, raw[kind], _decoder(kind, but), reads=reads, indexes=indexes)

    namespaces: View[ObjectKey, Namespace] = decoded("Namespace")
    config_maps: View[ObjectKey, ConfigMap] = decoded("ConfigMap")
    mesh = mesh_views(graph, config_maps, namespaces, root)

    def discovered(kind: str, *indexes: Index[Any]) -> View[ObjectKey, Any]:
        return decoded(kind, *indexes, but=mesh.hidden)

    rules_of_host: Index[DestinationRule] = Index("host", lambda r: (host_of_rule(r, domain),))
    return Objects(
        raw=raw,
        namespaces=namespaces,
        services=discovered("Service"),
        slices=discovered("EndpointSlice", SLICE_BY_SERVICE),
        pods=discovered("Pod"),
        nodes=decoded("Node"),
        config_maps=config_maps,
        mesh=mesh,
        virtual_services=discovered("VirtualService"),
        destination_rules=discovered("DestinationRule", rules_of_host),
        rules_of_host=rules_of_host,
        gateways=discovered("Gateway"),
        peer_authentications=discovered("PeerAuthentication", BY_NAMESPACE),
        ingresses=discovered("Ingress"),
        ingress_classes=decoded("IngressClass"),
        service_entries=discovered("ServiceEntry", ENTRY_BY_HOST),
        workload_entries=discovered("WorkloadEntry"),
        workload_groups=discovered("WorkloadGroup"),
        sidecars=discovered("Sidecar", BY_NAMESPACE),
        envoy_filters=discovered("EnvoyFilter"),
        proxy_configs=discovered("ProxyConfig"),
    )


def host_of_rule(rule: DestinationRule, domain: str) -> tuple[str, str]:
    """The namespace a rule stands in and the full host it is for."""
    namespace = rule.metadata.namespace
    return namespace, full_host(rule.spec.host, namespace, domain)


def _decoder(
    kind: str, hidden: View[str, bool] | None = None
) -> Callable[[Fetch, ObjectKey, bytes], Mapping[ObjectKey, Outcome[Object]]]:
    def transform(fetch: Fetch, key: ObjectKey, raw: bytes) -> Mapping[ObjectKey, Outcome[Object]]:
        if hidden is not None and fetch.get(hidden, key.namespace):
            return {}
        outcome = decode(kind, raw)
        if outcome.value is None:
            return {key: outcome}
        problems = (*outcome.problems, *validate(outcome.value))
        refused = any(problem.severity is Severity.ERROR for problem in problems)
        return {key: Outcome(None if refused else outcome.value, problems)}

    return transform

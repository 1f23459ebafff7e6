"""The one table of kinds: what each is called, and where the API serves it."""

from collections.abc import Mapping

import msgspec

from meltemi.api import (
    core,
    envoy_filter,
    ingress,
    networking,
    proxy_config,
    security,
    service_entry,
    sidecar,
    workload_entry,
)
from meltemi.api.meta import Object


class Column(msgspec.Struct, frozen=True):
    """A column `kubectl get` prints for a custom resource."""

    name: str
    json_path: str
    type: str = "string"
    description: str = ""
    priority: int = 0


class Kind(msgspec.Struct, frozen=True):
    """One kind of object. `versions` are the served ones, the storage version first."""

    name: str
    group: str
    versions: tuple[str, ...]
    plural: str
    singular: str
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    namespaced: bool = True
    subresources: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    struct: type[Object] | None = None

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.versions[0]}" if self.group else self.versions[0]


_STATUS = ("status",)
_SCALE = ("status", "scale")


def _istio(
    group: str,
    versions: tuple[str, ...],
    name: str,
    plural: str,
    *short: str,
    columns: tuple[Column, ...] = (),
    struct: type[Object] | None = None,
) -> Kind:
    return Kind(
        name=name,
        group=f"{group}.istio.io",
        versions=versions,
        plural=plural,
        singular=name.lower(),
        short_names=short,
        categories=("istio-io", f"{group}-istio-io"),
        subresources=_STATUS,
        columns=(*columns, _AGE),
        struct=struct,
    )


_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_NETWORKING = ("v1", "v1beta1", "v1alpha3")
_SECURITY = ("v1", "v1beta1")


def _kubernetes() -> tuple[Kind, ...]:
    def kind(
        group: str,
        version: str,
        name: str,
        plural: str,
        *short: str,
        namespaced: bool = True,
        sub: tuple[str, ...] = (),
        more: tuple[str, ...] = (),
        categories: tuple[str, ...] = (),
        struct: type[Object] | None = None,
    ) -> Kind:
        return Kind(
            name=name,
            group=group,
            versions=(version, *more),
            plural=plural,
            singular=name.lower(),
            short_names=short,
            categories=categories,
            namespaced=namespaced,
            subresources=sub,
            struct=struct,
        )

    every = ("all",)
    admission, rbac = "admissionregistration.k8s.io", "rbac.authorization.k8s.io"
    return (
        kind(
            "",
            "v1",
            "Namespace",
            "namespaces",
            "ns",
            namespaced=False,
            sub=_STATUS,
            struct=core.Namespace,
        ),
        kind("", "v1", "Pod", "pods", "po", sub=_STATUS, categories=every, struct=core.Pod),
        kind(
            "",
            "v1",
            "Service",
            "services",
            "svc",
            sub=_STATUS,
            categories=every,
            struct=core.Service,
        ),
        kind("", "v1", "Endpoints", "endpoints", "ep"),
        kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "pvc", sub=_STATUS),
        kind("", "v1", "ConfigMap", "configmaps", "cm", struct=core.ConfigMap),
        kind("", "v1", "Secret", "secrets", struct=core.Secret),
        kind("", "v1", "ServiceAccount", "serviceaccounts", "sa", struct=core.ServiceAccount),
        kind("", "v1", "Node", "nodes", "no", namespaced=False, sub=_STATUS, struct=core.Node),
        kind("", "v1", "Event", "events", "ev"),
        kind("apps", "v1", "Deployment", "deployments", "deploy", sub=_SCALE, categories=every),
        kind("apps", "v1", "ReplicaSet", "replicasets", "rs", sub=_SCALE, categories=every),
        kind("apps", "v1", "StatefulSet", "statefulsets", "sts", sub=_SCALE, categories=every),
        kind("apps", "v1", "DaemonSet", "daemonsets", "ds", sub=_STATUS, categories=every),
        kind("apps", "v1", "ControllerRevision", "controllerrevisions"),
        kind("batch", "v1", "Job", "jobs", sub=_STATUS, categories=every),
        kind("batch", "v1", "CronJob", "cronjobs", "cj", sub=_STATUS, categories=every),
        kind(
            "discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", struct=core.EndpointSlice
        ),
        kind("coordination.k8s.io", "v1", "Lease", "leases"),
        kind(rbac, "v1", "Role", "roles"),
        kind(rbac, "v1", "RoleBinding", "rolebindings"),
        kind(rbac, "v1", "ClusterRole", "clusterroles", namespaced=False),
        kind(rbac, "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False),
        kind(
            admission,
            "v1",
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
            namespaced=False,
        ),
        kind(
            admission,
            "v1",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            namespaced=False,
        ),
        kind(
            admission,
            "v1",
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
            namespaced=False,
            sub=_STATUS,
        ),
        kind(
            admission,
            "v1",
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
            namespaced=False,
        ),
        kind(
            "certificates.k8s.io",
            "v1",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            "csr",
            namespaced=False,
            sub=(*_STATUS, "approval"),
        ),
        kind(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            "crd",
            "crds",
            namespaced=False,
            sub=_STATUS,
            categories=("api-extensions",),
        ),
        kind(
            "networking.k8s.io",
            "v1",
            "Ingress",
            "ingresses",
            "ing",
            sub=_STATUS,
            struct=ingress.Ingress,
        ),
        kind(
            "networking.k8s.io",
            "v1",
            "IngressClass",
            "ingressclasses",
            namespaced=False,
            struct=ingress.IngressClass,
        ),
        kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "netpol"),
        kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", sub=_STATUS),
        kind(
            "autoscaling",
            "v2",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            "hpa",
            more=("v1",),
            sub=_STATUS,
            categories=every,
        ),
    )


def _mesh() -> tuple[Kind, ...]:
    hosts = Column("Hosts", ".spec.hosts", description="The hosts it is for")
    net, sec = ("networking", _NETWORKING), ("security", _SECURITY)
    return (
        _istio(
            *net,
            "VirtualService",
            "virtualservices",
            "vs",
            columns=(Column("Gateways", ".spec.gateways"), hosts),
            struct=networking.VirtualService,
        ),
        _istio(
            *net,
            "DestinationRule",
            "destinationrules",
            "dr",
            columns=(Column("Host", ".spec.host"),),
            struct=networking.DestinationRule,
        ),
        _istio(*net, "Gateway", "gateways", "gw", struct=networking.Gateway),
        _istio(
            *net,
            "ServiceEntry",
            "serviceentries",
            "se",
            columns=(
                hosts,
                Column("Location", ".spec.location"),
                Column("Resolution", ".spec.resolution"),
            ),
            struct=service_entry.ServiceEntry,
        ),
        _istio(*net, "Sidecar", "sidecars", struct=sidecar.Sidecar),
        _istio(
            *net,
            "WorkloadEntry",
            "workloadentries",
            "we",
            columns=(Column("Address", ".spec.address"),),
            struct=workload_entry.WorkloadEntry,
        ),
        _istio(
            *net,
            "WorkloadGroup",
            "workloadgroups",
            "wg",
            struct=workload_entry.WorkloadGroup,
        ),
        _istio(
            "networking",
            ("v1alpha3",),
            "EnvoyFilter",
            "envoyfilters",
            struct=envoy_filter.EnvoyFilter,
        ),
        _istio(
            "networking",
            ("v1beta1",),
            "ProxyConfig",
            "proxyconfigs",
            struct=proxy_config.ProxyConfig,
        ),
        _istio(
            *sec,
            "PeerAuthentication",
            "peerauthentications",
            "pa",
            columns=(Column("Mode", ".spec.mtls.mode"),),
            struct=security.PeerAuthentication,
        ),
        _istio(*sec, "RequestAuthentication", "requestauthentications", "ra"),
        _istio(
            *sec,
            "AuthorizationPolicy",
            "authorizationpolicies",
            "ap",
            columns=(Column("Action", ".spec.action"),),
        ),
        _istio("telemetry", ("v1", "v1alpha1"), "Telemetry", "telemetries", "telemetry"),
        _istio("extensions", ("v1alpha1",), "WasmPlugin", "wasmplugins"),
    )


KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (*_kubernetes(), *_mesh())}
"""Every kind by its name; `Gateway` is Istio's."""

_BY_PLURAL = {(k.group, v, k.plural): k for k in KINDS.values() for v in k.versions}
_BY_WORD = {
    word: kind
    for kind in KINDS.values()
    for word in (kind.name.lower(), kind.plural, *kind.short_names)
}


def kind_of(group: str, version: str, plural: str) -> Kind | None:
    """The kind served at a path; None when there is none."""
    return _BY_PLURAL.get((group, version, plural))


def kind_by_word(word: str) -> Kind | None:
    """The kind a person means: its name in any case, its plural, or a short name."""
    return _BY_WORD.get(word.lower())

"""Workloads from Pods and WorkloadEntries."""

from collections.abc import Mapping

from meltemi.api.core import Pod
from meltemi.api.names import AUTO_REGISTERED, HEALTH_CHECKED
from meltemi.api.workload_entry import WorkloadEntry
from meltemi.base.identity import Identity
from meltemi.base.keys import ObjectKey, WorkloadKey
from meltemi.model.locality import NETWORK, locality_of_labels
from meltemi.model.workload import Workload

_GONE = ("Succeeded", "Failed")


def workload_from_pod(pod: Pod, trust_domain: str, place: str = "") -> Workload | None:
    """A pod as the mesh sees it; None while it has no address, or none of its own, or is done.

    `place` is the locality of its node, which the pod's own labels override.
    """
    meta = pod.metadata
    if not pod.status.pod_ip or pod.spec.host_network or pod.status.phase in _GONE:
        return None
    labels = meta.labels
    name = workload_name(pod)
    is_gateway = meta.annotations.get("inject.istio.io/templates", "") == "gateway"
    canonical, revision = _canonical(labels, name)
    return Workload(
        key=WorkloadKey(meta.namespace, meta.name),
        source=ObjectKey("Pod", meta.namespace, meta.name),
        address=pod.status.pod_ip,
        also=tuple(a.ip for a in pod.status.pod_ips if a.ip not in ("", pod.status.pod_ip)),
        labels=labels,
        identity=Identity(trust_domain, meta.namespace, pod.spec.service_account_name or "default"),
        name=name,
        app=labels.get("app", canonical),
        version=labels.get("version", revision if revision != "latest" else ""),
        canonical_service=canonical,
        canonical_revision=revision,
        in_mesh=labels.get("security.istio.io/tlsMode") == "istio" and not is_gateway,
        is_gateway=is_gateway,
        ready=any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions),
        container_ports={
            port.name: port.container_port
            for container in (*pod.spec.containers, *pod.spec.init_containers)
            for port in container.ports
            if port.name
        },
        network=labels.get(NETWORK, ""),
        node=pod.spec.node_name,
        locality=locality_of_labels(labels) or place,
    )


def workload_from_entry(entry: WorkloadEntry, trust_domain: str) -> Workload | None:
    """A WorkloadEntry as the mesh sees it; None while it has neither an address of its own nor a
    network, whose gateway then stands for it.

    Its name in metrics is its group's, if it was registered by one.
    """
    meta, spec = entry.metadata, entry.spec
    if not (spec.address or spec.network):
        return None
    labels = {**meta.labels, **spec.labels}
    name = meta.annotations.get(AUTO_REGISTERED, "") or meta.name
    canonical, revision = _canonical(labels, name)
    tls_mode = labels.get("security.istio.io/tlsMode")
    healthy = next((c for c in entry.status.conditions if c.type == "Healthy"), None)
    checked = meta.annotations.get(HEALTH_CHECKED) == "true"
    return Workload(
        key=WorkloadKey(meta.namespace, meta.name),
        source=ObjectKey("WorkloadEntry", meta.namespace, meta.name),
        address=spec.address,
        labels=labels,
        identity=Identity(trust_domain, meta.namespace, spec.service_account or "default"),
        name=name,
        app=labels.get("app", canonical),
        version=labels.get("version", revision if revision != "latest" else ""),
        canonical_service=canonical,
        canonical_revision=revision,
        in_mesh=tls_mode == "istio" if tls_mode is not None else bool(spec.service_account),
        is_gateway=False,
        ready=healthy.status == "True" if healthy is not None else not checked,
        container_ports=spec.ports,
        network=spec.network or labels.get(NETWORK, ""),
        locality=spec.locality,
        weight=spec.weight or 1,
    )


def _canonical(labels: Mapping[str, str], name: str) -> tuple[str, str]:
    """The canonical service and revision."""
    service = (
        labels.get("service.istio.io/canonical-name")
        or labels.get("app.kubernetes.io/name")
        or labels.get("app")
        or name
    )
    revision = (
        labels.get("service.istio.io/canonical-revision")
        or labels.get("app.kubernetes.io/version")
        or labels.get("version")
        or "latest"
    )
    return service, revision


def workload_name(pod: Pod) -> str:
    """The name of what owns the pod: a ReplicaSet's Deployment, another owner, or the pod."""
    owner = next((o for o in pod.metadata.owner_references if o.controller), None)
    if owner is None:
        return pod.metadata.name
    template_hash = pod.metadata.labels.get("pod-template-hash", "")
    if owner.kind == "ReplicaSet" and template_hash:
        return owner.name.removesuffix(f"-{template_hash}")
    return owner.name

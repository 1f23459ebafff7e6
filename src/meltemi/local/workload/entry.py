"""The WorkloadEntry of a member of a WorkloadGroup. Pure."""

from collections.abc import Mapping

from meltemi.api.meta import Json
from meltemi.api.names import AUTO_REGISTERED, CONTROLLED, HEALTH_CHECKED
from meltemi.api.workload_entry import WorkloadGroup

_TLS_MODE = "security.istio.io/tlsMode"
_CANONICAL = "service.istio.io/canonical-name"

JsonObject = dict[str, Json]


def entry_name(group: str, address: str) -> str:
    """As Istio names them."""
    return f"{group}-{address.replace('.', '-').replace(':', '-')}"


def entry_of_group(
    group: WorkloadGroup,
    address: str,
    *,
    name: str = "",
    ports: Mapping[str, int] | None = None,
    has_proxy: bool = True,
) -> JsonObject:
    """The object to create. `ports` add to the template's; without a proxy the entry is plain:
    nobody speaks mutual TLS to it, and its health is its owner's business."""
    meta, template = group.metadata, group.spec.template
    labels = {**group.spec.metadata.labels, **template.labels}
    labels.setdefault(_CANONICAL, labels.get("app", meta.name))
    labels[_TLS_MODE] = "istio" if has_proxy else "disabled"
    annotations: dict[str, str] = {**group.spec.metadata.annotations, AUTO_REGISTERED: meta.name}
    if has_proxy:
        annotations[CONTROLLED] = "meltemi"
    if has_proxy and group.spec.probe is not None:
        annotations[HEALTH_CHECKED] = "true"
    spec: JsonObject = {
        "address": address,
        "labels": labels,
        "serviceAccount": template.service_account or "default",
        "ports": {**template.ports, **(ports or {})},
        "network": template.network,
        "locality": template.locality,
        "weight": template.weight,
    }
    owner = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadGroup",
        "name": meta.name,
        "uid": meta.uid,
        "controller": True,
    }
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {
            "name": name or entry_name(meta.name, address),
            "namespace": meta.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [owner],
        },
        "spec": {key: value for key, value in spec.items() if value},
    }

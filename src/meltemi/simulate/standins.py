"""What a cluster would add to files alone: pods of Deployments, addresses, endpoints.

A stand-in pod is called like its owner and has a sidecar unless the template declines it; a
Service without an address gets one of 10.43.0.0/16, a pod one of 10.44.0.0/16.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]

_OWNERS = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"})


def completed(documents: Sequence[Json]) -> list[Json]:
    """The documents, and what is missing for requests to go anywhere."""
    given: list[Json] = list(documents)
    pods = [d for d in given if d["kind"] == "Pod"]
    known = {_label_set(pod) for pod in pods}
    for owner in (d for d in given if d["kind"] in _OWNERS):
        pod = _pod(owner, len(pods))
        if _label_set(pod) not in known:
            pods.append(pod)
    services = [
        _with_address(d, i) for i, d in enumerate(d for d in given if d["kind"] == "Service")
    ]
    sliced = {_service_of(d) for d in given if d["kind"] == "EndpointSlice"}
    slices = [
        made
        for service in services
        if _place(service) not in sliced
        for made in _slices(service, pods)
    ]
    rest = [d for d in given if d["kind"] not in ("Pod", "Service")]
    return [*rest, *services, *pods, *slices]


def _place(document: Json) -> tuple[str, str]:
    meta = document["metadata"]
    return meta.get("namespace", "default"), meta["name"]


def _label_set(pod: Json) -> tuple[str, frozenset[tuple[str, str]]]:
    labels = pod["metadata"].get("labels") or {}
    kept = {k: v for k, v in labels.items() if k != "security.istio.io/tlsMode"}
    return _place(pod)[0], frozenset(kept.items())


def _service_of(slice_: Json) -> tuple[str, str]:
    labels = slice_["metadata"].get("labels") or {}
    return _place(slice_)[0], labels.get("kubernetes.io/service-name", "")


def _pod(owner: Json, position: int) -> Json:
    namespace, name = _place(owner)
    template = owner["spec"].get("template") or {}
    meta = template.get("metadata") or {}
    labels = dict(meta.get("labels") or {})
    annotations = dict(meta.get("annotations") or {})
    wanted = {**annotations, **labels}.get("sidecar.istio.io/inject", "true")
    if str(wanted).lower() != "false":
        labels["security.istio.io/tlsMode"] = "istio"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": template.get("spec") or {},
        "status": {
            "phase": "Running",
            "podIP": f"10.44.{position // 250}.{position % 250 + 1}",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def _with_address(service: Json, position: int) -> Json:
    spec = dict(service["spec"])
    if spec.get("type") != "ExternalName" and not spec.get("clusterIP"):
        spec["clusterIP"] = f"10.43.{position // 250}.{position % 250 + 1}"
    return {**service, "spec": spec}


def _slices(service: Json, pods: Sequence[Json]) -> Iterator[Json]:
    """One for each pod that the selector chooses: named ports may differ from pod to pod."""
    namespace, name = _place(service)
    selector = service["spec"].get("selector") or {}
    for i, pod in enumerate(pods):
        labels = pod["metadata"].get("labels") or {}
        if _place(pod)[0] != namespace or not selector or not selector.items() <= labels.items():
            continue
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{name}-{i}",
                "namespace": namespace,
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "ports": list(_ports(service, pod)),
            "endpoints": [
                {
                    "addresses": [pod["status"]["podIP"]],
                    "conditions": {"ready": True},
                    "targetRef": {
                        "kind": "Pod",
                        "name": pod["metadata"]["name"],
                        "namespace": namespace,
                    },
                }
            ],
        }


def _ports(service: Json, pod: Json) -> Iterator[Json]:
    named = {
        port.get("name"): port.get("containerPort")
        for container in pod["spec"].get("containers") or ()
        for port in container.get("ports") or ()
    }
    for port in service["spec"].get("ports") or ():
        target = port.get("targetPort", port["port"])
        number = named.get(target) if isinstance(target, str) else target
        if number:
            yield {
                "name": port.get("name", ""),
                "port": number,
                "protocol": port.get("protocol", "TCP"),
            }

"""What a cluster would add to files alone: pods of Deployments, addresses, endpoints.

A stand-in pod is called like its owner and has a sidecar unless the template declines it; a
Service without an address gets one of 10.43.0.0/16, a pod one of 10.44.0.0/16. Where a Service
asks for IPv6, Services and pods have addresses of fd00:10:43:: and fd00:10:44::, too.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]

_OWNERS = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"})


def completed(documents: Sequence[Json]) -> list[Json]:
    """The documents, and what is missing for requests to go anywhere."""
    given: list[Json] = list(documents)
    has_ipv6 = any("IPv6" in _families_of(d) for d in given if d["kind"] == "Service")
    pods = [d for d in given if d["kind"] == "Pod"]
    known = {_label_set(pod) for pod in pods}
    for owner in (d for d in given if d["kind"] in _OWNERS):
        pod = _pod(owner, len(pods))
        if _label_set(pod) not in known:
            pods.append(_with_both(pod, len(pods)) if has_ipv6 else pod)
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


def _with_both(pod: Json, position: int) -> Json:
    status = pod["status"]
    ips = [{"ip": status["podIP"]}, {"ip": f"fd00:10:44::{position + 1:x}"}]
    return {**pod, "status": {**status, "podIPs": ips}}


def _families_of(service: Json) -> Sequence[str]:
    """The families of a Service, as its addresses or its wishes tell."""
    spec = service["spec"]
    given = [ip for ip in spec.get("clusterIPs") or (spec.get("clusterIP"),) if ip]
    if given and given != ["None"]:
        return ["IPv6" if ":" in ip else "IPv4" for ip in given]
    wanted = list(spec.get("ipFamilies") or ("IPv4",))
    if spec.get("ipFamilyPolicy", "SingleStack") != "SingleStack":
        wanted += [family for family in ("IPv4", "IPv6") if family not in wanted]
    return wanted


def _with_address(service: Json, position: int) -> Json:
    spec = dict(service["spec"])
    if spec.get("type") != "ExternalName" and not spec.get("clusterIP"):
        own = {
            "IPv4": f"10.43.{position // 250}.{position % 250 + 1}",
            "IPv6": f"fd00:10:43::{position + 1:x}",
        }
        spec["clusterIPs"] = [own[family] for family in _families_of(service)]
        spec["clusterIP"] = spec["clusterIPs"][0]
    return {**service, "spec": spec}


def _slices(service: Json, pods: Sequence[Json]) -> Iterator[Json]:
    """One for each pod that the selector chooses: named ports may differ from pod to pod."""
    namespace, name = _place(service)
    selector = service["spec"].get("selector") or {}
    for i, pod in enumerate(pods):
        labels = pod["metadata"].get("labels") or {}
        if _place(pod)[0] != namespace or not selector or not selector.items() <= labels.items():
            continue
        for family in _families_of(service):
            address = _address(pod, family)
            if address:
                yield _slice(service, pod, f"{name}-{i}-{family.lower()}", family, address)


def _address(pod: Json, family: str) -> str:
    status = pod.get("status") or {}
    found = [item["ip"] for item in status.get("podIPs") or ()] or [status.get("podIP", "")]
    return next((ip for ip in found if (":" in ip) == (family == "IPv6")), "")


def _slice(service: Json, pod: Json, name: str, family: str, address: str) -> Json:
    namespace, owner = _place(service)
    target = {"kind": "Pod", "name": pod["metadata"]["name"], "namespace": namespace}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": owner},
        },
        "addressType": family,
        "ports": list(_ports(service, pod)),
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}, "targetRef": target}],
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

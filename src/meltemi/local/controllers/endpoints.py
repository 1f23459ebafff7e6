"""EndpointSlices: the addresses behind each Service with a selector."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import JsonObject
from meltemi.local.controllers.cache import Cache, is_leaving, owner_reference
from meltemi.local.controllers.pods import is_finished, is_ready, labels_of
from meltemi.local.controllers.writes import Writes
from meltemi.local.families import IPV4, family_of

MANAGER = "endpointslice-controller.k8s.io"
SERVICE_LABEL = "kubernetes.io/service-name"
MANAGED = "endpointslice.kubernetes.io/managed-by"
_MOST = 1000


def families_of(service: JsonObject) -> Sequence[str]:
    """The first is the Service's own."""
    return service["spec"].get("ipFamilies") or (IPV4,)


def slices(service: JsonObject, pods: Sequence[JsonObject]) -> Sequence[JsonObject]:
    """What the wanted slices say, for each family of the Service."""
    return [part for family in families_of(service) for part in _of_family(service, pods, family)]


def _of_family(
    service: JsonObject, pods: Sequence[JsonObject], family: str
) -> Sequence[JsonObject]:
    """The wanted slices of one family: one for each way that ports resolve."""
    spec = service["spec"]
    selector = spec.get("selector") or {}
    groups: dict[tuple[tuple[str, int, str, str], ...], list[JsonObject]] = {}
    for pod in pods:
        if not selector.items() <= labels_of(pod).items():
            continue
        endpoint = _endpoint(pod, service, family)
        if endpoint is None:
            continue
        ports = _ports(spec.get("ports") or (), pod)
        groups.setdefault(ports, []).append(endpoint)
    if not groups:
        groups[()] = []
    found: list[JsonObject] = []
    for ports, endpoints in sorted(groups.items()):
        for first in range(0, max(len(endpoints), 1), _MOST):
            found.append(
                {
                    "addressType": family,
                    "ports": [_port(port) for port in ports],
                    "endpoints": sorted(
                        endpoints[first : first + _MOST], key=lambda e: str(e["addresses"])
                    ),
                }
            )
    return found


def _port(port: tuple[str, int, str, str]) -> JsonObject:
    name, number, protocol, application = port
    found: JsonObject = {"name": name, "port": number, "protocol": protocol}
    if application:
        found["appProtocol"] = application
    return found


def _address(pod: JsonObject, family: str) -> str:
    """A pod's address of a family; empty without one."""
    status = pod.get("status") or {}
    found = [item["ip"] for item in status.get("podIPs") or ()] or [status.get("podIP") or ""]
    return next((ip for ip in found if family_of(ip) == family), "")


def _endpoint(pod: JsonObject, service: JsonObject, family: str) -> JsonObject | None:
    meta, ip = pod["metadata"], _address(pod, family)
    if not ip or is_finished(pod):
        return None
    ready, leaving = is_ready(pod), is_leaving(pod)
    always = bool(service["spec"].get("publishNotReadyAddresses"))
    endpoint: JsonObject = {
        "addresses": [ip],
        "conditions": {
            "ready": always or (ready and not leaving),
            "serving": ready,
            "terminating": leaving,
        },
        "targetRef": {
            "kind": "Pod",
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
        },
        "nodeName": pod["spec"].get("nodeName", ""),
    }
    spec = pod["spec"]
    if spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]:
        endpoint["hostname"] = spec["hostname"]
    return endpoint


def _ports(ports: Sequence[JsonObject], pod: JsonObject) -> tuple[tuple[str, int, str, str], ...]:
    found = []
    for port in ports:
        protocol = port.get("protocol", "TCP")
        number = _target(port, pod, protocol)
        if number is not None:
            found.append((port.get("name", ""), number, protocol, port.get("appProtocol", "")))
    return tuple(found)


def _target(port: Mapping[str, object], pod: JsonObject, protocol: str) -> int | None:
    """The pod's port behind a Service port; None when the pod has no port of that name."""
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target
    spec = pod["spec"]
    for container in (*spec["containers"], *(spec.get("initContainers") or ())):
        for declared in container.get("ports") or ():
            if declared.get("name") == target and declared.get("protocol", "TCP") == protocol:
                return int(declared["containerPort"])
    return int(str(target)) if str(target).isdecimal() else None


class EndpointSlices:
    """Reconciles a Service's slices; keys are those of Services."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._cache = writes.cache

    async def reconcile(self, key: ObjectKey) -> None:
        found = selected(self._cache, key)
        if found is None:
            return
        service, wanted = found
        present = slices_of(self._cache, key, MANAGER)
        labels = _labels(service)
        pairs, extra = matched(present, wanted)
        for current, content in pairs:
            if current is not None:
                await self._update(current, labels, content)
            else:
                await self._writes.create(_slice(service, labels, content))
        for unused in extra:
            await self._writes.delete(unused)

    async def _update(
        self, current: JsonObject, labels: Mapping[str, str], content: JsonObject
    ) -> None:
        same = labels == labels_of(current)
        if not same or any((current.get(k) or []) != v for k, v in content.items()):
            meta = {**current["metadata"], "labels": labels}
            await self._writes.update({**current, "metadata": meta, **content})


def selected(cache: Cache, key: ObjectKey) -> tuple[JsonObject, Sequence[JsonObject]] | None:
    """A Service whose endpoints are ours to find, with the slices it should have."""
    service = cache.get(key)
    if service is None or is_leaving(service) or not is_selecting(service):
        return None
    return service, slices(service, cache.list("Pod", key.namespace))


def slices_of(cache: Cache, key: ObjectKey, manager: str) -> Sequence[JsonObject]:
    """The slices that one controller made for what has this name."""
    wanted = {SERVICE_LABEL: key.name, MANAGED: manager}.items()
    return [
        s
        for s in cache.list("EndpointSlice", key.namespace)
        if wanted <= labels_of(s).items() and not is_leaving(s)
    ]


class Matched(NamedTuple):
    """Which slice shall say what: a family's slices keep to it."""

    pairs: Sequence[tuple[JsonObject | None, JsonObject]]
    """The slice that stands, if there is one, and what it shall say."""
    extra: Sequence[JsonObject]
    """Slices that nothing is left for."""


def matched(present: Sequence[JsonObject], wanted: Sequence[JsonObject]) -> Matched:
    left, pairs = list(present), []
    for content in wanted:
        alike = (s for s in left if s.get("addressType", IPV4) == content["addressType"])
        current = next(alike, None)
        if current is not None:
            left.remove(current)
        pairs.append((current, content))
    return Matched(pairs, left)


def is_selecting(service: JsonObject) -> bool:
    """Whether its endpoints are ours to find; without a selector they are the user's."""
    spec = service["spec"]
    return bool(spec.get("selector")) and spec.get("type") != "ExternalName"


def _labels(service: JsonObject) -> Mapping[str, str]:
    labels = {**labels_of(service), SERVICE_LABEL: service["metadata"]["name"], MANAGED: MANAGER}
    if service["spec"].get("clusterIP") == "None":
        labels["service.kubernetes.io/headless"] = ""
    return labels


def _slice(service: JsonObject, labels: Mapping[str, str], content: JsonObject) -> JsonObject:
    meta = service["metadata"]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": f"{meta['name']}-",
            "namespace": meta["namespace"],
            "labels": labels,
            "ownerReferences": [owner_reference(service, "v1", "Service")],
        },
        **content,
    }

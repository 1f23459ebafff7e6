"""Endpoints, the older form of EndpointSlices: written for those who still read them, and read
where somebody wrote them for a Service without a selector.
"""

from collections.abc import Mapping, Sequence

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import JsonObject
from meltemi.kube.errors import AlreadyExists
from meltemi.local.controllers.cache import is_leaving, owner_reference
from meltemi.local.controllers.endpoints import (
    MANAGED,
    SERVICE_LABEL,
    families_of,
    is_selecting,
    matched,
    selected,
    slices_of,
)
from meltemi.local.controllers.pods import labels_of
from meltemi.local.controllers.writes import Writes
from meltemi.local.families import IPV4, IPV6, family_of

_OURS = "endpoints.kubernetes.io/managed-by"
_CONTROLLER = "endpoint-controller"
MIRROR = "endpointslicemirroring-controller.k8s.io"
_SKIP = "endpointslice.kubernetes.io/skip-mirror"


def subsets(found: Sequence[JsonObject]) -> Sequence[JsonObject]:
    """The subsets that say what slices say."""
    result = []
    for content in found:
        ready = [_address(e) for e in content["endpoints"] if e["conditions"]["ready"]]
        unready = [_address(e) for e in content["endpoints"] if not e["conditions"]["ready"]
                   and not e["conditions"]["terminating"]]  # fmt: skip
        subset: JsonObject = {"ports": content["ports"]}
        if ready:
            subset["addresses"] = ready
        if unready:
            subset["notReadyAddresses"] = unready
        if ready or unready:
            result.append(subset)
    return result


def _address(endpoint: JsonObject) -> JsonObject:
    found: JsonObject = {"ip": endpoint["addresses"][0]}
    for name in ("hostname", "nodeName", "targetRef"):
        if name in endpoint:
            found[name] = endpoint[name]
    return found


class EndpointObjects:
    """Writes the Endpoints of Services with a selector; keys are those of Services."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._cache = writes.cache

    async def reconcile(self, key: ObjectKey) -> None:
        found = selected(self._cache, key)
        if found is None:
            return
        service, (family, *_) = found[0], families_of(found[0])
        wanted = subsets([part for part in found[1] if part["addressType"] == family])
        present = self._cache.get(ObjectKey("Endpoints", key.namespace, key.name))
        labels = {**labels_of(service), _OURS: _CONTROLLER}
        if present is None:
            body = {
                "apiVersion": "v1",
                "kind": "Endpoints",
                "metadata": {
                    "name": key.name,
                    "namespace": key.namespace,
                    "labels": labels,
                    "ownerReferences": [owner_reference(service, "v1", "Service")],
                },
                "subsets": wanted,
            }
            try:
                await self._writes.create(body)
            except AlreadyExists:
                await self._writes.get(ObjectKey("Endpoints", key.namespace, key.name))
        elif (present.get("subsets") or []) != wanted or labels_of(present) != labels:
            meta = {**present["metadata"], "labels": labels}
            await self._writes.update({**present, "metadata": meta, "subsets": wanted})


class EndpointMirror:
    """Makes slices of what users wrote as Endpoints; keys are those of Endpoints."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._cache = writes.cache

    async def reconcile(self, key: ObjectKey) -> None:
        endpoints = self._cache.get(key)
        service = self._cache.get(ObjectKey("Service", key.namespace, key.name))
        present = slices_of(self._cache, key, MIRROR)
        wanted: Sequence[JsonObject] = ()
        if endpoints is not None and service is not None and not is_leaving(service):
            wanted = () if is_selecting(service) or _is_skipped(endpoints) else _mirrored(endpoints)
        pairs, extra = matched(present, wanted)
        for current, content in pairs:
            if current is None:
                assert endpoints is not None
                await self._writes.create(_slice(endpoints, content))
            elif any((current.get(k) or []) != v for k, v in content.items()):
                await self._writes.update({**current, **content})
        for unused in extra:
            await self._writes.delete(unused)


def _is_skipped(endpoints: JsonObject) -> bool:
    labels = labels_of(endpoints)
    return labels.get(_OURS) == _CONTROLLER or labels.get(_SKIP) == "true"


def _mirrored(endpoints: JsonObject) -> Sequence[JsonObject]:
    found = []
    for subset in endpoints.get("subsets") or ():
        members = [
            _endpoint(address, ready=ready)
            for name, ready in (("addresses", True), ("notReadyAddresses", False))
            for address in subset.get(name) or ()
        ]
        ports = [{"name": "", "protocol": "TCP", **port} for port in subset.get("ports") or ()]
        for family in (IPV4, IPV6):
            own = [m for m in members if family_of(m["addresses"][0]) == family]
            if own or (not members and family == IPV4):
                found.append({"addressType": family, "ports": ports, "endpoints": own})
    return found


def _endpoint(address: Mapping[str, object], *, ready: bool) -> JsonObject:
    conditions = {"ready": ready, "serving": ready, "terminating": False}
    found: JsonObject = {"addresses": [address["ip"]], "conditions": conditions}
    for name in ("hostname", "nodeName", "targetRef"):
        if address.get(name):
            found[name] = address[name]
    return found


def _slice(endpoints: JsonObject, content: JsonObject) -> JsonObject:
    meta = endpoints["metadata"]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": f"{meta['name']}-",
            "namespace": meta["namespace"],
            "labels": {**labels_of(endpoints), SERVICE_LABEL: meta["name"], MANAGED: MIRROR},
            "ownerReferences": [owner_reference(endpoints, "v1", "Endpoints")],
        },
        **content,
    }

"""ReplicaSets: as many pods as asked for."""

import asyncio
from collections.abc import Sequence

import msgspec

from meltemi.base.clock import Clock
from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client, JsonObject
from meltemi.kube.errors import NotFound
from meltemi.kube.writer import patch_status
from meltemi.local.controllers.cache import Cache, controller_of
from meltemi.local.controllers.pods import (
    condition,
    is_active,
    is_ready,
    pod_from_template,
    selects,
)

_BURST = 50
"""Pods made or deleted at once."""


class Plan(msgspec.Struct, frozen=True):
    """What to do for one ReplicaSet."""

    create: int = 0
    delete: tuple[JsonObject, ...] = ()
    adopt: tuple[JsonObject, ...] = ()


def plan(
    replica_set: JsonObject, owned: Sequence[JsonObject], orphans: Sequence[JsonObject]
) -> Plan:
    """`orphans`: pods that match the selector and have no controller."""
    wanted = replica_set["spec"].get("replicas", 1)
    adopt = tuple(pod for pod in orphans if is_active(pod))
    active = [pod for pod in (*owned, *adopt) if is_active(pod)]
    missing = wanted - len(active)
    if missing >= 0:
        return Plan(create=missing, adopt=adopt)
    return Plan(delete=tuple(sorted(active, key=_order_of_leaving)[:-missing]), adopt=adopt)


def _order_of_leaving(pod: JsonObject) -> tuple[bool, bool, bool, str, str]:
    """Those that are not bound, not ready or youngest go first."""
    created = pod["metadata"].get("creationTimestamp", "")
    return (
        bool(pod["spec"].get("nodeName")),
        (pod.get("status") or {}).get("phase") == "Running",
        is_ready(pod),
        # Youngest first: later times sort earlier when their digits are turned round.
        "".join(chr(158 - ord(c)) for c in created),
        pod["metadata"]["name"],
    )


def status_of(replica_set: JsonObject, owned: Sequence[JsonObject], now: float) -> JsonObject:
    """`now`: seconds since the epoch, for minReadySeconds."""
    active = [pod for pod in owned if is_active(pod)]
    ready = [pod for pod in active if is_ready(pod)]
    needed = replica_set["spec"].get("minReadySeconds", 0)
    available = [pod for pod in ready if not needed or _ready_for(pod, now) >= needed]
    labels = (replica_set["spec"]["template"].get("metadata") or {}).get("labels") or {}
    labelled = [p for p in active if labels.items() <= (p["metadata"].get("labels") or {}).items()]
    return {
        "replicas": len(active),
        "fullyLabeledReplicas": len(labelled),
        "readyReplicas": len(ready),
        "availableReplicas": len(available),
        "observedGeneration": replica_set["metadata"].get("generation", 0),
    }


def _ready_for(pod: JsonObject, now: float) -> float:
    import datetime

    since = condition(pod, "Ready").get("lastTransitionTime")
    if not since:
        return 0.0
    return now - datetime.datetime.fromisoformat(since).timestamp()


class ReplicaSets:
    """Reconciles by the plan."""

    def __init__(self, client: Client, cache: Cache, clock: Clock) -> None:
        self._client = client
        self._cache = cache
        self._clock = clock

    async def reconcile(self, key: ObjectKey) -> None:
        found = self._cache.get(key)
        if found is None:
            return
        owned = list(self._cache.owned(found, "Pod"))
        if "deletionTimestamp" not in found["metadata"]:
            await self._act(found, plan(found, owned, self._orphans(found)))
            owned = list(self._cache.owned(found, "Pod"))
        status = status_of(found, owned, self._clock.now().timestamp())
        before = found.get("status") or {}
        if {k: before.get(k, 0) for k in status} != status:
            await patch_status(self._client, key, status)

    def _orphans(self, replica_set: JsonObject) -> Sequence[JsonObject]:
        selector = replica_set["spec"].get("selector")
        pods = self._cache.list("Pod", replica_set["metadata"]["namespace"])
        return [
            pod
            for pod in pods
            if controller_of(pod) is None
            and is_active(pod)
            and selects(selector, pod["metadata"].get("labels") or {})
        ]

    async def _act(self, replica_set: JsonObject, todo: Plan) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(todo.create, _BURST)):
                pod = pod_from_template(
                    replica_set, "apps/v1", "ReplicaSet", replica_set["spec"]["template"]
                )
                group.create_task(self._create(pod), name="create pod")
            for pod in todo.delete[:_BURST]:
                group.create_task(delete_pod(self._client, self._cache, pod), name="delete pod")
            for pod in todo.adopt:
                group.create_task(self._adopt(replica_set, pod), name="adopt pod")

    async def _create(self, pod: JsonObject) -> None:
        self._cache.observe(await self._client.create(pod))

    async def _adopt(self, replica_set: JsonObject, pod: JsonObject) -> None:
        from meltemi.local.controllers.cache import owner_reference

        meta = pod["metadata"]
        reference = owner_reference(replica_set, "apps/v1", "ReplicaSet")
        key = ObjectKey("Pod", meta["namespace"], meta["name"])
        change = {"metadata": {"uid": meta["uid"], "ownerReferences": [reference]}}
        self._cache.observe(await self._client.patch(key, change))


async def delete_pod(client: Client, cache: Cache, pod: JsonObject) -> None:
    """Delete this pod, and no later one of its name."""
    meta = pod["metadata"]
    cache.leaving(pod)
    try:
        await client.delete(ObjectKey("Pod", meta["namespace"], meta["name"]), uid=meta["uid"])
    except NotFound:
        return

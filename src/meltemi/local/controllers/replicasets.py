"""ReplicaSets: as many pods as asked for."""

import datetime
from collections.abc import Sequence

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import JsonObject
from meltemi.kube.errors import ApiError, Conflict
from meltemi.local.controllers.cache import controller_of, is_leaving, owner_reference
from meltemi.local.controllers.pods import (
    condition,
    is_active,
    is_ready,
    labels_of,
    phase,
    pod_from_template,
    seconds_since,
    selects,
)
from meltemi.local.controllers.writes import Writes

_COST = "controller.kubernetes.io/pod-deletion-cost"


class Plan(msgspec.Struct, frozen=True):
    """What to do for one ReplicaSet."""

    create: int = 0
    delete: tuple[JsonObject, ...] = ()
    adopt: tuple[JsonObject, ...] = ()
    release: tuple[JsonObject, ...] = ()
    """Owned pods that the selector no longer matches."""


def plan(
    replica_set: JsonObject, owned: Sequence[JsonObject], orphans: Sequence[JsonObject]
) -> Plan:
    """`orphans`: pods that match the selector and have no controller."""
    wanted = replica_set["spec"].get("replicas", 1)
    selector = replica_set["spec"].get("selector")
    adopt = tuple(pod for pod in orphans if is_active(pod))
    release = tuple(p for p in owned if is_active(p) and not selects(selector, labels_of(p)))
    active = [pod for pod in (*owned, *adopt) if is_active(pod) and pod not in release]
    excess = len(active) - wanted
    delete = tuple(leaving_first(active)[: max(0, excess)])
    return Plan(max(0, -excess), delete, adopt, release)


def leaving_first(pods: Sequence[JsonObject]) -> Sequence[JsonObject]:
    """Those whose loss costs least come first: not bound, not running, not ready, cheap, young."""

    def worth(pod: JsonObject) -> tuple[bool, bool, bool, int]:
        cost = (pod["metadata"].get("annotations") or {}).get(_COST, "0")
        bound = bool(pod["spec"].get("nodeName"))
        return bound, phase(pod) == "Running", is_ready(pod), int(cost)

    youngest = sorted(
        pods, key=lambda p: str(p["metadata"].get("creationTimestamp", "")), reverse=True
    )
    return sorted(youngest, key=worth)


def status_of(
    replica_set: JsonObject,
    owned: Sequence[JsonObject],
    *,
    now: datetime.datetime,
    failure: str = "",
) -> JsonObject:
    """The ReplicaSet's status. `failure`: why pods could not be made just now."""
    active = [pod for pod in owned if is_active(pod)]
    ready = [pod for pod in active if is_ready(pod)]
    available = [pod for pod in ready if _seconds_short(replica_set, pod, now) <= 0]
    labels = labels_of(replica_set["spec"]["template"])
    status: JsonObject = {
        "replicas": len(active),
        "fullyLabeledReplicas": sum(labels.items() <= labels_of(p).items() for p in active),
        "readyReplicas": len(ready),
        "availableReplicas": len(available),
        "observedGeneration": replica_set["metadata"].get("generation", 0),
        "conditions": [],
    }
    if failure:
        since = condition(replica_set, "ReplicaFailure").get("lastTransitionTime")
        status["conditions"].append(
            {
                "type": "ReplicaFailure",
                "status": "True",
                "reason": "FailedCreate",
                "message": failure,
                "lastTransitionTime": since or f"{now:%Y-%m-%dT%H:%M:%SZ}",
            }
        )
    return status


def _seconds_short(replica_set: JsonObject, pod: JsonObject, now: datetime.datetime) -> float:
    """How much longer a ready pod must stay so to count as available."""
    needed = replica_set["spec"].get("minReadySeconds", 0)
    if not needed:
        return 0.0
    return float(needed) - seconds_since(condition(pod, "Ready").get("lastTransitionTime"), now)


def seconds_to_available(
    replica_set: JsonObject, owned: Sequence[JsonObject], now: datetime.datetime
) -> float | None:
    """Until the next ready pod counts as available; None when nothing is waited for."""
    ready = [pod for pod in owned if is_active(pod) and is_ready(pod)]
    short = [_seconds_short(replica_set, pod, now) for pod in ready]
    return min((s for s in short if s > 0), default=None)


class ReplicaSets:
    """Reconciles by the plan."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._cache = writes.cache

    async def reconcile(self, key: ObjectKey) -> float | None:
        found = self._cache.get(key)
        if found is None:
            return None
        failure: ApiError | None = None
        if not is_leaving(found):
            owned = self._cache.owned(found, "Pod")
            try:
                await self._act(found, plan(found, owned, self._orphans(found)))
            except Conflict:
                raise
            except ApiError as error:
                failure = error
        owned, now = self._cache.owned(found, "Pod"), self._writes.clock.now()
        text = str(failure) if failure is not None else ""
        await self._writes.status(found, status_of(found, owned, now=now, failure=text))
        if failure is not None:
            raise failure
        return seconds_to_available(found, owned, now)

    def _orphans(self, replica_set: JsonObject) -> Sequence[JsonObject]:
        selector = replica_set["spec"].get("selector")
        return [
            pod
            for pod in self._cache.list("Pod", replica_set["metadata"]["namespace"])
            if controller_of(pod) is None and selects(selector, labels_of(pod))
        ]

    async def _act(self, replica_set: JsonObject, todo: Plan) -> None:
        for pod in todo.release:
            await self._set_owner(pod, None)
        for pod in todo.adopt:
            await self._set_owner(pod, owner_reference(replica_set, "apps/v1", "ReplicaSet"))
        await self._writes.delete_pods(replica_set, list(todo.delete))
        template = replica_set["spec"]["template"]
        pods = [pod_from_template(replica_set, template) for _ in range(todo.create)]
        await self._writes.create_pods(replica_set, pods)

    async def _set_owner(self, pod: JsonObject, owner: JsonObject | None) -> None:
        """Make `owner` the pod's controller, or leave it without one."""
        owners = [
            o for o in pod["metadata"].get("ownerReferences") or () if not o.get("controller")
        ]
        if owner is not None:
            owners.append(owner)
        await self._writes.patch(pod, {"metadata": {"ownerReferences": owners}})

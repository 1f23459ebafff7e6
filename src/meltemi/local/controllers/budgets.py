"""PodDisruptionBudgets: how many pods may leave, for those who ask by eviction."""

import math
from collections.abc import Sequence

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import JsonObject
from meltemi.local.controllers.cache import Cache, controller_of, is_leaving
from meltemi.local.controllers.pods import (
    condition,
    is_active,
    is_ready,
    labels_of,
    selects,
)
from meltemi.local.controllers.writes import Writes


def status_of(
    budget: JsonObject, pods: Sequence[JsonObject], expected: int, *, now: str
) -> JsonObject:
    """`pods`: those the budget selects; `expected`: as many as their controllers ask for."""
    spec = budget["spec"]
    healthy = sum(1 for pod in pods if is_active(pod) and is_ready(pod))
    if spec.get("maxUnavailable") is not None:
        desired = expected - _share(spec["maxUnavailable"], expected)
    else:
        desired = _share(spec.get("minAvailable", 1), expected)
    desired = max(0, desired)
    allowed = max(0, healthy - desired)
    enough = "True" if allowed > 0 else "False"
    before = condition(budget, "DisruptionAllowed")
    same = before.get("status") == enough
    return {
        "observedGeneration": budget["metadata"].get("generation", 0),
        "expectedPods": expected,
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "disruptionsAllowed": allowed,
        "conditions": [
            {
                "type": "DisruptionAllowed",
                "status": enough,
                "reason": "SufficientPods" if allowed > 0 else "InsufficientPods",
                "message": "",
                "lastTransitionTime": before["lastTransitionTime"] if same else now,
                "observedGeneration": budget["metadata"].get("generation", 0),
            }
        ],
    }


def _share(value: int | str, total: int) -> int:
    """A number, or a percentage rounded up."""
    if isinstance(value, int):
        return value
    return math.ceil(int(value.rstrip("%")) * total / 100)


class Budgets:
    """Keeps the status; keys are those of budgets."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._cache = writes.cache

    async def reconcile(self, key: ObjectKey) -> None:
        found = self._cache.get(key)
        if found is None or is_leaving(found):
            return
        pods = [
            pod
            for pod in self._cache.list("Pod", key.namespace)
            if selects(found["spec"].get("selector"), labels_of(pod)) and is_active(pod)
        ]
        expected = _expected(self._cache, pods)
        status = status_of(found, pods, expected, now=self._writes.now())
        await self._writes.status(found, status)


def _expected(cache: Cache, pods: Sequence[JsonObject]) -> int:
    """What the pods' controllers ask for; a pod without one counts itself."""
    sizes: dict[str, int] = {}
    for pod in pods:
        namespace = pod["metadata"]["namespace"]
        owner, found = controller_of(pod), pod
        while owner is not None:
            above = cache.get(ObjectKey(owner["kind"], namespace, owner["name"]))
            if above is None:
                break
            found, owner = above, controller_of(above)
        size = 1 if found is pod else found["spec"].get("replicas", 1)
        sizes[found["metadata"]["uid"]] = size
    return sum(sizes.values())

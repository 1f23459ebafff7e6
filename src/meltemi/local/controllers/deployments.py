"""Deployments: a ReplicaSet for each version of the template, and the way from one to the next.

What to do is decided in `rollout`.
"""

import copy
from collections.abc import Mapping, Sequence

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import JsonObject
from meltemi.kube.errors import AlreadyExists, Conflict
from meltemi.local.controllers.cache import controller_of, is_leaving, owner_reference
from meltemi.local.controllers.pods import is_finished, labels_of, selects
from meltemi.local.controllers.rollout import (
    HASH_LABEL,
    REVISION,
    first_size,
    inherited_annotations,
    present_set,
    revision_of,
    scales,
    scales_while_paused,
    seconds_left,
    status_of,
    template_hash,
    wanted_replicas,
)
from meltemi.local.controllers.writes import Writes, key_of


class Deployments:
    """Reconciles by `rollout`."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._cache = writes.cache

    async def reconcile(self, key: ObjectKey) -> float | None:
        found = self._cache.get(key)
        if found is None or is_leaving(found):
            return None
        await self._adopt(found)
        sets = self._sets(found)
        new = present_set(found, sets)
        if found["spec"].get("paused"):
            await self._scale(found, sets, scales_while_paused(found, sets))
        else:
            new = new or await self._create(found, sets)
            new = await self._settle(found, new, sets)
            old = [r for r in self._sets(found) if key_of(r) != key_of(new)]
            sizes = scales(found, new, old, old_pods=self._pods_of(old))
            await self._scale(found, [new, *old], sizes)
            await self._forget(found, old)
        sets = self._sets(found)
        new = present_set(found, sets)
        now = self._writes.clock.now()
        await self._writes.status(found, status_of(found, new, sets, now=now))
        left = seconds_left(self._cache.get(key) or found, now)
        return max(left, 0.0) + 1 if left is not None else None

    def _sets(self, deployment: JsonObject) -> list[JsonObject]:
        owned = self._cache.owned(deployment, "ReplicaSet")
        return [r for r in owned if not is_leaving(r)]

    async def _adopt(self, deployment: JsonObject) -> None:
        """Take ReplicaSets that a Deployment deleted with --cascade=orphan has left."""
        reference = owner_reference(deployment, "apps/v1", "Deployment")
        for found in self._cache.list("ReplicaSet", deployment["metadata"]["namespace"]):
            orphan = controller_of(found) is None and not is_leaving(found)
            if orphan and selects(deployment["spec"].get("selector"), labels_of(found)):
                await self._writes.patch(found, {"metadata": {"ownerReferences": [reference]}})

    def _pods_of(self, sets: Sequence[JsonObject]) -> int:
        owned = [pod for found in sets for pod in self._cache.owned(found, "Pod")]
        return sum(1 for pod in owned if not is_finished(pod))

    async def _create(self, deployment: JsonObject, sets: Sequence[JsonObject]) -> JsonObject:
        """The ReplicaSet of the present template; AlreadyExists means that we were here before."""
        collisions = (deployment.get("status") or {}).get("collisionCount", 0)
        body = _replica_set(deployment, sets, collisions)
        try:
            made = await self._writes.create(body)
        except AlreadyExists:
            return await self._take(deployment, key_of(body), collisions)
        message = f"Scaled up replica set {body['metadata']['name']} from 0 to "
        self._writes.tell(deployment, "ScalingReplicaSet", f"{message}{wanted_replicas(made)}")
        return made

    async def _take(self, deployment: JsonObject, key: ObjectKey, collisions: int) -> JsonObject:
        """The name is taken: by our own, or by another (Conflict), then the next hash differs."""
        present = await self._writes.get(key)
        owner = controller_of(present) or {}
        is_ours = owner.get("uid") == deployment["metadata"]["uid"] and not is_leaving(present)
        if is_ours and present_set(deployment, [present]) is not None:
            return present
        if owner and not is_leaving(present):
            await self._writes.status(deployment, {"collisionCount": collisions + 1})
        raise Conflict(409, "AlreadyExists", f"{key} is not of {key_of(deployment)}")

    async def _settle(
        self, deployment: JsonObject, new: JsonObject, sets: Sequence[JsonObject]
    ) -> JsonObject:
        """The present ReplicaSet has the highest revision, the Deployment the same."""
        others = max((revision_of(r) for r in sets if key_of(r) != key_of(new)), default=0)
        revision = revision_of(new) if revision_of(new) > others else others + 1
        wanted = {**inherited_annotations(deployment), REVISION: str(revision)}
        change: JsonObject = {}
        if not wanted.items() <= (new["metadata"].get("annotations") or {}).items():
            change["metadata"] = {"annotations": wanted}
        seconds = deployment["spec"].get("minReadySeconds", 0)
        if new["spec"].get("minReadySeconds", 0) != seconds:
            change["spec"] = {"minReadySeconds": seconds}
        if change:
            new = await self._writes.patch(new, change)
        if revision_of(deployment) != revision:
            note = {"metadata": {"annotations": {REVISION: str(revision)}}}
            await self._writes.patch(deployment, note)
        return new

    async def _scale(
        self, deployment: JsonObject, sets: Sequence[JsonObject], sizes: Mapping[str, int]
    ) -> None:
        for found in sets:
            name, before = found["metadata"]["name"], wanted_replicas(found)
            if name in sizes:
                await self._writes.patch(found, {"spec": {"replicas": sizes[name]}})
                way = "up" if sizes[name] > before else "down"
                message = f"Scaled {way} replica set {name} from {before} to {sizes[name]}"
                self._writes.tell(deployment, "ScalingReplicaSet", message)

    async def _forget(self, deployment: JsonObject, old: Sequence[JsonObject]) -> None:
        """Delete the oldest empty ReplicaSets beyond revisionHistoryLimit."""
        limit = deployment["spec"].get("revisionHistoryLimit", 10)
        empty = [
            r for r in old if not wanted_replicas(r) and not (r.get("status") or {}).get("replicas")
        ]
        for found in sorted(empty, key=revision_of)[: max(0, len(empty) - limit)]:
            await self._writes.delete(found)


def _replica_set(
    deployment: JsonObject, others: Sequence[JsonObject], collisions: int
) -> JsonObject:
    """A new ReplicaSet of the present template, with as many pods as the surge allows."""
    name, spec = deployment["metadata"]["name"], deployment["spec"]
    template = copy.deepcopy(spec["template"])
    hashed = template_hash(template, collisions)
    meta = template.get("metadata") or {}
    labels = {**(meta.get("labels") or {}), HASH_LABEL: hashed}
    template["metadata"] = {**meta, "labels": labels}
    selector = copy.deepcopy(spec["selector"])
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH_LABEL: hashed}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{name}-{hashed}",
            "namespace": deployment["metadata"]["namespace"],
            "labels": labels,
            "annotations": {
                **inherited_annotations(deployment),
                REVISION: str(max(map(revision_of, others), default=0) + 1),
            },
            "ownerReferences": [owner_reference(deployment, "apps/v1", "Deployment")],
        },
        "spec": {
            "replicas": first_size(deployment, others),
            "minReadySeconds": spec.get("minReadySeconds", 0),
            "selector": selector,
            "template": template,
        },
    }

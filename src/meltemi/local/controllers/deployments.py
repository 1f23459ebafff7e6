"""Deployments: a ReplicaSet for each version of the template, and the way from one to the next.

Follows the rules of the Deployment API (surge, unavailable, revisions, conditions), so that
`kubectl rollout` tells the truth.
"""

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence

import msgspec

from meltemi.base.clock import Clock
from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client, JsonObject
from meltemi.kube.errors import AlreadyExists
from meltemi.kube.writer import patch_status
from meltemi.local.controllers.cache import Cache, owner_reference

REVISION = "deployment.kubernetes.io/revision"
_HASH = "pod-template-hash"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def template_hash(template: JsonObject) -> str:
    """Ten letters that no word can come of, the same for the same template."""
    raw = msgspec.json.encode(template, order="sorted")
    number = int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")
    letters = []
    for _ in range(10):
        number, rest = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[rest])
    return "".join(letters)


def bounds(deployment: JsonObject) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) in pods; never both 0."""
    spec = deployment["spec"]
    wanted = spec.get("replicas", 1)
    strategy = spec.get("strategy") or {}
    if strategy.get("type") == "Recreate":
        return 0, wanted
    rolling = strategy.get("rollingUpdate") or {}
    surge = _share(rolling.get("maxSurge", "25%"), wanted, up=True)
    unavailable = _share(rolling.get("maxUnavailable", "25%"), wanted, up=False)
    return (surge, unavailable) if surge or unavailable else (0, 1)


def _share(value: int | str, total: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    part = total * int(value.rstrip("%")) / 100
    return math.ceil(part) if up else math.floor(part)


def new_replica_set(
    deployment: JsonObject, replica_sets: Sequence[JsonObject]
) -> JsonObject | None:
    """The one whose template is the deployment's, apart from the hash label."""
    wanted = deployment["spec"]["template"]
    for replica_set in replica_sets:
        template = copy.deepcopy(replica_set["spec"]["template"])
        (template.get("metadata") or {}).get("labels", {}).pop(_HASH, None)
        if _same(template, wanted):
            return replica_set
    return None


def _same(a: JsonObject, b: JsonObject) -> bool:
    return _without_empty(a) == _without_empty(b)


def _without_empty(value: object) -> object:
    if isinstance(value, dict):
        kept = {k: _without_empty(v) for k, v in value.items()}
        return {k: v for k, v in kept.items() if v not in (None, {}, [], "")}
    if isinstance(value, list):
        return [_without_empty(v) for v in value]
    return value


def scales(deployment: JsonObject, new: JsonObject, old: Sequence[JsonObject]) -> Mapping[str, int]:
    """The next number of pods of each ReplicaSet that should change, by name."""
    wanted = deployment["spec"].get("replicas", 1)
    surge, unavailable = bounds(deployment)
    changes: dict[str, int] = {}
    current = _replicas(new)
    old_total = sum(_replicas(r) for r in old)
    recreate = (deployment["spec"].get("strategy") or {}).get("type") == "Recreate"
    if recreate:
        if old_total:
            return {_name(r): 0 for r in old if _replicas(r)}
        if any((r.get("status") or {}).get("replicas", 0) for r in old):
            return {}
        return {_name(new): wanted} if current != wanted else {}
    if current > wanted:
        changes[_name(new)] = wanted
    elif current < wanted:
        room = wanted + surge - current - old_total
        grown = current + max(0, min(room, wanted - current))
        if grown != current:
            changes[_name(new)] = grown
    available = sum((r.get("status") or {}).get("availableReplicas", 0) for r in (new, *old))
    new_available = (new.get("status") or {}).get("availableReplicas", 0)
    spare = available - (wanted - unavailable)
    # Pods of old versions that are not available hold nothing up: they may go at once.
    for replica_set in old:
        broken = _replicas(replica_set) - (replica_set.get("status") or {}).get(
            "availableReplicas", 0
        )
        leaving = min(_replicas(replica_set), max(0, broken) + max(0, spare))
        if new_available == 0 and broken <= 0 and spare <= 0:
            continue
        if leaving > 0:
            changes[_name(replica_set)] = _replicas(replica_set) - leaving
            spare -= max(0, leaving - max(0, broken))
    return changes


def status_of(
    deployment: JsonObject,
    new: JsonObject | None,
    all_sets: Sequence[JsonObject],
    *,
    now: str,
) -> JsonObject:
    """The Deployment's status, conditions included."""

    def total(field: str) -> int:
        return sum((r.get("status") or {}).get(field, 0) for r in all_sets)

    wanted = deployment["spec"].get("replicas", 1)
    updated = ((new or {}).get("status") or {}).get("replicas", 0)
    replicas, available = total("replicas"), total("availableReplicas")
    _, unavailable = bounds(deployment)
    before = (deployment.get("status") or {}).get("conditions") or ()
    enough = available >= wanted - unavailable
    done = updated == wanted and replicas == wanted and available == wanted
    name = _name(new) if new is not None else ""
    made = bool(updated) or not wanted
    progress = (
        ("NewReplicaSetAvailable", f'ReplicaSet "{name}" has successfully progressed.')
        if done
        else ("ReplicaSetUpdated", f'ReplicaSet "{name}" is progressing.')
        if made
        else ("NewReplicaSetCreated", f'Created new replica set "{name}"')
    )
    availability = (
        ("MinimumReplicasAvailable", "Deployment has minimum availability.")
        if enough
        else ("MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    )
    return {
        "observedGeneration": deployment["metadata"].get("generation", 0),
        "replicas": replicas,
        "updatedReplicas": updated,
        "readyReplicas": total("readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(0, max(wanted, replicas) - available),
        "conditions": [
            _condition("Available", enough, *availability, before=before, now=now),
            _condition("Progressing", True, *progress, before=before, now=now),
        ],
    }


def _condition(
    kind: str,
    holds: bool,
    reason: str,
    message: str,
    *,
    before: Sequence[JsonObject],
    now: str,
) -> JsonObject:
    status = "True" if holds else "False"
    old = next((c for c in before if c["type"] == kind), {})
    same = old.get("status") == status and old.get("reason") == reason
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastUpdateTime": old.get("lastUpdateTime", now) if same else now,
        "lastTransitionTime": old.get("lastTransitionTime", now)
        if old.get("status") == status
        else now,
    }


def _replicas(replica_set: JsonObject) -> int:
    found: int = replica_set["spec"].get("replicas", 1)
    return found


def _name(data: JsonObject) -> str:
    return str(data["metadata"]["name"])


def _revision(data: JsonObject) -> int:
    return int((data["metadata"].get("annotations") or {}).get(REVISION, "0"))


class Deployments:
    """Reconciles by the functions above."""

    def __init__(self, client: Client, cache: Cache, clock: Clock) -> None:
        self._client = client
        self._cache = cache
        self._clock = clock

    async def reconcile(self, key: ObjectKey) -> None:
        found = self._cache.get(key)
        if found is None or "deletionTimestamp" in found["metadata"]:
            return
        owned = list(self._cache.owned(found, "ReplicaSet"))
        new = new_replica_set(found, owned)
        if new is None and not found["spec"].get("paused"):
            new = await self._create(found, owned)
            owned = list(self._cache.owned(found, "ReplicaSet"))
        if new is not None:
            await self._settle_revision(found, new, owned)
            old = [r for r in owned if _name(r) != _name(new)]
            if not found["spec"].get("paused"):
                await self._scale(key.namespace, scales(found, new, old))
            await self._forget(found, old)
        await self._write_status(key, found, new, owned)

    async def _create(self, deployment: JsonObject, owned: Sequence[JsonObject]) -> JsonObject:
        """The ReplicaSet of the present template, with as many pods as the surge allows."""
        template = copy.deepcopy(deployment["spec"]["template"])
        hashed = template_hash(template)
        labels = {**((template.get("metadata") or {}).get("labels") or {}), _HASH: hashed}
        template["metadata"] = {**(template.get("metadata") or {}), "labels": labels}
        selector = copy.deepcopy(deployment["spec"]["selector"])
        selector["matchLabels"] = {**(selector.get("matchLabels") or {}), _HASH: hashed}
        wanted = deployment["spec"].get("replicas", 1)
        surge, _ = bounds(deployment)
        others = sum(_replicas(r) for r in owned)
        recreate = (deployment["spec"].get("strategy") or {}).get("type") == "Recreate"
        first = 0 if recreate and others else max(0, min(wanted, wanted + surge - others))
        body = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{_name(deployment)}-{hashed}",
                "namespace": deployment["metadata"]["namespace"],
                "labels": labels,
                "annotations": {
                    **_inherited(deployment),
                    REVISION: str(max((_revision(r) for r in owned), default=0) + 1),
                },
                "ownerReferences": [owner_reference(deployment, "apps/v1", "Deployment")],
            },
            "spec": {
                "replicas": first,
                "minReadySeconds": deployment["spec"].get("minReadySeconds", 0),
                "selector": selector,
                "template": template,
            },
        }
        try:
            made = await self._client.create(body)
        except AlreadyExists:
            name = f"{_name(deployment)}-{hashed}"
            key = ObjectKey("ReplicaSet", deployment["metadata"]["namespace"], name)
            made = await self._client.get(key)
        self._cache.observe(made)
        return made

    async def _settle_revision(
        self, deployment: JsonObject, new: JsonObject, owned: Sequence[JsonObject]
    ) -> None:
        """The present ReplicaSet carries the highest revision, the Deployment the same."""
        others = max((_revision(r) for r in owned if _name(r) != _name(new)), default=0)
        revision = _revision(new)
        if revision <= others:
            revision = others + 1
            change = {
                "metadata": {"annotations": {**_inherited(deployment), REVISION: f"{revision}"}}
            }
            self._cache.observe(await self._client.patch(_key(new, "ReplicaSet"), change))
        if _revision(deployment) != revision:
            change = {"metadata": {"annotations": {REVISION: str(revision)}}}
            self._cache.observe(await self._client.patch(_key(deployment, "Deployment"), change))

    async def _scale(self, namespace: str, changes: Mapping[str, int]) -> None:
        for name, count in changes.items():
            key = ObjectKey("ReplicaSet", namespace, name)
            self._cache.observe(await self._client.patch(key, {"spec": {"replicas": count}}))

    async def _forget(self, deployment: JsonObject, old: Sequence[JsonObject]) -> None:
        """Delete the oldest empty ReplicaSets beyond revisionHistoryLimit."""
        empty = [r for r in old if not _replicas(r) and not (r.get("status") or {}).get("replicas")]
        limit = deployment["spec"].get("revisionHistoryLimit", 10)
        for replica_set in sorted(empty, key=_revision)[: max(0, len(empty) - limit)]:
            self._cache.leaving(replica_set)
            await self._client.delete(_key(replica_set, "ReplicaSet"))

    async def _write_status(
        self,
        key: ObjectKey,
        deployment: JsonObject,
        new: JsonObject | None,
        owned: Sequence[JsonObject],
    ) -> None:
        fresh = [self._cache.get(_key(r, "ReplicaSet")) or r for r in owned]
        if new is not None:
            new = self._cache.get(_key(new, "ReplicaSet")) or new
        now = f"{self._clock.now():%Y-%m-%dT%H:%M:%SZ}"
        status = status_of(deployment, new, fresh, now=now)
        before = deployment.get("status") or {}
        if {k: before.get(k, 0) for k in status} != status:
            await patch_status(self._client, key, status)


def _inherited(deployment: JsonObject) -> dict[str, str]:
    """Annotations that ReplicaSets take over, such as the change cause of `rollout history`."""
    hidden = ("kubectl.kubernetes.io/last-applied-configuration", REVISION)
    annotations = deployment["metadata"].get("annotations") or {}
    return {k: v for k, v in annotations.items() if k not in hidden}


def _key(data: JsonObject, kind: str) -> ObjectKey:
    return ObjectKey(kind, data["metadata"]["namespace"], _name(data))

"""StatefulSets: pods with a number each, made and replaced one after the other.

Each pod has claims of its own, by the set's templates; they outlive it unless the set's retention
policy says otherwise.
"""

import copy
import datetime
from collections.abc import Mapping, Sequence

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import JsonObject
from meltemi.kube.errors import AlreadyExists
from meltemi.local.controllers import revisions
from meltemi.local.controllers.cache import is_leaving, owner_reference
from meltemi.local.controllers.pods import (
    condition,
    is_active,
    is_finished,
    is_ready,
    labels_of,
    pod_from_template,
    seconds_since,
)
from meltemi.local.controllers.revisions import REVISION_LABEL, revision_of
from meltemi.local.controllers.rollout import wanted_replicas
from meltemi.local.controllers.writes import Writes


class Plan(msgspec.Struct, frozen=True):
    """The next step: pods to make, by number, and pods to delete."""

    create: tuple[int, ...] = ()
    delete: tuple[JsonObject, ...] = ()


def numbers(stateful_set: JsonObject) -> range:
    """The numbers of the wanted pods."""
    first = (stateful_set["spec"].get("ordinals") or {}).get("start", 0)
    return range(first, first + wanted_replicas(stateful_set))


def plan(stateful_set: JsonObject, owned: Sequence[JsonObject], now: datetime.datetime) -> Plan:
    """Nothing is begun before the step before is available, unless pods are managed in parallel."""
    spec = stateful_set["spec"]
    pods = {_number(pod): pod for pod in owned}
    parallel = spec.get("podManagementPolicy") == "Parallel"
    wanted = numbers(stateful_set)
    finished = tuple(p for p in owned if is_finished(p) and not is_leaving(p))
    missing = tuple(number for number in wanted if number not in pods)
    extra = [pods[number] for number in sorted(pods, reverse=True) if number not in wanted]
    if parallel and (finished or missing or extra):
        return Plan(missing, (*finished, *(p for p in extra if is_active(p))))
    for number in wanted:
        pod = pods.get(number)
        if pod is None:
            return Plan(create=(number,))
        if is_finished(pod) and not is_leaving(pod):
            return Plan(delete=(pod,))
        if not is_active(pod) or not _is_available(stateful_set, pod, now):
            return Plan()
    if extra:
        return Plan() if any(map(is_leaving, extra)) else Plan(delete=(extra[0],))
    return Plan(delete=_outdated(stateful_set, pods))


def _outdated(stateful_set: JsonObject, pods: Mapping[int, JsonObject]) -> tuple[JsonObject, ...]:
    """The highest pod of an earlier version that the update strategy lets go."""
    strategy = stateful_set["spec"].get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return ()
    first = (strategy.get("rollingUpdate") or {}).get("partition", 0)
    revision = revision_of(stateful_set)
    numbers = [n for n, p in pods.items() if n >= first and _revision(p) != revision]
    return (pods[max(numbers)],) if numbers else ()


def _is_available(stateful_set: JsonObject, pod: JsonObject, now: datetime.datetime) -> bool:
    return is_ready(pod) and _seconds_short(stateful_set, pod, now) <= 0


def _seconds_short(stateful_set: JsonObject, pod: JsonObject, now: datetime.datetime) -> float:
    needed = stateful_set["spec"].get("minReadySeconds", 0)
    if not needed:
        return 0.0
    return float(needed) - seconds_since(condition(pod, "Ready").get("lastTransitionTime"), now)


def status_of(
    stateful_set: JsonObject, owned: Sequence[JsonObject], now: datetime.datetime
) -> JsonObject:
    """The status; `currentRevision` moves on only when the last pod is of the new version."""
    pods = [pod for pod in owned if is_active(pod)]
    revision = revision_of(stateful_set)
    current = (stateful_set.get("status") or {}).get("currentRevision") or revision
    ready = sum(map(is_ready, pods))
    updated = sum(_revision(pod) == revision for pod in pods)
    if updated == ready == wanted_replicas(stateful_set) == len(owned):
        current = revision
    return {
        "observedGeneration": stateful_set["metadata"].get("generation", 0),
        "replicas": len(owned),
        "readyReplicas": ready,
        "availableReplicas": sum(_is_available(stateful_set, pod, now) for pod in pods),
        "currentReplicas": sum(_revision(pod) == current for pod in pods),
        "updatedReplicas": updated,
        "currentRevision": current,
        "updateRevision": revision,
    }


class StatefulSets:
    """Reconciles by the plan."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._cache = writes.cache

    async def reconcile(self, key: ObjectKey) -> float | None:
        found = self._cache.get(key)
        if found is None:
            return None
        now = self._writes.clock.now()
        if not is_leaving(found):
            owned = self._cache.owned(found, "Pod")
            await revisions.keep(self._writes, found, [_revision(pod) for pod in owned])
            todo = plan(found, owned, now)
            await self._writes.delete_pods(found, list(todo.delete))
            for number in todo.create:
                await self._claim(found, number)
            await self._writes.create_pods(found, [_pod(found, number) for number in todo.create])
            await self._keep_claims(found)
        owned = self._cache.owned(found, "Pod")
        await self._writes.status(found, status_of(found, owned, now))
        short = [_seconds_short(found, pod, now) for pod in owned if is_ready(pod)]
        return min((seconds for seconds in short if seconds > 0), default=None)

    async def _claim(self, stateful_set: JsonObject, number: int) -> None:
        """Make the claims of a pod that are not there."""
        for body in claims(stateful_set, number):
            key = ObjectKey("PersistentVolumeClaim", *_place(body))
            if self._cache.get(key) is not None:
                continue
            try:
                await self._writes.create(body)
            except AlreadyExists:
                continue
            name = body["metadata"]["name"]
            self._writes.tell(stateful_set, "SuccessfulCreate", f"Created claim: {name}")

    async def _keep_claims(self, stateful_set: JsonObject) -> None:
        """Keep to the retention policy: claims of numbers that are no longer wanted, and others."""
        policy = stateful_set["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
        taken = {_number(pod) for pod in self._cache.owned(stateful_set, "Pod")}
        kept = {*numbers(stateful_set), *taken}
        namespace, names = stateful_set["metadata"]["namespace"], _claim_names(stateful_set)
        for claim in self._cache.list("PersistentVolumeClaim", namespace) if names else ():
            head, _, number = claim["metadata"]["name"].rpartition("-")
            if head not in names or not number.isdecimal() or is_leaving(claim):
                continue
            if int(number) not in kept and policy.get("whenScaled") == "Delete":
                await self._writes.delete(claim)
            else:
                await self._own(stateful_set, claim, goes=policy.get("whenDeleted") == "Delete")

    async def _own(self, stateful_set: JsonObject, claim: JsonObject, *, goes: bool) -> None:
        """Have a claim go with the set, or stay; the policy may change at any time."""
        uid = stateful_set["metadata"]["uid"]
        owners = claim["metadata"].get("ownerReferences") or []
        others = [owner for owner in owners if owner["uid"] != uid]
        if goes != (others != owners):
            own = [owner_reference(stateful_set, "apps/v1", "StatefulSet")] if goes else []
            change = {"metadata": {"ownerReferences": [*others, *own] or None}}
            await self._writes.patch(claim, change)


def _place(body: JsonObject) -> tuple[str, str]:
    return body["metadata"]["namespace"], body["metadata"]["name"]


def _claim_names(stateful_set: JsonObject) -> Sequence[str]:
    """The claims' names without the number."""
    templates = stateful_set["spec"].get("volumeClaimTemplates") or ()
    return [f"{t['metadata']['name']}-{stateful_set['metadata']['name']}" for t in templates]


def claims(stateful_set: JsonObject, number: int) -> Sequence[JsonObject]:
    """The claims of one pod, by the set's templates."""
    spec, found = stateful_set["spec"], []
    policy = spec.get("persistentVolumeClaimRetentionPolicy") or {}
    for template in spec.get("volumeClaimTemplates") or ():
        name = f"{template['metadata']['name']}-{stateful_set['metadata']['name']}-{number}"
        labels = (spec.get("selector") or {}).get("matchLabels") or {}
        meta: JsonObject = {
            "name": name,
            "namespace": stateful_set["metadata"]["namespace"],
            "labels": {**(template["metadata"].get("labels") or {}), **labels},
        }
        if policy.get("whenDeleted") == "Delete":
            meta["ownerReferences"] = [owner_reference(stateful_set, "apps/v1", "StatefulSet")]
        found.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": meta,
                "spec": copy.deepcopy(template.get("spec") or {}),
            }
        )
    return found


def _pod(stateful_set: JsonObject, number: int) -> JsonObject:
    name = f"{stateful_set['metadata']['name']}-{number}"
    labels = {
        "statefulset.kubernetes.io/pod-name": name,
        "apps.kubernetes.io/pod-index": str(number),
        REVISION_LABEL: revision_of(stateful_set),
    }
    spec = stateful_set["spec"]
    pod = pod_from_template(stateful_set, spec["template"], name=name, labels=labels)
    pod["spec"]["hostname"] = name
    pod["spec"]["subdomain"] = spec.get("serviceName", "")
    templates = [t["metadata"]["name"] for t in spec.get("volumeClaimTemplates") or ()]
    others = [v for v in pod["spec"].get("volumes") or () if v["name"] not in templates]
    own = [
        {
            "name": template,
            "persistentVolumeClaim": {
                "claimName": f"{template}-{stateful_set['metadata']['name']}-{number}"
            },
        }
        for template in templates
    ]
    if own:
        pod["spec"]["volumes"] = [*others, *own]
    return pod


def _revision(pod: JsonObject) -> str:
    return labels_of(pod).get(REVISION_LABEL, "")


def _number(pod: JsonObject) -> int:
    return int(pod["metadata"]["name"].rpartition("-")[2])

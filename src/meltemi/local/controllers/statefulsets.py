"""StatefulSets: pods with a number each, made and replaced one after the other.

Volume claims are not made: the local platform has no persistent volumes.
"""

from collections.abc import Mapping, Sequence

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import JsonObject
from meltemi.local.controllers.cache import is_leaving
from meltemi.local.controllers.pods import (
    is_active,
    is_finished,
    is_ready,
    labels_of,
    pod_from_template,
)
from meltemi.local.controllers.rollout import template_hash, wanted_replicas
from meltemi.local.controllers.writes import Writes

REVISION_LABEL = "controller-revision-hash"


class Plan(msgspec.Struct, frozen=True):
    """The next step: pods to make, by number, and pods to delete."""

    create: tuple[int, ...] = ()
    delete: tuple[JsonObject, ...] = ()


def revision_of(stateful_set: JsonObject) -> str:
    """The name of the present template's version."""
    hashed = template_hash(stateful_set["spec"]["template"])
    return f"{stateful_set['metadata']['name']}-{hashed}"


def plan(stateful_set: JsonObject, owned: Sequence[JsonObject]) -> Plan:
    """Nothing is begun before the step before is ready, unless the pods are managed in parallel."""
    spec = stateful_set["spec"]
    pods = {_number(pod): pod for pod in owned}
    parallel = spec.get("podManagementPolicy") == "Parallel"
    wanted = range(wanted_replicas(stateful_set))
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
        if not is_active(pod) or not is_ready(pod):
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


def status_of(stateful_set: JsonObject, owned: Sequence[JsonObject]) -> JsonObject:
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
        "availableReplicas": ready,
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

    async def reconcile(self, key: ObjectKey) -> None:
        found = self._cache.get(key)
        if found is None:
            return
        if not is_leaving(found):
            todo = plan(found, self._cache.owned(found, "Pod"))
            await self._writes.delete_pods(found, list(todo.delete))
            await self._writes.create_pods(found, [_pod(found, number) for number in todo.create])
        await self._writes.status(found, status_of(found, self._cache.owned(found, "Pod")))


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
    return pod


def _revision(pod: JsonObject) -> str:
    return labels_of(pod).get(REVISION_LABEL, "")


def _number(pod: JsonObject) -> int:
    return int(pod["metadata"]["name"].rpartition("-")[2])

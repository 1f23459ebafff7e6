"""StatefulSets, DaemonSets and Jobs."""

import asyncio
import copy

from meltemi.base.clock import Clock
from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client, JsonObject
from meltemi.kube.errors import AlreadyExists
from meltemi.kube.writer import patch_status
from meltemi.local.controllers.cache import Cache
from meltemi.local.controllers.deployments import template_hash
from meltemi.local.controllers.pods import is_active, is_ready, pod_from_template
from meltemi.local.controllers.replicasets import delete_pod

_REVISION = "controller-revision-hash"


class StatefulSets:
    """Pods with a number each, made and replaced one after the other."""

    def __init__(self, client: Client, cache: Cache) -> None:
        self._client = client
        self._cache = cache

    async def reconcile(self, key: ObjectKey) -> None:
        found = self._cache.get(key)
        if found is None:
            return
        spec = found["spec"]
        wanted = spec.get("replicas", 1)
        revision = f"{key.name}-{template_hash(spec['template'])}"
        pods = {p["metadata"]["name"]: p for p in self._cache.owned(found, "Pod")}
        if "deletionTimestamp" not in found["metadata"]:
            await self._step(found, pods, wanted, revision)
            pods = {p["metadata"]["name"]: p for p in self._cache.owned(found, "Pod")}
        ready = sum(1 for p in pods.values() if is_ready(p))
        updated = sum(1 for p in pods.values() if _revision(p) == revision)
        status = {
            "observedGeneration": found["metadata"].get("generation", 0),
            "replicas": len(pods),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "currentReplicas": updated,
            "updatedReplicas": updated,
            "currentRevision": revision,
            "updateRevision": revision,
        }
        await _write_status(self._client, key, found, status)

    async def _step(
        self, found: JsonObject, pods: dict[str, JsonObject], wanted: int, revision: str
    ) -> None:
        parallel = found["spec"].get("podManagementPolicy") == "Parallel"
        name = found["metadata"]["name"]
        for number in range(wanted):
            pod = pods.get(f"{name}-{number}")
            if pod is None:
                await self._create(found, number, revision)
            elif not is_active(pod) and "deletionTimestamp" not in pod["metadata"]:
                await delete_pod(self._client, self._cache, pod)
            elif is_ready(pod) and is_active(pod):
                continue
            if not parallel:
                return
        extra = [p for n, p in pods.items() if int(n.rpartition("-")[2]) >= wanted]
        for pod in sorted(extra, key=_number, reverse=True):
            if is_active(pod):
                await delete_pod(self._client, self._cache, pod)
            if not parallel:
                return
        for pod in sorted(pods.values(), key=_number, reverse=True):
            if _revision(pod) != revision and is_active(pod):
                await delete_pod(self._client, self._cache, pod)
                return

    async def _create(self, found: JsonObject, number: int, revision: str) -> None:
        name = f"{found['metadata']['name']}-{number}"
        pod = pod_from_template(
            found, "apps/v1", "StatefulSet", found["spec"]["template"], name=name
        )
        labels = pod["metadata"].setdefault("labels", {})
        labels["statefulset.kubernetes.io/pod-name"] = name
        labels["apps.kubernetes.io/pod-index"] = str(number)
        labels[_REVISION] = revision
        pod["spec"]["hostname"] = name
        pod["spec"]["subdomain"] = found["spec"].get("serviceName", "")
        await _create(self._client, self._cache, pod)


class DaemonSets:
    """One pod on the one node."""

    def __init__(self, client: Client, cache: Cache) -> None:
        self._client = client
        self._cache = cache

    async def reconcile(self, key: ObjectKey) -> None:
        found = self._cache.get(key)
        if found is None:
            return
        revision = template_hash(found["spec"]["template"])
        pods = [p for p in self._cache.owned(found, "Pod") if is_active(p)]
        if "deletionTimestamp" not in found["metadata"]:
            if not pods:
                template = copy.deepcopy(found["spec"]["template"])
                pod = pod_from_template(found, "apps/v1", "DaemonSet", template)
                pod["metadata"].setdefault("labels", {})[_REVISION] = revision
                await _create(self._client, self._cache, pod)
            for pod in pods[1:] if pods and _revision(pods[0]) == revision else pods:
                await delete_pod(self._client, self._cache, pod)
            pods = [p for p in self._cache.owned(found, "Pod") if is_active(p)]
        ready = sum(1 for p in pods if is_ready(p))
        status = {
            "observedGeneration": found["metadata"].get("generation", 0),
            "desiredNumberScheduled": 1,
            "currentNumberScheduled": len(pods),
            "updatedNumberScheduled": sum(1 for p in pods if _revision(p) == revision),
            "numberReady": ready,
            "numberAvailable": ready,
            "numberUnavailable": 1 - min(1, ready),
            "numberMisscheduled": 0,
        }
        await _write_status(self._client, key, found, status)


class Jobs:
    """Pods that run to their end, again when they fail."""

    def __init__(self, client: Client, cache: Cache, clock: Clock) -> None:
        self._client = client
        self._cache = cache
        self._clock = clock

    async def reconcile(self, key: ObjectKey) -> None:
        found = self._cache.get(key)
        if found is None or "deletionTimestamp" in found["metadata"]:
            return
        spec, before = found["spec"], found.get("status") or {}
        if any(c["type"] in ("Complete", "Failed") for c in before.get("conditions") or ()):
            return
        pods = self._cache.owned(found, "Pod")
        phases = [(p.get("status") or {}).get("phase") for p in pods]
        succeeded, failed = phases.count("Succeeded"), phases.count("Failed")
        active = [p for p in pods if is_active(p)]
        completions, parallel = spec.get("completions", 1), spec.get("parallelism", 1)
        now = f"{self._clock.now():%Y-%m-%dT%H:%M:%SZ}"
        status: JsonObject = {
            "active": len(active),
            "succeeded": succeeded,
            "failed": failed,
            "ready": sum(1 for p in active if is_ready(p)),
            "startTime": before.get("startTime") or now,
        }
        if succeeded >= completions:
            status["completionTime"] = now
            status["conditions"] = [_ended("Complete", "CompletionsReached", "", now)]
        elif failed > spec.get("backoffLimit", 6):
            why = "Job has reached the specified backoff limit"
            status["conditions"] = [_ended("Failed", "BackoffLimitExceeded", why, now)]
            for pod in active:
                await delete_pod(self._client, self._cache, pod)
        elif not spec.get("suspend"):
            missing = min(parallel, completions - succeeded) - len(active)
            async with asyncio.TaskGroup() as group:
                for _ in range(max(0, missing)):
                    pod = pod_from_template(found, "batch/v1", "Job", spec["template"])
                    labels = pod["metadata"].setdefault("labels", {})
                    labels |= {"job-name": key.name, "batch.kubernetes.io/job-name": key.name}
                    group.create_task(_create(self._client, self._cache, pod), name="job pod")
        await _write_status(self._client, key, found, status)


def _ended(kind: str, reason: str, message: str, now: str) -> JsonObject:
    return {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastProbeTime": now,
        "lastTransitionTime": now,
    }


async def _create(client: Client, cache: Cache, pod: JsonObject) -> None:
    try:
        cache.observe(await client.create(pod))
    except AlreadyExists:
        return


async def _write_status(
    client: Client, key: ObjectKey, found: JsonObject, status: JsonObject
) -> None:
    before = found.get("status") or {}
    if {k: before.get(k, 0) for k in status} != status:
        await patch_status(client, key, status)


def _revision(pod: JsonObject) -> str:
    return str((pod["metadata"].get("labels") or {}).get(_REVISION, ""))


def _number(pod: JsonObject) -> int:
    return int(pod["metadata"]["name"].rpartition("-")[2])

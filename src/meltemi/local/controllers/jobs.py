"""Jobs: pods that run to their end, again when they fail.

What to do is decided in `job_plan`, what their pods amount to in `job_pods`.
"""

from collections.abc import Iterable, Mapping

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import JsonObject
from meltemi.kube.errors import NotFound
from meltemi.local.controllers.cache import controller_of, is_leaving
from meltemi.local.controllers.job_plan import (
    End,
    Plan,
    end_of_job,
    has_ended,
    plan,
    seconds_to_live,
    status_of,
)
from meltemi.local.controllers.job_pods import (
    INDEX,
    TRACKING,
    Tally,
    is_indexed,
    is_tracked,
    next_counts,
    releasable,
    tally,
)
from meltemi.local.controllers.pods import condition, pod_from_template
from meltemi.local.controllers.queue import each
from meltemi.local.controllers.writes import Writes

_CONTROLLER = "kubernetes.io/job-controller"


class Jobs:
    """Reconciles by the plan."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._cache = writes.cache

    async def reconcile(self, key: ObjectKey) -> float | None:
        found = self._cache.get(key)
        await self._let_go(self._strays(key))
        if found is None or is_leaving(found):
            return None
        if found["spec"].get("managedBy", _CONTROLLER) != _CONTROLLER:
            return None
        now = self._writes.clock.now()
        if has_ended(found):
            left = seconds_to_live(found, now)
            if left is None or left > 0:
                return left
            await self._writes.delete(found)
            return None
        pods = tally(found, self._cache.owned(found, "Pod"))
        end = end_of_job(found, pods, now)
        todo = plan(found, pods, end, now)
        await self._act(found, pods, end, todo)
        pods = tally(found, self._cache.owned(found, "Pod"))
        end = end or end_of_job(found, pods, now)
        status = status_of(found, pods, end, now)
        await self._writes.status(found, status)
        self._tell(found, status, end)
        await self._let_go(releasable(pods, is_over=end is not None))
        return todo.again

    async def _act(self, job: JsonObject, pods: Tally, end: End | None, todo: Plan) -> None:
        if end is None:
            # What is deleted for other reasons than the Job's end is no failure of its.
            await self._let_go(todo.delete)
        await self._writes.delete_pods(job, list(todo.delete))
        bodies = [_pod(job) for _ in range(todo.create)]
        if is_indexed(job):
            last = pods.last_failures
            bodies = [
                _indexed_pod(job, index, next_counts(job, last.get(index)))
                for index in todo.indexes
            ]
        await self._writes.create_pods(job, bodies)

    def _strays(self, key: ObjectKey) -> list[JsonObject]:
        """Pods that nobody counts any more: their Job is gone or going, or let them go."""
        found = []
        for pod in self._cache.list("Pod", key.namespace):
            owner = controller_of(pod)
            if is_tracked(pod) and (owner is None or owner["name"] == key.name):
                job = self._cache.get(key) if owner is not None else None
                is_counted = job is not None and job["metadata"]["uid"] == (owner or {}).get("uid")
                if not is_counted or job is None or is_leaving(job) or has_ended(job):
                    found.append(pod)
        return found

    async def _let_go(self, pods: Iterable[JsonObject]) -> None:
        """Take the finalizer off pods."""

        async def one(pod: JsonObject) -> None:
            kept = [f for f in pod["metadata"]["finalizers"] if f != TRACKING]
            try:
                await self._writes.patch(pod, {"metadata": {"finalizers": kept or None}})
            except NotFound:
                return

        await each("release pod", [one(pod) for pod in pods if is_tracked(pod)])

    def _tell(self, job: JsonObject, status: JsonObject, end: End | None) -> None:
        kinds = {c["type"]: c["status"] for c in status.get("conditions") or ()}
        was = condition(job, "Suspended").get("status")
        if kinds.get("Suspended", was) != was:
            is_suspended = kinds["Suspended"] == "True"
            reason = "Suspended" if is_suspended else "Resumed"
            self._writes.tell(job, reason, f"Job {reason.lower()}")
        if end is None:
            return
        if end.kind == "Failed" and condition(job, "FailureTarget") == {}:
            self._writes.tell(job, end.reason, end.message, is_warning=True)
        if kinds.get("Complete") == "True":
            self._writes.tell(job, "Completed", "Job completed")


def _pod(job: JsonObject) -> JsonObject:
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    labels = {
        "job-name": name,
        "batch.kubernetes.io/job-name": name,
        "controller-uid": uid,
        "batch.kubernetes.io/controller-uid": uid,
    }
    pod = pod_from_template(job, job["spec"]["template"], labels=labels)
    pod["metadata"]["finalizers"] = [*pod["metadata"].get("finalizers", ()), TRACKING]
    return pod


def _indexed_pod(job: JsonObject, index: int, counts: Mapping[str, str]) -> JsonObject:
    """A pod that knows its number: by annotation, label, host name and variable."""
    pod = _pod(job)
    meta, spec, name = pod["metadata"], pod["spec"], job["metadata"]["name"]
    meta["annotations"] = {**meta.get("annotations", {}), INDEX: str(index), **counts}
    meta["labels"] = {**meta["labels"], INDEX: str(index)}
    meta["generateName"] = f"{name}-{index}-"
    spec.setdefault("hostname", f"{name}-{index}")
    source = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}
    for container in (*spec["containers"], *(spec.get("initContainers") or ())):
        variable = {"name": "JOB_COMPLETION_INDEX", "valueFrom": source}
        container["env"] = [*(container.get("env") or ()), variable]
    return pod

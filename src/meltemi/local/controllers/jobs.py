"""Jobs: pods that run to their end, again when they fail."""

import datetime
from collections.abc import Sequence

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import JsonObject
from meltemi.local.controllers.cache import is_leaving
from meltemi.local.controllers.pods import (
    condition,
    is_active,
    is_ready,
    phase,
    pod_from_template,
    seconds_since,
)
from meltemi.local.controllers.writes import Writes

INDEX = "batch.kubernetes.io/job-completion-index"
_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 600.0
"""Seconds before a failed pod is replaced: doubled with each failure, as in Kubernetes."""


class End(msgspec.Struct, frozen=True):
    """How a Job ended."""

    kind: str
    reason: str
    message: str = ""


class Plan(msgspec.Struct, frozen=True):
    create: int = 0
    indexes: tuple[int, ...] = ()
    """The numbers of the pods to create, where each has one."""
    delete: tuple[JsonObject, ...] = ()
    end: End | None = None
    again: float | None = None
    """Seconds after which to look again."""


def plan(job: JsonObject, owned: Sequence[JsonObject], now: datetime.datetime) -> Plan:
    spec = job["spec"]
    active = tuple(pod for pod in owned if is_active(pod))
    succeeded, failed = _succeeded(job, owned), _ended(owned, "Failed")
    completions, parallel = spec.get("completions"), spec.get("parallelism", 1)
    wanted = completions if completions is not None else max(1, len(active) + succeeded)
    if succeeded and succeeded >= wanted:
        reason = "CompletionsReached"
        return Plan(end=End("Complete", reason, "Reached expected number of succeeded pods"))
    limit = spec.get("backoffLimit", 6)
    restarts = sum(map(_restarts, active))
    if failed > limit or (restarts >= max(limit, 1) and _restarts_in_place(spec)):
        message = "Job has reached the specified backoff limit"
        return Plan(delete=active, end=End("Failed", "BackoffLimitExceeded", message))
    left = _deadline(job, now)
    if left is not None and left <= 0:
        message = "Job was active longer than specified deadline"
        return Plan(delete=active, end=End("Failed", "DeadlineExceeded", message))
    if spec.get("suspend"):
        return Plan(delete=active)
    if completions is None:
        # A queue of work: once one pod has found nothing left to do, no more are made.
        room = 0 if succeeded else parallel - len(active)
    else:
        room = min(parallel, completions - succeeded) - len(active)
    pause = _pause(owned, failed, now)
    if room > 0 and pause > 0:
        return Plan(again=pause if left is None else min(pause, left))
    room = max(0, room)
    return Plan(create=room, indexes=_free_indexes(job, owned)[:room], again=left)


def is_indexed(job: JsonObject) -> bool:
    return bool(job["spec"].get("completionMode") == "Indexed")


def index_of(pod: JsonObject) -> int:
    """The number of a pod of an indexed Job; -1 without one."""
    return int((pod["metadata"].get("annotations") or {}).get(INDEX, "-1"))


def _succeeded(job: JsonObject, owned: Sequence[JsonObject]) -> int:
    if is_indexed(job):
        return len(completed_indexes(job, owned))
    return _ended(owned, "Succeeded")


def completed_indexes(job: JsonObject, owned: Sequence[JsonObject]) -> Sequence[int]:
    wanted = range(job["spec"].get("completions") or 0)
    done = {index_of(pod) for pod in owned if phase(pod) == "Succeeded"}
    return [index for index in wanted if index in done]


def _free_indexes(job: JsonObject, owned: Sequence[JsonObject]) -> tuple[int, ...]:
    """The numbers nobody works on, and nobody has finished."""
    if not is_indexed(job):
        return ()
    busy = {index_of(pod) for pod in owned if phase(pod) != "Failed"}
    return tuple(i for i in range(job["spec"].get("completions") or 0) if i not in busy)


def spans(indexes: Sequence[int]) -> str:
    """Numbers as the API writes them: 0-2,5."""
    found: list[list[int]] = []
    for index in indexes:
        if found and index == found[-1][-1] + 1:
            found[-1][1:] = [index]
        else:
            found.append([index])
    return ",".join("-".join(map(str, span)) for span in found)


def _restarts_in_place(spec: JsonObject) -> bool:
    return bool(spec["template"]["spec"].get("restartPolicy") == "OnFailure")


def _restarts(pod: JsonObject) -> int:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return sum(int(status.get("restartCount", 0)) for status in statuses)


def _ended(owned: Sequence[JsonObject], how: str) -> int:
    return sum(phase(pod) == how for pod in owned)


def _deadline(job: JsonObject, now: datetime.datetime) -> float | None:
    seconds = job["spec"].get("activeDeadlineSeconds")
    started = (job.get("status") or {}).get("startTime")
    return None if seconds is None else float(seconds) - seconds_since(started, now)


def _pause(owned: Sequence[JsonObject], failed: int, now: datetime.datetime) -> float:
    """Seconds until the last failure is old enough for another try."""
    if not failed:
        return 0.0
    pause = min(_FIRST_PAUSE * 2 ** min(failed - 1, 10), _LONGEST_PAUSE)
    ends = [_end_of(pod) for pod in owned if phase(pod) == "Failed"]
    return float(pause - min(seconds_since(end, now) if end else pause for end in ends))


def _end_of(pod: JsonObject) -> str:
    """When its last container ended, or when it stopped being ready; empty when not told."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    ends = [(s.get("state") or {}).get("terminated", {}).get("finishedAt", "") for s in statuses]
    return max(ends, default="") or str(condition(pod, "Ready").get("lastTransitionTime", ""))


def status_of(
    job: JsonObject, owned: Sequence[JsonObject], end: End | None, now: datetime.datetime
) -> JsonObject:
    stamp = f"{now:%Y-%m-%dT%H:%M:%SZ}"
    active = [pod for pod in owned if is_active(pod)]
    status: JsonObject = {
        "active": len(active),
        "ready": sum(map(is_ready, active)),
        "succeeded": _succeeded(job, owned),
        "failed": _ended(owned, "Failed"),
    }
    if is_indexed(job):
        status["completedIndexes"] = spans(completed_indexes(job, owned))
    before = job.get("status") or {}
    is_suspended = bool(job["spec"].get("suspend"))
    if not is_suspended:
        status["startTime"] = before.get("startTime") or stamp
    conditions = _suspension(job, is_suspended, stamp)
    if end is not None:
        conditions.append(_condition(end.kind, "True", end.reason, end.message, stamp))
        if end.kind == "Complete":
            status["completionTime"] = stamp
    if conditions:
        status["conditions"] = conditions
    return status


def _suspension(job: JsonObject, is_suspended: bool, stamp: str) -> list[JsonObject]:
    """The condition Suspended, once the Job was suspended for the first time."""
    before = condition(job, "Suspended")
    value = "True" if is_suspended else "False"
    if before.get("status") == value:
        return [before]
    if not is_suspended and not before:
        return []
    reason, message = ("JobSuspended", "Job suspended") if is_suspended else (
        "JobResumed", "Job resumed")  # fmt: skip
    return [_condition("Suspended", value, reason, message, stamp)]


def _condition(kind: str, status: str, reason: str, message: str, stamp: str) -> JsonObject:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastProbeTime": stamp,
        "lastTransitionTime": stamp,
    }


def seconds_to_live(job: JsonObject, now: datetime.datetime) -> float | None:
    """Until an ended Job is removed; None when it is not, or has not ended."""
    ended = condition(job, "Complete") or condition(job, "Failed")
    seconds = job["spec"].get("ttlSecondsAfterFinished")
    if not ended or seconds is None:
        return None
    return float(seconds) - seconds_since(ended["lastTransitionTime"], now)


class Jobs:
    """Reconciles by the plan."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._cache = writes.cache

    async def reconcile(self, key: ObjectKey) -> float | None:
        found = self._cache.get(key)
        if found is None or is_leaving(found):
            return None
        now = self._writes.clock.now()
        if condition(found, "Complete") or condition(found, "Failed"):
            left = seconds_to_live(found, now)
            if left is None or left > 0:
                return left
            await self._writes.delete(found)
            return None
        todo = plan(found, self._cache.owned(found, "Pod"), now)
        await self._writes.delete_pods(found, list(todo.delete))
        pods = [_pod(found) for _ in range(todo.create)]
        if is_indexed(found):
            pods = [_indexed_pod(found, index) for index in todo.indexes]
        await self._writes.create_pods(found, pods)
        owned = self._cache.owned(found, "Pod")
        await self._writes.status(found, status_of(found, owned, todo.end, now))
        if todo.end is not None:
            is_warning = todo.end.kind == "Failed"
            reason = "Completed" if todo.end.kind == "Complete" else todo.end.reason
            message = todo.end.message or "Job completed"
            self._writes.tell(found, reason, message, is_warning=is_warning)
        return todo.again


def _pod(job: JsonObject) -> JsonObject:
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    labels = {
        "job-name": name,
        "batch.kubernetes.io/job-name": name,
        "controller-uid": uid,
        "batch.kubernetes.io/controller-uid": uid,
    }
    return pod_from_template(job, job["spec"]["template"], labels=labels)


def _indexed_pod(job: JsonObject, index: int) -> JsonObject:
    """A pod that knows its number: by annotation, label, host name and variable."""
    pod = _pod(job)
    meta, spec, name = pod["metadata"], pod["spec"], job["metadata"]["name"]
    meta["annotations"] = {**meta.get("annotations", {}), INDEX: str(index)}
    meta["labels"] = {**meta["labels"], INDEX: str(index)}
    meta["generateName"] = f"{name}-{index}-"
    spec.setdefault("hostname", f"{name}-{index}")
    source = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}
    for container in (*spec["containers"], *(spec.get("initContainers") or ())):
        variable = {"name": "JOB_COMPLETION_INDEX", "valueFrom": source}
        container["env"] = [*(container.get("env") or ()), variable]
    return pod

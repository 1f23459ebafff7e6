"""The decisions of a Job: which pods to make and delete, whether it has ended, its status. Pure.

https://kubernetes.io/docs/concepts/workloads/controllers/job/
"""

import datetime
import itertools
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from meltemi.kube.client import JsonObject
from meltemi.local.controllers.job_pods import (
    Tally,
    end_of,
    failures_of,
    index_of,
    is_indexed,
    limits_each_index,
)
from meltemi.local.controllers.job_policy import (
    met_success_rule,
    replaces_only_failed,
    spans,
    verdict_of,
)
from meltemi.local.controllers.pods import condition, is_ready, phase, seconds_since

_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 600.0
"""Seconds before a failed pod is replaced: doubled with each failure, as in Kubernetes."""
_NO_LIMIT = 2**31 - 1
_INTERIM = {"Complete": "SuccessCriteriaMet", "Failed": "FailureTarget"}
"""What stands in the status from the decision until the last pod has ended."""


class End(msgspec.Struct, frozen=True):
    """How a Job ends."""

    kind: str
    """Complete or Failed."""
    reason: str
    message: str = ""


class Plan(msgspec.Struct, frozen=True):
    create: int = 0
    indexes: tuple[int, ...] = ()
    """The numbers of the pods to create, where each has one."""
    delete: tuple[JsonObject, ...] = ()
    again: float | None = None
    """Seconds after which to look again."""


def end_of_job(job: JsonObject, found: Tally, now: datetime.datetime) -> End | None:
    """Whether its end is decided, be it now or before."""
    for kind, interim in _INTERIM.items():
        decided = condition(job, interim)
        if decided.get("status") == "True":
            return End(kind, decided.get("reason", ""), decided.get("message", ""))
    return _failure(job, found, now) or _success(job, found)


def _failure(job: JsonObject, found: Tally, now: datetime.datetime) -> End | None:
    spec = job["spec"]
    for pod in found.judged:
        verdict = verdict_of(job, pod)
        if verdict.action == "FailJob":
            return End("Failed", "PodFailurePolicy", verdict.why)
    limit = spec.get("backoffLimit", _NO_LIMIT if limits_each_index(job) else 6)
    restarts = sum(map(_restarts, found.active)) if _restarts_in_place(spec) else 0
    if found.failed > limit or (restarts and restarts >= max(limit, 1)):
        message = f"spec.backoffLimit of {limit} is exceeded: {found.failed or restarts} failures"
        return End("Failed", "BackoffLimitExceeded", message)
    left = _deadline(job, now)
    if left is not None and left <= 0:
        message = f"spec.activeDeadlineSeconds of {spec['activeDeadlineSeconds']} has passed"
        return End("Failed", "DeadlineExceeded", message)
    most, lost = spec.get("maxFailedIndexes"), len(found.lost)
    if most is not None and lost > most:
        message = f"spec.maxFailedIndexes of {most} is exceeded: {spans(found.lost)} failed"
        return End("Failed", "MaxFailedIndexesExceeded", message)
    if lost and lost + len(found.done) >= spec.get("completions", 0):
        return End("Failed", "FailedIndexes", f"indexes {spans(found.lost)} have failed")
    return None


def _success(job: JsonObject, found: Tally) -> End | None:
    rule = met_success_rule(job, found.done, len(found.done)) if is_indexed(job) else None
    if rule is not None:
        return End("Complete", "SuccessPolicy", f"spec.successPolicy.rules[{rule}] is met")
    wanted = job["spec"].get("completions")
    enough = found.succeeded > 0 if wanted is None else found.succeeded >= wanted
    if enough and not found.active:
        message = "Reached expected number of succeeded pods"
        return End("Complete", "CompletionsReached", message)
    return None


def plan(job: JsonObject, found: Tally, end: End | None, now: datetime.datetime) -> Plan:
    spec, active = job["spec"], len(found.active)
    if end is not None or spec.get("suspend"):
        return Plan(delete=found.active)
    left = _deadline(job, now)
    wanted = _wanted(job, found)
    delete = _superfluous(job, found.active, active - wanted)
    if delete:
        return Plan(delete=tuple(delete), again=left)
    room = wanted - active - (len(found.terminating) if replaces_only_failed(job) else 0)
    if room <= 0:
        return Plan(again=left)
    if limits_each_index(job):
        return _plan_each(found, _free_indexes(job, found), room, left, now)
    pause = _pause(_in_a_row(found), found.judged, now)
    if pause > 0:
        return Plan(again=_sooner(pause, left))
    return Plan(create=room, indexes=_first(_free_indexes(job, found), room), again=left)


def _wanted(job: JsonObject, found: Tally) -> int:
    """How many pods should be at work."""
    completions, parallel = job["spec"].get("completions"), job["spec"].get("parallelism", 1)
    if completions is None:
        # A queue of work: once one pod has found nothing left to do, no more are made.
        return len(found.active) if found.succeeded else int(parallel)
    left = int(completions) - found.succeeded - len(found.lost)
    return max(0, min(int(parallel), left))


def _superfluous(
    job: JsonObject, active: Sequence[JsonObject], excess: int
) -> Sequence[JsonObject]:
    """Pods with an index that is taken or out of range, then as many as there are too many.

    Those that have not got far go first.
    """
    ranked = sorted(active, key=lambda p: (is_ready(p), phase(p) == "Running"))
    if not is_indexed(job):
        return ranked[: max(0, excess)]
    completions, taken, wrong = job["spec"].get("completions") or 0, set[int](), []
    for pod in reversed(ranked):
        index = index_of(pod)
        if index in taken or not 0 <= index < completions:
            wrong.append(pod)
        taken.add(index)
    rest = sorted((p for p in ranked if p not in wrong), key=index_of, reverse=True)
    return [*wrong, *rest[: max(0, excess - len(wrong))]]


def _free_indexes(job: JsonObject, found: Tally) -> Iterator[int]:
    """The numbers nobody works on, and that have not come to their end."""
    if not is_indexed(job):
        return
    taken = {*found.done, *found.lost, *map(index_of, found.active)}
    if replaces_only_failed(job):
        taken.update(map(index_of, found.terminating))
    yield from (i for i in range(job["spec"].get("completions") or 0) if i not in taken)


def _plan_each(
    found: Tally, free: Iterable[int], room: int, left: float | None, now: datetime.datetime
) -> Plan:
    """Each index waits for itself after a failure."""
    ready: list[int] = []
    pauses: list[float] = []
    for index in free:
        if len(ready) == room:
            break
        last = found.last_failures.get(index)
        pause = _pause(1 + failures_of(last), [last], now) if last is not None else 0.0
        if pause > 0:
            pauses.append(pause)
        else:
            ready.append(index)
    again = _sooner(min(pauses), left) if pauses else left
    return Plan(create=len(ready), indexes=tuple(ready), again=again)


def _first(indexes: Iterable[int], count: int) -> tuple[int, ...]:
    return tuple(itertools.islice(indexes, count))


def _sooner(pause: float, left: float | None) -> float:
    return pause if left is None else min(pause, left)


def _in_a_row(found: Tally) -> int:
    """Failures since the last success."""
    if found.last_success is None:
        return found.failed
    ends = [end_of(pod) for pod in found.judged]
    return sum(end is None or end > found.last_success for end in ends)


def _pause(failures: int, failed: Sequence[JsonObject], now: datetime.datetime) -> float:
    """Seconds until the last failure is old enough for another try."""
    if not failures:
        return 0.0
    pause = min(_FIRST_PAUSE * 2 ** min(failures - 1, 10), _LONGEST_PAUSE)
    ends = [end for end in map(end_of, failed) if end is not None]
    since = [(now - end).total_seconds() for end in ends]
    return float(pause - min(since, default=pause))


def _restarts_in_place(spec: JsonObject) -> bool:
    return bool(spec["template"]["spec"].get("restartPolicy") == "OnFailure")


def _restarts(pod: JsonObject) -> int:
    status = pod.get("status") or {}
    fields = ("initContainerStatuses", "containerStatuses")
    return sum(int(s.get("restartCount", 0)) for f in fields for s in status.get(f) or ())


def _deadline(job: JsonObject, now: datetime.datetime) -> float | None:
    """Seconds left; a Job that is suspended has all the time there is."""
    seconds = job["spec"].get("activeDeadlineSeconds")
    started = (job.get("status") or {}).get("startTime")
    if seconds is None or not started or job["spec"].get("suspend"):
        return None
    return float(seconds) - seconds_since(started, now)


def status_of(job: JsonObject, found: Tally, end: End | None, now: datetime.datetime) -> JsonObject:
    """The status; it says Complete or Failed once nothing of the Job is left at work."""
    stamp = f"{now:%Y-%m-%dT%H:%M:%SZ}"
    status: JsonObject = {
        "active": len(found.active),
        "ready": sum(map(is_ready, found.active)),
        "terminating": len(found.terminating),
        "succeeded": found.counted[0],
        "failed": found.counted[1],
        "uncountedTerminatedPods": _uncounted(found),
    }
    if is_indexed(job):
        status["completedIndexes"] = spans(found.done)
    if limits_each_index(job):
        status["failedIndexes"] = spans(found.lost)
    is_suspended, was = bool(job["spec"].get("suspend")), condition(job, "Suspended")
    suspension = was if end is not None else _suspension(was, is_suspended, stamp)
    has_started = (job.get("status") or {}).get("startTime")
    if not is_suspended and (suspension != was or not has_started):
        status["startTime"] = stamp
    conditions = [suspension] if suspension else []
    if end is not None:
        conditions.append(_kept(job, _INTERIM[end.kind], end, stamp))
        if not (found.active or found.terminating or any(found.uncounted)):
            conditions.append(_kept(job, end.kind, end, stamp))
            if end.kind == "Complete":
                status["completionTime"] = stamp
    if conditions:
        status["conditions"] = conditions
    return status


def _uncounted(found: Tally) -> JsonObject | None:
    if not any(found.uncounted):
        return None
    return {"succeeded": list(found.uncounted[0]), "failed": list(found.uncounted[1])}


def _suspension(before: JsonObject, is_suspended: bool, stamp: str) -> JsonObject:
    """The condition Suspended; empty for a Job that never was."""
    value = "True" if is_suspended else "False"
    if before.get("status") == value or (not is_suspended and not before):
        return before
    reason, message = ("JobSuspended", "Job suspended") if is_suspended else (
        "JobResumed", "Job resumed")  # fmt: skip
    return _condition("Suspended", value, reason, message, stamp)


def _kept(job: JsonObject, kind: str, end: End, stamp: str) -> JsonObject:
    return condition(job, kind) or _condition(kind, "True", end.reason, end.message, stamp)


def _condition(kind: str, status: str, reason: str, message: str, stamp: str) -> JsonObject:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastProbeTime": stamp,
        "lastTransitionTime": stamp,
    }


def has_ended(job: JsonObject) -> JsonObject:
    """The condition that says so; empty for a Job that goes on."""
    return condition(job, "Complete") or condition(job, "Failed")


def seconds_to_live(job: JsonObject, now: datetime.datetime) -> float | None:
    """Until an ended Job is removed; None when it is not, or has not ended."""
    ended = has_ended(job)
    seconds = job["spec"].get("ttlSecondsAfterFinished")
    if not ended or seconds is None:
        return None
    return float(seconds) - seconds_since(ended["lastTransitionTime"], now)

"""What the pods of a Job amount to: pure.

A pod's end is counted once, whatever becomes of the pod. It carries a finalizer until then: first
its uid is written into the Job's status, then the finalizer goes, then the uid becomes a number.
https://kubernetes.io/docs/concepts/workloads/controllers/job/#job-tracking-with-finalizers
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from meltemi.kube.client import JsonObject
from meltemi.local.controllers.cache import is_leaving
from meltemi.local.controllers.job_policy import (
    has_failed,
    numbers,
    verdict_of,
)
from meltemi.local.controllers.pods import condition, is_active, is_finished, phase

TRACKING = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
FAILURES = "batch.kubernetes.io/job-index-failure-count"
IGNORED = "batch.kubernetes.io/job-index-ignored-failure-count"


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """The sum of a Job's pods, present and past."""

    active: tuple[JsonObject, ...] = ()
    terminating: tuple[JsonObject, ...] = ()
    """On their way out, and not ended yet."""
    succeeded: int = 0
    failed: int = 0
    counted: tuple[int, int] = (0, 0)
    """(succeeded, failed) that the status has as numbers."""
    uncounted: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """(succeeded, failed) that the status has as uids."""
    done: frozenset[int] = frozenset()
    """Indexes that have succeeded."""
    lost: frozenset[int] = frozenset()
    """Indexes that have failed for good."""
    judged: tuple[JsonObject, ...] = ()
    """Pods that have failed and are still there, oldest first."""
    last_success: datetime.datetime | None = None
    last_failures: Mapping[int, JsonObject] = {}
    """By index, the last pod that failed where each index has its own limit."""
    countable: tuple[JsonObject, ...] = ()
    """Pods that have ended and still carry the finalizer."""


def is_indexed(job: JsonObject) -> bool:
    return bool(job["spec"].get("completionMode") == "Indexed")


def limits_each_index(job: JsonObject) -> bool:
    return job["spec"].get("backoffLimitPerIndex") is not None


def index_of(pod: JsonObject) -> int:
    """The number of a pod of an indexed Job; -1 without one."""
    return _number(pod, INDEX, -1)


def failures_of(pod: JsonObject) -> int:
    """How often its index had failed before it, as far as it counts."""
    return _number(pod, FAILURES, 0)


def _number(pod: JsonObject, annotation: str, default: int) -> int:
    text = (pod["metadata"].get("annotations") or {}).get(annotation, "")
    return int(text) if text.isdecimal() else default


def is_tracked(pod: JsonObject) -> bool:
    return TRACKING in (pod["metadata"].get("finalizers") or ())


def tally(job: JsonObject, owned: Sequence[JsonObject]) -> Tally:
    tracked = {str(pod["metadata"]["uid"]): pod for pod in owned if is_tracked(pod)}
    well = [pod for pod in owned if phase(pod) == "Succeeded"]
    badly = [pod for pod in owned if has_failed(job, pod)]
    counted, uncounted = _counts(job, tracked)
    done = _done(job, well)
    if is_indexed(job):
        counted = (len(done), counted[1])
    ended = [pod for pod in (*well, *badly) if is_tracked(pod)]
    return Tally(
        active=tuple(pod for pod in owned if is_active(pod)),
        terminating=tuple(p for p in owned if is_leaving(p) and not is_finished(p)),
        succeeded=counted[0] + len(uncounted[0]),
        failed=counted[1] + len(uncounted[1]),
        counted=counted,
        uncounted=uncounted,
        done=done,
        lost=_lost(job, badly, done),
        judged=tuple(badly),
        last_success=max((end for end in map(end_of, well) if end is not None), default=None),
        last_failures=_last_failures(job, badly),
        countable=tuple(ended),
    )


def _counts(
    job: JsonObject, tracked: Mapping[str, JsonObject]
) -> tuple[tuple[int, int], tuple[tuple[str, ...], tuple[str, ...]]]:
    """What the status has as numbers, and as uids: those of pods that nobody tracks any more
    have become numbers."""
    status = job.get("status") or {}
    noted = status.get("uncountedTerminatedPods") or {}
    well, badly = noted.get("succeeded") or (), noted.get("failed") or ()
    new_well, new_badly = [], []
    for uid, pod in tracked.items():
        if uid in well or uid in badly:
            continue
        if phase(pod) == "Succeeded" and not is_indexed(job):
            new_well.append(uid)
        elif has_failed(job, pod) and verdict_of(job, pod).action != "Ignore":
            new_badly.append(uid)
    sums = (
        int(status.get("succeeded", 0)) + sum(uid not in tracked for uid in well),
        int(status.get("failed", 0)) + sum(uid not in tracked for uid in badly),
    )
    return sums, (
        (*(uid for uid in well if uid in tracked), *new_well),
        (*(uid for uid in badly if uid in tracked), *new_badly),
    )


def _done(job: JsonObject, succeeded: Iterable[JsonObject]) -> frozenset[int]:
    if not is_indexed(job):
        return frozenset()
    noted = numbers((job.get("status") or {}).get("completedIndexes") or "")
    wanted = job["spec"].get("completions") or 0
    found = {*noted, *(index_of(pod) for pod in succeeded)}
    return frozenset(index for index in found if 0 <= index < wanted)


def _lost(job: JsonObject, failed: Sequence[JsonObject], done: frozenset[int]) -> frozenset[int]:
    """Indexes that failed more often than each may, or that a rule has given up."""
    if not limits_each_index(job):
        return frozenset()
    found = set(numbers((job.get("status") or {}).get("failedIndexes") or ""))
    for pod in failed:
        action = verdict_of(job, pod).action
        is_last = failures_of(pod) >= job["spec"]["backoffLimitPerIndex"]
        if action == "FailIndex" or (action != "Ignore" and is_last):
            found.add(index_of(pod))
    wanted = job["spec"].get("completions") or 0
    return frozenset(i for i in found if 0 <= i < wanted and i not in done)


def _last_failures(job: JsonObject, failed: Sequence[JsonObject]) -> Mapping[int, JsonObject]:
    if not limits_each_index(job):
        return {}
    return {index_of(pod): pod for pod in sorted(failed, key=tries_before)}


def tries_before(pod: JsonObject) -> int:
    """How many pods its index had before it."""
    return failures_of(pod) + _number(pod, IGNORED, 0)


def next_counts(job: JsonObject, failed: JsonObject | None) -> Mapping[str, str]:
    """The annotations by which the pod that comes after one that failed knows of it."""
    if not limits_each_index(job):
        return {}
    counts = {FAILURES: 0, IGNORED: 0}
    if failed is not None:
        counts = {name: _number(failed, name, 0) for name in counts}
        is_ignored = verdict_of(job, failed).action == "Ignore"
        counts[IGNORED if is_ignored else FAILURES] += 1
    if not counts[IGNORED]:
        del counts[IGNORED]
    return {name: str(count) for name, count in counts.items()}


def releasable(found: Tally, *, is_over: bool) -> list[JsonObject]:
    """Pods whose finalizer may go once the status tells of their end.

    The last failure of an index that goes on is kept until another pod has taken its place.
    """
    if is_over:
        return list(found.countable)
    tries = {index_of(pod): tries_before(pod) for pod in (*found.active, *found.terminating)}
    kept = {
        str(pod["metadata"]["uid"])
        for index, pod in found.last_failures.items()
        if index not in found.done | found.lost and tries.get(index, -1) <= tries_before(pod)
    }
    return [pod for pod in found.countable if pod["metadata"]["uid"] not in kept]


def end_of(pod: JsonObject) -> datetime.datetime | None:
    """When its last container ended, or it stopped being ready, or was deleted."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    ends = [(s.get("state") or {}).get("terminated", {}).get("finishedAt") for s in statuses]
    stamp = max((end for end in ends if end), default="")
    stamp = stamp or condition(pod, "Ready").get("lastTransitionTime", "")
    if stamp:
        return datetime.datetime.fromisoformat(stamp)
    if not is_leaving(pod):
        return None
    grace = pod["metadata"].get("deletionGracePeriodSeconds", 0)
    deleted = datetime.datetime.fromisoformat(pod["metadata"]["deletionTimestamp"])
    return deleted - datetime.timedelta(seconds=grace)

"""CronJobs: a Job at each scheduled time, as far as the concurrency policy lets."""

import copy
import datetime
import zoneinfo
from collections.abc import Sequence

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import JsonObject
from meltemi.kube.errors import AlreadyExists
from meltemi.local.controllers.cache import is_leaving, owner_reference
from meltemi.local.controllers.pods import condition
from meltemi.local.controllers.schedule import BadSchedule, Schedule, parse
from meltemi.local.controllers.writes import Writes

_SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"
_MOST_MISSED = 100


class Plan(msgspec.Struct, frozen=True):
    """What to do for one CronJob now."""

    start: datetime.datetime | None = None
    """The scheduled time of the Job to make."""
    delete: tuple[JsonObject, ...] = ()
    reason: str = ""
    """Why a time was passed over, for an event."""
    message: str = ""


def plan(
    cron: JsonObject, schedule: Schedule, jobs: Sequence[JsonObject], now: datetime.datetime
) -> Plan:
    """`now` is in the schedule's time zone; `jobs` are those the CronJob owns, oldest first."""
    spec = cron["spec"]
    old = _beyond_history(spec, jobs)
    due = _due(cron, schedule, now)
    if due is None or spec.get("suspend"):
        return Plan(delete=old)
    deadline = spec.get("startingDeadlineSeconds")
    if deadline is not None and (now - due).total_seconds() > deadline:
        message = f"Missed scheduled time to start a job: {due:%Y-%m-%dT%H:%M:%S%z}"
        return Plan(delete=old, reason="MissSchedule", message=message)
    active = tuple(job for job in jobs if not _ended(job))
    policy = spec.get("concurrencyPolicy", "Allow")
    if active and policy == "Forbid":
        message = "Not starting job because prior execution is running and policy is Forbid"
        return Plan(delete=old, reason="JobAlreadyActive", message=message)
    return Plan(start=due, delete=(*old, *active) if policy == "Replace" else old)


def _ended(job: JsonObject) -> str:
    """Complete or Failed; empty while it runs."""
    for kind in ("Complete", "Failed"):
        if condition(job, kind).get("status") == "True":
            return kind
    return ""


def _beyond_history(spec: JsonObject, jobs: Sequence[JsonObject]) -> tuple[JsonObject, ...]:
    found: list[JsonObject] = []
    for kind, limit in (
        ("Complete", spec.get("successfulJobsHistoryLimit", 3)),
        ("Failed", spec.get("failedJobsHistoryLimit", 1)),
    ):
        ended = [job for job in jobs if _ended(job) == kind and not is_leaving(job)]
        found += ended[: max(0, len(ended) - limit)]
    return tuple(found)


def _due(cron: JsonObject, schedule: Schedule, now: datetime.datetime) -> datetime.datetime | None:
    """The last scheduled time that has passed and was not served."""
    status = cron.get("status") or {}
    stamp = status.get("lastScheduleTime") or cron["metadata"]["creationTimestamp"]
    since = datetime.datetime.fromisoformat(stamp).astimezone(now.tzinfo)
    found = None
    for _ in range(_MOST_MISSED):
        following = schedule.after(since)
        if following is None or following > now:
            return found
        found = since = following
    # Too many were missed to walk through them: look at the last day only.
    since = now - datetime.timedelta(days=1)
    while (following := schedule.after(since)) is not None and following <= now:
        found = since = following
    return found


def status_of(
    cron: JsonObject, jobs: Sequence[JsonObject], started: datetime.datetime | None
) -> JsonObject:
    active = [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job["metadata"]["name"],
            "namespace": job["metadata"]["namespace"],
            "uid": job["metadata"]["uid"],
        }
        for job in jobs
        if not _ended(job) and not is_leaving(job)
    ]
    status: JsonObject = {"active": active}
    if started is not None:
        status["lastScheduleTime"] = f"{started.astimezone(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
    ends = [(j.get("status") or {}).get("completionTime") for j in jobs if _ended(j) == "Complete"]
    before = (cron.get("status") or {}).get("lastSuccessfulTime") or ""
    last = max([before, *(str(end) for end in ends if end)])
    if last:
        status["lastSuccessfulTime"] = last
    return status


class CronJobs:
    """Reconciles by the plan; looks again at the next scheduled time."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._cache = writes.cache

    async def reconcile(self, key: ObjectKey) -> float | None:
        found = self._cache.get(key)
        if found is None or is_leaving(found):
            return None
        try:
            schedule = parse(found["spec"]["schedule"])
            zone = zoneinfo.ZoneInfo(found["spec"].get("timeZone") or "UTC")
        except (BadSchedule, zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
            self._writes.tell(found, "InvalidSchedule", str(error), is_warning=True)
            return None
        now = self._writes.clock.now().astimezone(zone)
        jobs = self._cache.owned(found, "Job")
        todo = plan(found, schedule, jobs, now)
        if todo.reason:
            self._writes.tell(found, todo.reason, todo.message, is_warning=True)
        for job in todo.delete:
            await self._writes.delete(job)
            message = f"Deleted job {job['metadata']['name']}"
            self._writes.tell(found, "SuccessfulDelete", message)
        if todo.start is not None:
            await self._start(found, todo.start)
        passed = todo.start
        status = status_of(found, self._cache.owned(found, "Job"), passed)
        await self._writes.status(found, status)
        following = schedule.after(now)
        return None if following is None else (following - now).total_seconds() + 0.05

    async def _start(self, cron: JsonObject, time: datetime.datetime) -> None:
        body = _job(cron, time)
        try:
            made = await self._writes.create(body)
        except AlreadyExists:
            return
        message = f"Created job {made['metadata']['name']}"
        self._writes.tell(cron, "SuccessfulCreate", message)


def _job(cron: JsonObject, time: datetime.datetime) -> JsonObject:
    template = cron["spec"]["jobTemplate"]
    meta = copy.deepcopy(template.get("metadata") or {})
    stamp = f"{time.astimezone(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{cron['metadata']['name']}-{int(time.timestamp()) // 60}",
            "namespace": cron["metadata"]["namespace"],
            "labels": meta.get("labels") or {},
            "annotations": {**(meta.get("annotations") or {}), _SCHEDULED: stamp},
            "ownerReferences": [owner_reference(cron, "batch/v1", "CronJob")],
        },
        "spec": copy.deepcopy(template["spec"]),
    }

"""DaemonSets: one pod on the one node."""

from collections.abc import Sequence

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import JsonObject
from meltemi.local.controllers import revisions
from meltemi.local.controllers.cache import is_leaving
from meltemi.local.controllers.pods import (
    is_active,
    is_finished,
    is_ready,
    labels_of,
    pod_from_template,
)
from meltemi.local.controllers.revisions import REVISION_LABEL
from meltemi.local.controllers.rollout import template_hash
from meltemi.local.controllers.writes import Writes


class Plan(msgspec.Struct, frozen=True):
    create: bool = False
    delete: tuple[JsonObject, ...] = ()


def plan(daemon_set: JsonObject, owned: Sequence[JsonObject]) -> Plan:
    """One pod of the present template, and none beside one that is still ending."""
    if not owned:
        return Plan(create=True)
    on_delete = (daemon_set["spec"].get("updateStrategy") or {}).get("type") == "OnDelete"
    revision = template_hash(daemon_set["spec"]["template"])
    kept = next(
        (p for p in owned if is_active(p) and (on_delete or _revision(p) == revision)), None
    )
    unwanted = tuple(p for p in owned if p is not kept and (is_active(p) or is_finished(p)))
    return Plan(delete=tuple(p for p in unwanted if not is_leaving(p)))


def status_of(daemon_set: JsonObject, owned: Sequence[JsonObject]) -> JsonObject:
    pods = [pod for pod in owned if is_active(pod)]
    revision = template_hash(daemon_set["spec"]["template"])
    ready = min(1, sum(map(is_ready, pods)))
    return {
        "observedGeneration": daemon_set["metadata"].get("generation", 0),
        "desiredNumberScheduled": 1,
        "currentNumberScheduled": min(1, len(pods)),
        "updatedNumberScheduled": min(1, sum(_revision(pod) == revision for pod in pods)),
        "numberReady": ready,
        "numberAvailable": ready,
        "numberUnavailable": 1 - ready,
        "numberMisscheduled": 0,
    }


class DaemonSets:
    """Reconciles by the plan."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._cache = writes.cache

    async def reconcile(self, key: ObjectKey) -> None:
        found = self._cache.get(key)
        if found is None:
            return
        if not is_leaving(found):
            name, owned = found["metadata"]["name"], self._cache.owned(found, "Pod")
            await revisions.keep(self._writes, found, [f"{name}-{_revision(pod)}" for pod in owned])
            todo = plan(found, owned)
            await self._writes.delete_pods(found, list(todo.delete))
            template = found["spec"]["template"]
            labels = {REVISION_LABEL: template_hash(template)}
            pods = [pod_from_template(found, template, labels=labels)] if todo.create else []
            await self._writes.create_pods(found, pods)
        await self._writes.status(found, status_of(found, self._cache.owned(found, "Pod")))


def _revision(pod: JsonObject) -> str:
    return labels_of(pod).get(REVISION_LABEL, "")

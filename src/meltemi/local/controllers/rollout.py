"""The decisions of a Deployment: which ReplicaSet is its present one, and how many pods each gets.

Pure. The rules are those of the Deployment API (surge, unavailable, conditions, deadlines), so
that `kubectl rollout` tells the truth:
https://kubernetes.io/docs/concepts/workloads/controllers/deployment/
"""

import copy
import datetime
import hashlib
import math
from collections.abc import Mapping, Sequence

import msgspec

from meltemi.kube.client import JsonObject
from meltemi.local.controllers.pods import condition, seconds_since

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_UNINHERITED = ("kubectl.kubernetes.io/last-applied-configuration", REVISION)
_AVAILABLE = "NewReplicaSetAvailable"


def template_hash(template: JsonObject, collisions: int = 0) -> str:
    """Ten letters that no word can come of, the same for the same template."""
    raw = msgspec.json.encode(template, order="sorted") + (
        b"%d" % collisions if collisions else b""
    )
    number = int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")
    letters = []
    for _ in range(10):
        number, rest = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[rest])
    return "".join(letters)


def bounds(deployment: JsonObject) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) in pods; never both 0."""
    wanted = wanted_replicas(deployment)
    if is_recreate(deployment):
        return 0, wanted
    rolling = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    surge = _share(rolling.get("maxSurge", "25%"), wanted, up=True)
    unavailable = _share(rolling.get("maxUnavailable", "25%"), wanted, up=False)
    return (surge, min(unavailable, wanted)) if surge or unavailable else (0, 1)


def _share(value: int | str, total: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    hundredths = total * int(value.rstrip("%"))
    return math.ceil(hundredths / 100) if up else hundredths // 100


def is_recreate(deployment: JsonObject) -> bool:
    return (deployment["spec"].get("strategy") or {}).get("type") == "Recreate"


def wanted_replicas(data: JsonObject) -> int:
    """`spec.replicas` of a Deployment or a ReplicaSet."""
    found: int = data["spec"].get("replicas", 1)
    return found


def revision_of(data: JsonObject) -> int:
    return int((data["metadata"].get("annotations") or {}).get(REVISION, "0"))


def inherited_annotations(deployment: JsonObject) -> Mapping[str, str]:
    """What ReplicaSets take over, such as the change cause that `rollout history` shows."""
    annotations = deployment["metadata"].get("annotations") or {}
    return {k: v for k, v in annotations.items() if k not in _UNINHERITED}


def present_set(deployment: JsonObject, sets: Sequence[JsonObject]) -> JsonObject | None:
    """The ReplicaSet whose template is the deployment's, apart from the hash label."""
    wanted = _without_empty(deployment["spec"]["template"])
    for found in sets:
        template = copy.deepcopy(found["spec"]["template"])
        ((template.get("metadata") or {}).get("labels") or {}).pop(HASH_LABEL, None)
        if _without_empty(template) == wanted:
            return found
    return None


def _without_empty(value: object) -> object:
    if isinstance(value, dict):
        kept = {k: _without_empty(v) for k, v in value.items()}
        return {k: v for k, v in kept.items() if v not in (None, {}, [], "")}
    if isinstance(value, list):
        return [_without_empty(v) for v in value]
    return value


def first_size(deployment: JsonObject, others: Sequence[JsonObject]) -> int:
    """How many pods a new ReplicaSet starts with, beside those that others have."""
    wanted = wanted_replicas(deployment)
    surge, _ = bounds(deployment)
    running = sum(map(wanted_replicas, others))
    if is_recreate(deployment) and running:
        return 0
    return max(0, min(wanted, wanted + surge - running))


def scales(
    deployment: JsonObject, new: JsonObject, old: Sequence[JsonObject], *, old_pods: int
) -> Mapping[str, int]:
    """The next size of each ReplicaSet that should change, by name.

    `old_pods`: pods of the old ones that still exist, ending ones included.
    """
    if is_recreate(deployment):
        running = {_name(r): 0 for r in old if wanted_replicas(r)}
        if running or old_pods:
            return running
        return _if_changed({_name(new): (new, wanted_replicas(deployment))})
    grown = {_name(new): (new, _grown(deployment, new, old))}
    return _if_changed({**grown, **_shrunk(deployment, new, old)})


def _if_changed(sizes: Mapping[str, tuple[JsonObject, int]]) -> Mapping[str, int]:
    return {n: size for n, (found, size) in sizes.items() if wanted_replicas(found) != size}


def _grown(deployment: JsonObject, new: JsonObject, old: Sequence[JsonObject]) -> int:
    """The new one's size: all that is wanted, as far as the surge leaves room."""
    wanted, current = wanted_replicas(deployment), wanted_replicas(new)
    surge, _ = bounds(deployment)
    room = wanted + surge - current - sum(map(wanted_replicas, old))
    return wanted if current >= wanted else current + max(0, min(room, wanted - current))


def _shrunk(
    deployment: JsonObject, new: JsonObject, old: Sequence[JsonObject]
) -> Mapping[str, tuple[JsonObject, int]]:
    """The old ones' sizes. Broken pods leave first; both steps keep what must be available.

    A status that still counts pods which are on their way out promises nothing: no set has more
    available pods than it asks for.
    """
    least = wanted_replicas(deployment) - bounds(deployment)[1]
    sizes = {_name(r): (r, wanted_replicas(r)) for r in old}
    may_leave = sum(map(wanted_replicas, old)) + _available(new) - least
    spare = sum(map(_available, old)) + _available(new) - least
    for found in old:
        broken = min(wanted_replicas(found) - _available(found), max(0, may_leave))
        may_leave -= broken
        sizes[_name(found)] = (found, wanted_replicas(found) - broken)
    for found in old:
        size = sizes[_name(found)][1]
        leaving = max(0, min(size, spare, may_leave))
        spare, may_leave = spare - leaving, may_leave - leaving
        sizes[_name(found)] = (found, size - leaving)
    return sizes


def _available(found: JsonObject) -> int:
    return min(_count(found, "availableReplicas"), wanted_replicas(found))


def scales_while_paused(deployment: JsonObject, sets: Sequence[JsonObject]) -> Mapping[str, int]:
    """`kubectl scale` works while a rollout is paused: the largest ReplicaSet takes the difference.

    `sets` come oldest first.
    """
    wanted = wanted_replicas(deployment)
    active = [r for r in sets if wanted_replicas(r)] or list(sets[-1:])
    if not active:
        return {}
    surge, unavailable = bounds(deployment)
    most, least = (wanted, wanted) if len(active) == 1 else (wanted + surge, wanted - unavailable)
    total = sum(map(wanted_replicas, active))
    largest = max(reversed(active), key=wanted_replicas)
    difference = max(least - total, 0) + min(most - total, 0)
    size = max(0, wanted_replicas(largest) + difference)
    return _if_changed({_name(largest): (largest, size)})


def status_of(
    deployment: JsonObject,
    new: JsonObject | None,
    sets: Sequence[JsonObject],
    *,
    now: datetime.datetime,
) -> JsonObject:
    """The Deployment's status, conditions included. `sets`: all its ReplicaSets."""
    wanted = wanted_replicas(deployment)
    replicas = sum(_count(r, "replicas") for r in sets)
    available = sum(_count(r, "availableReplicas") for r in sets)
    status: JsonObject = {
        "observedGeneration": deployment["metadata"].get("generation", 0),
        "replicas": replicas,
        "updatedReplicas": _count(new, "replicas") if new is not None else 0,
        "readyReplicas": sum(_count(r, "readyReplicas") for r in sets),
        "availableReplicas": available,
        "unavailableReplicas": max(0, max(wanted, replicas) - available),
    }
    enough = available >= wanted - bounds(deployment)[1]
    conditions = [
        ("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        if enough
        else (
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        ),
        ("Progressing", *_progress(deployment, new, status, now)),
    ]
    failure = condition(new or {}, "ReplicaFailure")
    if failure:
        conditions.append(("ReplicaFailure", "True", failure["reason"], failure["message"]))
    moved = _has_moved(deployment.get("status") or {}, status)
    status["conditions"] = [
        _dated(deployment, *c, now=now, moved=moved and c[0] == "Progressing") for c in conditions
    ]
    return status


def _progress(
    deployment: JsonObject, new: JsonObject | None, status: JsonObject, now: datetime.datetime
) -> tuple[str, str, str]:
    """(status, reason, message) of the condition Progressing."""
    before = condition(deployment, "Progressing")
    wanted, name = wanted_replicas(deployment), _name(new) if new is not None else ""
    if deployment["spec"].get("paused"):
        return "Unknown", "DeploymentPaused", "Deployment is paused"
    is_whole = status["updatedReplicas"] == status["replicas"]
    is_done = is_whole and status["replicas"] == wanted == status["availableReplicas"]
    # What was said before holds only if it was said of this ReplicaSet: another is a new rollout.
    said = before.get("reason") if f'"{name}"' in before.get("message", "") else None
    # Once complete it stays so until the template changes, whatever becomes of single pods.
    if is_done or (is_whole and said == _AVAILABLE):
        return "True", _AVAILABLE, f'ReplicaSet "{name}" has successfully progressed.'
    has_moved = _has_moved(deployment.get("status") or {}, status)
    if said and not has_moved and _is_late(deployment, now):
        message = f'ReplicaSet "{name}" has timed out progressing.'
        return "False", "ProgressDeadlineExceeded", message
    if status["updatedReplicas"]:
        return "True", "ReplicaSetUpdated", f'ReplicaSet "{name}" is progressing.'
    return "True", "NewReplicaSetCreated", f'Created new replica set "{name}"'


def _is_late(deployment: JsonObject, now: datetime.datetime) -> bool:
    left = seconds_left(deployment, now)
    if condition(deployment, "Progressing").get("reason") == "ProgressDeadlineExceeded":
        return True
    return left is not None and left <= 0


def seconds_left(deployment: JsonObject, now: datetime.datetime) -> float | None:
    """Until the rollout under way is late; None when none is under way or nothing waits for it."""
    progress = condition(deployment, "Progressing")
    deadline = deployment["spec"].get("progressDeadlineSeconds")
    under_way = progress.get("reason") in ("ReplicaSetUpdated", "NewReplicaSetCreated")
    if not deadline or not under_way:
        return None
    return float(deadline) - seconds_since(progress["lastUpdateTime"], now)


def _has_moved(before: JsonObject, after: JsonObject) -> bool:
    """Whether a rollout has got further: more new pods, more ready ones, fewer old ones."""

    def old_pods(status: JsonObject) -> int:
        return int(status.get("replicas", 0)) - int(status.get("updatedReplicas", 0))

    grown = ("updatedReplicas", "readyReplicas", "availableReplicas")
    return old_pods(after) < old_pods(before) or any(
        after[name] > before.get(name, 0) for name in grown
    )


def _dated(
    deployment: JsonObject,
    kind: str,
    status: str,
    reason: str,
    message: str,
    *,
    now: datetime.datetime,
    moved: bool,
) -> JsonObject:
    """A condition; its times stay those of the one before while it says the same."""
    stamp = f"{now:%Y-%m-%dT%H:%M:%SZ}"
    before = condition(deployment, kind)
    same = (before.get("status"), before.get("reason")) == (status, reason)
    same = same and before.get("message") == message
    turned = before.get("status") != status
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastUpdateTime": before["lastUpdateTime"] if same and not moved else stamp,
        "lastTransitionTime": stamp if turned else before["lastTransitionTime"],
    }


def _count(data: JsonObject, field: str) -> int:
    return int((data.get("status") or {}).get(field, 0))


def _name(data: JsonObject) -> str:
    return str(data["metadata"]["name"])

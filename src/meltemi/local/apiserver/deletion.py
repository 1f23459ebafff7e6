"""How objects go: at once, or marked until their finalizers and their time are over."""

import datetime
from typing import Any

from meltemi.api.kinds import Kind
from meltemi.local.apiserver.errors import StatusError, conflict, forbidden, invalid
from meltemi.local.apiserver.store import Entry

Json = dict[str, Any]
_LASTING = ("default", "kube-system", "kube-public", "kube-node-lease")


def marked(kind: Kind, entry: Entry, options: Json, now: datetime.datetime) -> Json | None:
    """An object on its way out; itself when that changes nothing; None when it may go."""
    old = entry.data["metadata"]
    grace = _grace(kind, entry.data, options)
    finalizers = _finalizers(list(old.get("finalizers") or []), options)
    ends = _ending_namespace(kind, entry.data)
    if not finalizers and not grace and not ends:
        return None
    meta = {**old}
    shorter = grace < int(old.get("deletionGracePeriodSeconds", grace + 1))
    if "deletionTimestamp" in old and not shorter and finalizers == old.get("finalizers", []):
        return entry.data
    when = now + datetime.timedelta(seconds=grace)
    if "deletionTimestamp" not in old or shorter:
        meta["deletionTimestamp"] = when.strftime("%Y-%m-%dT%H:%M:%SZ")
        meta["deletionGracePeriodSeconds"] = grace
    if "generation" in meta and "deletionTimestamp" not in old:
        meta["generation"] = int(meta["generation"]) + 1
    meta.pop("finalizers", None)
    if finalizers:
        meta["finalizers"] = finalizers
    data = {**entry.data, "metadata": meta}
    if kind.name == "Namespace":
        data["status"] = {**(data.get("status") or {}), "phase": "Terminating"}
    return data


def check_preconditions(kind: Kind, entry: Entry, options: Json) -> None:
    wanted = options.get("preconditions") or {}
    uid = entry.data["metadata"]["uid"]
    if wanted.get("uid") and wanted["uid"] != uid:
        raise conflict(
            kind.plural, kind.group, entry.name,
            f"Precondition failed: UID in precondition: {wanted['uid']}, UID in object meta: "
            f"{uid}",
        )  # fmt: skip
    version = wanted.get("resourceVersion")
    if version and str(version) != str(entry.version):
        raise conflict(
            kind.plural, kind.group, entry.name,
            f"Precondition failed: ResourceVersion in precondition: {version}, "
            f"ResourceVersion in object meta: {entry.version}",
        )  # fmt: skip
    if kind.name == "Namespace" and entry.name in _LASTING:
        raise forbidden(
            f'namespaces "{entry.name}" is forbidden: this namespace may not be deleted'
        )


def check_finalizers(kind: Kind, old: Json, new: Json) -> None:
    """What is on its way out takes no new finalizers."""
    added = set(new.get("finalizers") or ()) - set(old.get("finalizers") or ())
    if "deletionTimestamp" in old and added:
        text = (
            "Forbidden: no new finalizers can be added if the object is being deleted, "
            f"found new finalizers {sorted(added)}"
        )
        raise invalid(kind.name, kind.group, old["name"], [("metadata.finalizers", text)])


def _finalizers(finalizers: list[str], options: Json) -> list[str]:
    """What the propagation policy adds to an object's finalizers, and takes from them."""
    policy = options.get("propagationPolicy")
    if policy is None and options.get("orphanDependents") is not None:
        policy = "Orphan" if options["orphanDependents"] else "Background"
    if policy not in (None, "Background", "Foreground", "Orphan"):
        raise StatusError(
            422,
            "Invalid",
            f'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: '
            f'"{policy}": supported values: "Foreground", "Background", "Orphan", "nil"',
        )
    if policy is None:
        return finalizers
    added = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}.get(policy)
    kept = [f for f in finalizers if f not in ("foregroundDeletion", "orphan") or f == added]
    return [*kept, added] if added and added not in kept else kept


def _ending_namespace(kind: Kind, data: Json) -> bool:
    return kind.name == "Namespace" and bool((data.get("spec") or {}).get("finalizers"))


def _grace(kind: Kind, data: Json, options: Json) -> int:
    """Seconds a pod may take to end; nothing else is given time, nor a pod nobody runs."""
    if kind.name != "Pod":
        return 0
    asked = options.get("gracePeriodSeconds")
    if not data["spec"].get("nodeName") or data.get("status", {}).get("phase") in (
        "Succeeded",
        "Failed",
    ):
        return 0
    default = int(data["spec"].get("terminationGracePeriodSeconds", 30))
    return default if asked is None else max(int(asked), 0)


def is_finished(data: Json) -> bool:
    """Whether what was marked for deletion has nothing left to wait for."""
    meta = data["metadata"]
    waits = meta.get("finalizers") or int(meta.get("deletionGracePeriodSeconds") or 0) > 0
    if data["kind"] == "Namespace" and (data.get("spec") or {}).get("finalizers"):
        return False
    return "deletionTimestamp" in meta and not waits

"""CustomResourceDefinitions as the API keeps them: defaults, finalizer and status."""

from typing import Any

Json = dict[str, Any]
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
"""Keeps a definition until the objects of its kind are gone."""


def definition_defaults(data: Json) -> None:
    """What a definition leaves out, in place."""
    spec = data.setdefault("spec", {})
    names = spec.setdefault("names", {})
    kind = str(names.get("kind", ""))
    names.setdefault("singular", kind.lower())
    names.setdefault("listKind", f"{kind}List")
    spec.setdefault("conversion", {"strategy": "None"})
    if "deletionTimestamp" not in data["metadata"]:
        finalizers = data["metadata"].setdefault("finalizers", [])
        if CLEANUP not in finalizers:
            finalizers.append(CLEANUP)


def definition_status(data: Json, now: str) -> Json | None:
    """The status of a definition that is served; None when it says so already."""
    spec, status = data["spec"], data.get("status") or {}
    stored = [v["name"] for v in spec["versions"] if v.get("storage")]
    versions = [*status.get("storedVersions", ()), *stored]
    wanted = {
        "conditions": status.get("conditions")
        or [
            _condition("NamesAccepted", "NoConflicts", "no conflicts found", now),
            _condition("Established", "InitialNamesAccepted",
                       "the initial names have been accepted", now),
        ],
        "acceptedNames": spec["names"],
        "storedVersions": list(dict.fromkeys(versions)),
    }  # fmt: skip
    return None if wanted == status else wanted


def _condition(kind: str, reason: str, message: str, now: str) -> Json:
    return {"type": kind, "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": now}  # fmt: skip

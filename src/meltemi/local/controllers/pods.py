"""What controllers ask about pods, and how they make one."""

import copy
from collections.abc import Mapping

from meltemi.kube.client import JsonObject
from meltemi.local.controllers.cache import owner_reference


def is_active(pod: JsonObject) -> bool:
    """Neither finished nor on its way out."""
    status = pod.get("status") or {}
    return (
        status.get("phase") not in ("Succeeded", "Failed")
        and "deletionTimestamp" not in pod["metadata"]
    )


def is_ready(pod: JsonObject) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def condition(pod: JsonObject, kind: str) -> JsonObject:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == kind), {})


def selects(selector: JsonObject | None, labels: Mapping[str, str]) -> bool:
    """A LabelSelector; none selects nothing."""
    if not selector:
        return False
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions") or ():
        key, operator, values = rule["key"], rule["operator"], rule.get("values") or ()
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]
        if not holds:
            return False
    return True


def pod_from_template(
    owner: JsonObject, api_version: str, kind: str, template: JsonObject, *, name: str = ""
) -> JsonObject:
    """A pod of an owner's template; without a name the API makes one from the owner's."""
    meta = copy.deepcopy(template.get("metadata") or {})
    found: JsonObject = {
        "namespace": owner["metadata"]["namespace"],
        "labels": meta.get("labels") or {},
        "annotations": meta.get("annotations") or {},
        "finalizers": meta.get("finalizers") or [],
        "ownerReferences": [owner_reference(owner, api_version, kind)],
    }
    if name:
        found["name"] = name
    else:
        found["generateName"] = f"{owner['metadata']['name']}-"
    found = {key: value for key, value in found.items() if value}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": found,
        "spec": copy.deepcopy(template["spec"]),
    }

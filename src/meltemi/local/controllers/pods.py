"""What controllers ask about pods, and how they make one."""

import copy
import datetime
from collections.abc import Mapping

from meltemi.kube.client import JsonObject
from meltemi.local.controllers.cache import is_leaving, owner_reference


def is_active(pod: JsonObject) -> bool:
    """Neither finished nor on its way out."""
    return not is_finished(pod) and not is_leaving(pod)


def is_finished(pod: JsonObject) -> bool:
    """It ran to its end, well or badly."""
    return phase(pod) in ("Succeeded", "Failed")


def phase(pod: JsonObject) -> str:
    return str((pod.get("status") or {}).get("phase", ""))


def is_ready(pod: JsonObject) -> bool:
    return condition(pod, "Ready").get("status") == "True"


def condition(data: JsonObject, kind: str) -> JsonObject:
    """The condition of a type; empty when there is none."""
    conditions = (data.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == kind), {})


def seconds_since(stamp: str | None, now: datetime.datetime) -> float:
    """Seconds from a timestamp of the API until now; 0 without one."""
    if not stamp:
        return 0.0
    return (now - datetime.datetime.fromisoformat(stamp)).total_seconds()


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


def labels_of(data: JsonObject | None) -> Mapping[str, str]:
    return ((data or {}).get("metadata") or {}).get("labels") or {}


def pod_from_template(
    owner: JsonObject, template: JsonObject, *, name: str = "", labels: Mapping[str, str] = {}
) -> JsonObject:
    """A pod of an owner's template; without a name the API makes one from the owner's."""
    meta = copy.deepcopy(template.get("metadata") or {})
    found: JsonObject = {
        "namespace": owner["metadata"]["namespace"],
        "labels": {**(meta.get("labels") or {}), **labels},
        "annotations": meta.get("annotations") or {},
        "finalizers": meta.get("finalizers") or [],
        "ownerReferences": [owner_reference(owner, owner["apiVersion"], owner["kind"])],
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

"""Versions that differ in more than their name: HorizontalPodAutoscaler, v1 and v2."""

from typing import Any

from meltemi.api.kinds import Kind

Json = dict[str, Any]
_PERCENT = "targetCPUUtilizationPercentage"


def converted(kind: Kind, version: str, data: Json) -> Json:
    """A stored object as another version shows it."""
    if kind.name != "HorizontalPodAutoscaler" or version != "v1":
        return data
    spec = {k: v for k, v in data.get("spec", {}).items() if k not in ("metrics", "behavior")}
    for metric in data.get("spec", {}).get("metrics") or ():
        resource = metric.get("resource") or {}
        if resource.get("name") == "cpu":
            spec[_PERCENT] = (resource.get("target") or {}).get("averageUtilization")
    return {**data, "spec": spec}


def stored(kind: Kind, version: str, data: Json) -> Json:
    """An object in another version, as it is stored."""
    if kind.name != "HorizontalPodAutoscaler" or version != "v1":
        return data
    spec = dict(data.get("spec") or {})
    percent = spec.pop(_PERCENT, None)
    if percent is not None:
        target = {"type": "Utilization", "averageUtilization": percent}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    return {**data, "spec": spec}

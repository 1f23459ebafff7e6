"""The scale subresource: how many replicas, whatever the kind."""

from typing import Any

from meltemi.api.kinds import Kind
from meltemi.local.apiserver.errors import StatusError, not_found
from meltemi.local.apiserver.registry import Registry

Json = dict[str, Any]
_OWN = {
    "specReplicasPath": ".spec.replicas",
    "statusReplicasPath": ".status.replicas",
}


def paths(registry: Registry, kind: Kind, version: str) -> Json:
    """Where a kind keeps its replicas. Raises a 404 for kinds that have no scale."""
    custom = registry.custom(kind, version)
    found = _OWN if custom is None else custom.scale
    if "scale" not in kind.subresources or found is None:
        raise not_found(f"{kind.plural}/scale", kind.group, "")
    return found


def scale_of(where: Json, data: Json) -> Json:
    """The Scale of an object."""
    meta = data["metadata"]
    names = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {k: meta[k] for k in names if k in meta},
        "spec": {"replicas": _get(data, where["specReplicasPath"]) or 0},
        "status": {
            "replicas": _get(data, where["statusReplicasPath"]) or 0,
            "selector": _selector(where, data),
        },
    }


def rescaled(where: Json, data: Json, scale: Any) -> Json:
    """An object with the replicas of a Scale; a resourceVersion in the Scale binds."""
    spec = (scale.get("spec") or {}) if isinstance(scale, dict) else {}
    replicas = spec.get("replicas", 0)
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        raise StatusError(
            422,
            "Invalid",
            f"spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0",
        )
    steps = where["specReplicasPath"].strip(".").split(".")
    place = data
    for step in steps[:-1]:
        place = place.setdefault(step, {})
    place[steps[-1]] = replicas
    version = (scale.get("metadata") or {}).get("resourceVersion")
    if version:
        data["metadata"]["resourceVersion"] = version
    return data


def _get(data: Json, path: str) -> Any:
    value: Any = data
    for step in path.strip(".").split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _selector(where: Json, data: Json) -> str:
    if "labelSelectorPath" in where:
        return str(_get(data, where["labelSelectorPath"]) or "")
    labels = (_get(data, ".spec.selector") or {}).get("matchLabels") or {}
    return ",".join(f"{k}={v}" for k, v in sorted(labels.items()))

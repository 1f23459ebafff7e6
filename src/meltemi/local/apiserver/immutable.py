"""Fields that an update may not change."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Json = dict[str, Any]
Cause = tuple[str, str]
_FIXED = "Invalid value: field is immutable"


def update_causes(kind: str, before: Json, after: Json) -> Iterator[Cause]:
    """What an update changes although it must not."""
    for path in _PATHS.get(kind, ()):
        if _at(before, path) != _at(after, path):
            yield path, _FIXED
    rule = _RULES.get(kind)
    if rule is not None:
        yield from rule(before, after)


def _at(data: Json, path: str) -> Any:
    value: Any = data
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


_PATHS: Mapping[str, tuple[str, ...]] = {
    "Deployment": ("spec.selector",),
    "ReplicaSet": ("spec.selector",),
    "StatefulSet": (),
    "DaemonSet": ("spec.selector",),
    "Job": ("spec.selector", "spec.completionMode"),
    "RoleBinding": ("roleRef",),
    "ClusterRoleBinding": ("roleRef",),
    "EndpointSlice": ("addressType",),
    "IngressClass": ("spec.controller",),
    "Secret": ("type",),
    "CustomResourceDefinition": ("spec.group", "spec.scope", "spec.names.plural"),
}
_STATEFUL = frozenset({
    "replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy", "minReadySeconds",
})  # fmt: skip


def _stateful_set(before: Json, after: Json) -> Iterator[Cause]:
    old, new = before.get("spec", {}), after.get("spec", {})
    changed = [f for f in old.keys() | new.keys() if old.get(f) != new.get(f)]
    if set(changed) - _STATEFUL:
        yield (
            "spec",
            "Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', "
            "'template', 'updateStrategy', 'revisionHistoryLimit', "
            "'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        )


def _job(before: Json, after: Json) -> Iterator[Cause]:
    if not before["spec"].get("suspend") and _at(before, "spec.template") != _at(
        after, "spec.template"
    ):
        yield "spec.template", _FIXED


def _sealed(before: Json, after: Json) -> Iterator[Cause]:
    """ConfigMaps and Secrets that were made immutable."""
    if not before.get("immutable"):
        return
    if not after.get("immutable"):
        yield "immutable", "Forbidden: field is immutable when `immutable` is set"
    for field in ("data", "binaryData"):
        if before.get(field) != after.get(field):
            yield field, "Forbidden: field is immutable when `immutable` is set"


def _pod(before: Json, after: Json) -> Iterator[Cause]:
    if _pod_core(before["spec"]) != _pod_core(after["spec"]):
        yield (
            "spec",
            "Forbidden: pod updates may not change fields other than "
            "`spec.containers[*].image`, `spec.initContainers[*].image`, "
            "`spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing "
            "tolerations), `spec.terminationGracePeriodSeconds`",
        )


def _pod_core(spec: Json) -> Json:
    free = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds",
            "nodeName", "ephemeralContainers", "schedulingGates")  # fmt: skip
    core = {k: v for k, v in spec.items() if k not in free}
    for field in ("containers", "initContainers"):
        if field in core:
            core[field] = [{**c, "image": ""} for c in core[field]]
    return core


def _service(before: Json, after: Json) -> Iterator[Cause]:
    if "ExternalName" in (before["spec"].get("type"), after["spec"].get("type")):
        return
    old, new = before["spec"].get("clusterIP"), after["spec"].get("clusterIP")
    if old and new != old:
        yield "spec.clusterIP", f'Invalid value: "{new or ""}": field is immutable'
    for field in ("ipFamilies", "clusterIPs"):
        pairs = zip(before["spec"].get(field) or (), after["spec"].get(field) or (), strict=False)
        for i, (was, now) in enumerate(pairs):
            if was != now and (field, i) != ("clusterIPs", 0):
                yield f"spec.{field}[{i}]", f'Invalid value: "{now}": may not change from {was}'


_RULES: Mapping[str, Callable[[Json, Json], Iterator[Cause]]] = {
    "StatefulSet": _stateful_set,
    "Job": _job,
    "ConfigMap": _sealed,
    "Secret": _sealed,
    "Pod": _pod,
    "Service": _service,
}

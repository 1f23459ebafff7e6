"""The patch forms: JSON Patch by library; merge and strategic merge here.

Strategic merge: https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md
"""

from typing import Any

import jsonpatch

from meltemi.local.apiserver.errors import StatusError, bad_request

Json = dict[str, Any]

_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "secrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "conditions": "type",
    "ownerReferences": "uid",
    "addresses": "type",
    "webhooks": "name",
    "readinessGates": "conditionType",
}
_MERGED_SETS = frozenset(("finalizers",))


def merge_key(field: str, parent: str) -> str | None:
    """The field that tells the items of a list apart; None: the list is replaced as a whole."""
    if field == "ports":
        return "containerPort" if parent in ("containers", "initContainers") else "port"
    return _MERGE_KEYS.get(field)


def json_patch(data: Json, operations: Any) -> Json:
    """RFC 6902."""
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is a list of operations")
    try:
        patched: Json = jsonpatch.JsonPatch(operations).apply(data)
    except jsonpatch.JsonPatchTestFailed as error:
        raise StatusError(422, "Invalid", f"the JSON patch's test failed: {error}") from error
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, KeyError, TypeError) as e:
        raise StatusError(422, "Invalid", f"the JSON patch cannot be applied: {e}") from e
    return patched


def merge_patch(data: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(data) if isinstance(data, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def strategic_merge(data: Any, patch: Any, field: str = "", parent: str = "") -> Any:
    """Like a merge patch, but lists of named things merge item by item."""
    if isinstance(patch, dict):
        return _merge_object(data if isinstance(data, dict) else {}, patch, field)
    if isinstance(patch, list):
        return _merge_list(data if isinstance(data, list) else [], patch, field, parent)
    return patch


def _merge_object(data: Json, patch: Json, field: str) -> Json:
    directive = patch.get("$patch")
    if directive == "replace":
        return {k: v for k, v in patch.items() if k != "$patch"}
    if directive == "delete":
        return {}
    merged = dict(data)
    if "$retainKeys" in patch:
        keep = set(patch["$retainKeys"])
        merged = {k: v for k, v in merged.items() if k in keep}
    for name, value in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            target = name.partition("/")[2]
            merged[target] = [v for v in merged.get(target) or [] if v not in value]
        elif name.startswith("$"):
            continue
        elif value is None:
            merged.pop(name, None)
        else:
            merged[name] = strategic_merge(merged.get(name), value, name, field)
    for name, order in patch.items():
        if name.startswith("$setElementOrder/"):
            target = name.partition("/")[2]
            if target in merged:
                merged[target] = _ordered(merged[target], order, merge_key(target, field))
    return merged


def _merge_list(data: list[Any], patch: list[Any], field: str, parent: str) -> list[Any]:
    key = merge_key(field, parent)
    if field in _MERGED_SETS:
        return [*data, *(v for v in patch if v not in data)]
    if key is None or not all(isinstance(item, dict) for item in patch):
        return patch
    if any(item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if "$patch" not in item]
    merged = list(data)
    for item in patch:
        same = [
            i for i, old in enumerate(merged) if isinstance(old, dict) and _same(old, item, key)
        ]
        if item.get("$patch") == "delete":
            merged = [old for i, old in enumerate(merged) if i not in same]
        elif same:
            merged[same[0]] = strategic_merge(merged[same[0]], item, field, parent)
        else:
            merged.append(item)
    return merged


def _same(old: Json, item: Json, key: str) -> bool:
    if key in ("port", "containerPort") and "protocol" in item and "protocol" in old:
        return bool(old.get(key) == item.get(key) and old["protocol"] == item["protocol"])
    return bool(old.get(key) == item.get(key))


def _ordered(items: list[Any], order: list[Any], key: str | None) -> list[Any]:
    """Items in the order asked for; those it does not name keep their places after the rest."""
    if key is None:
        places = {value: i for i, value in enumerate(order)}
        return sorted(items, key=lambda v: places.get(v, len(places)))
    names = {o.get(key): i for i, o in enumerate(order) if isinstance(o, dict)}
    return sorted(items, key=lambda v: names.get(v.get(key), len(names)))

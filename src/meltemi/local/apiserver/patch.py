"""The patch forms: JSON Patch by library; merge and strategic merge here.

Strategic merge: https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md
"""

from typing import Any

import jsonpatch

from meltemi.local.apiserver.errors import StatusError, bad_request
from meltemi.local.apiserver.schema.node import Node

Json = dict[str, Any]
_ORDER = "$setElementOrder/"
_DELETE = "$deleteFromPrimitiveList/"
MOST_OPERATIONS = 10_000


def json_patch(data: Json, operations: Any) -> Json:
    """RFC 6902."""
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is a list of operations")
    if len(operations) > MOST_OPERATIONS:
        raise StatusError(
            413,
            "RequestEntityTooLarge",
            f"The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got "
            f"{len(operations)}",
        )
    try:
        patched: Json = jsonpatch.JsonPatch(operations).apply(data)
    except jsonpatch.JsonPatchTestFailed as error:
        raise StatusError(422, "Invalid", f"the JSON patch's test failed: {error}") from error
    except (
        jsonpatch.JsonPatchException,
        jsonpatch.JsonPointerException,
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise StatusError(
            422, "Invalid", f"the JSON patch cannot be applied: {error or type(error).__name__}"
        ) from error
    if not isinstance(patched, dict):
        raise StatusError(422, "Invalid", "the JSON patch leaves something that is no object")
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


def strategic_merge(data: Any, patch: Any, node: Node | None) -> Any:
    """Like a merge patch, but lists that say how they merge do so item by item.

    Directives: `$patch`, `$retainKeys`, `$setElementOrder/LIST`, `$deleteFromPrimitiveList/LIST`.
    """
    if not isinstance(patch, dict):
        raise bad_request("a strategic merge patch is an object")
    return _object(data if isinstance(data, dict) else {}, patch, node)


def _object(data: Json, patch: Json, node: Node | None) -> Json:
    match patch.get("$patch"):
        case "replace":
            plain: Json = _plain({k: v for k, v in patch.items() if k != "$patch"})
            return plain
        case "delete":
            return {}
        case None | "merge":
            merged = dict(data)
        case other:
            raise bad_request(f"unknown $patch directive {other!r}: use replace, delete or merge")
    if "$retainKeys" in patch:
        keep = _list(patch["$retainKeys"], "$retainKeys")
        merged = {k: v for k, v in merged.items() if k in keep}
    for name, value in patch.items():
        if name.startswith(_DELETE):
            gone = _list(value, name)
            field = name.removeprefix(_DELETE)
            merged[field] = [v for v in merged.get(field) or [] if v not in gone]
        elif name.startswith("$"):
            continue
        elif value is None:
            merged.pop(name, None)
        else:
            child = node.child(name) if node is not None else None
            merged[name] = _value(merged.get(name), value, child)
    for name, order in patch.items():
        field = name.removeprefix(_ORDER)
        if name.startswith(_ORDER) and isinstance(merged.get(field), list):
            child = node.child(field) if node is not None else None
            merged[field] = _ordered(merged[field], _list(order, name), child)
    return merged


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise bad_request(f"{name}: a list is required")
    return value


def _value(data: Any, patch: Any, node: Node | None) -> Any:
    if isinstance(patch, dict):
        return _object(data if isinstance(data, dict) else {}, patch, node)
    if isinstance(patch, list):
        return _items(data if isinstance(data, list) else [], patch, node)
    return patch


def _items(data: list[Any], patch: list[Any], node: Node | None) -> list[Any]:
    key = node.merge_key if node is not None else None
    if node is None or key is None:
        return [_plain(item) for item in patch]
    if key == "":
        return [*data, *(v for v in patch if v not in data)]
    if any(not isinstance(item, dict) for item in patch):
        raise bad_request(f"strategic merge: items of a list keyed by {key} have to be objects")
    if any(item.get("$patch") == "replace" for item in patch):
        return [_plain(item) for item in patch if item.get("$patch") != "replace"]
    merged = list(data)
    for item in patch:
        if key not in item:
            raise bad_request(f"map: {_plain(item)} does not contain declared merge key: {key}")
        place = next((i for i, old in enumerate(merged) if _key(old, key) == item[key]), None)
        if item.get("$patch") == "delete":
            merged = [old for old in merged if _key(old, key) != item[key]]
        elif place is None:
            merged.append(_plain(item))
        else:
            merged[place] = _object(merged[place], item, node.item)
    return merged


def _key(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, dict) else None


def _plain(value: Any) -> Any:
    """A new value, without directives and nulls."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if not k.startswith("$") and v is not None}
    if isinstance(value, list):
        return [
            _plain(v) for v in value if not (isinstance(v, dict) and v.get("$patch") == "delete")
        ]
    return value


def _ordered(items: list[Any], order: list[Any], node: Node | None) -> list[Any]:
    """Items in the order asked for; each one it does not name stays behind its neighbour."""
    key = node.merge_key if node is not None else None

    def name(item: Any) -> Any:
        return _key(item, key) if key else item

    wanted = [name(o) for o in order]
    listed = sorted(
        (i for i in items if name(i) in wanted), key=lambda item: wanted.index(name(item))
    )
    result: list[Any] = []
    positions = iter(listed)
    for item in items:
        result.append(next(positions) if name(item) in wanted else item)
    return result

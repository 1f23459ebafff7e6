"""Server-side apply: a manager owns the fields it applied, and gives up those it leaves out.

Ownership is kept in `metadata.managedFields` in the fieldsV1 form. Two managers may not own one
field with different values, unless the newer one forces it.
https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

import copy
from collections.abc import Iterator
from typing import Any

from meltemi.local.apiserver.errors import StatusError, bad_request
from meltemi.local.apiserver.operations import Operations, Write
from meltemi.local.apiserver.patch import merge_key
from meltemi.local.apiserver.requests import Target
from meltemi.local.apiserver.watching import parse_bool

Json = dict[str, Any]
Path = tuple[Any, ...]
"""Steps: a field name, or (key name, key value) for an item of a keyed list."""
_IDENTITY = frozenset({("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace")})


async def apply_patch(
    operations: Operations, found: Target, patch: Any, query: dict[str, str], write: Write
) -> tuple[Json, bool]:
    """Create the object or merge into it; answers the object and whether it is new."""
    if not isinstance(patch, dict):
        raise bad_request("an apply patch is an object")
    manager = query.get("fieldManager", "")
    if not manager:
        raise bad_request("PatchOptions.meta.k8s.io is invalid: fieldManager: Required value")
    force = parse_bool(query.get("force"))
    patch = {**patch, "metadata": {**(patch.get("metadata") or {}), "name": found.name}}
    owned = sorted(path for path in set(_leaves(patch)) if path not in _IDENTITY)
    try:
        operations.entry(found.kind, found.namespace, found.name)
    except StatusError as error:
        if error.code != 404:
            raise
        created = await operations.create(found.kind, found.namespace, patch, write)
        if write.dry_run:
            return created, True
        stored = await operations.record_owner(
            found.kind, found.namespace, found.name, manager, _fields(owned), write
        )
        return stored, True

    def change(before: Json) -> Json:
        return _merge(before, patch, manager, owned, force=force)

    stored = await operations.update(
        found.kind, found.namespace, found.name, change, write, keep_managers=True
    )
    return stored, False


def _merge(before: Json, patch: Json, manager: str, owned: list[Path], *, force: bool) -> Json:
    managers = list(before["metadata"].get("managedFields") or ())
    mine = next((m for m in managers if _is_mine(m, manager)), None)
    others = [m for m in managers if m is not mine]
    previous = set(_paths((mine or {}).get("fieldsV1") or {}))
    conflicts = _conflicts(before, patch, owned, others)
    if conflicts and not force:
        raise _conflict(conflicts)
    held = {p for m in others for p in _paths(m.get("fieldsV1") or {})}
    result: Json = copy.deepcopy(before)
    for path in sorted(previous - set(owned) - held, key=len, reverse=True):
        _remove(result, path)
    result = _overlay(result, patch, "", "")
    if force:
        others = [_without(m, set(owned)) for m in others]
    entry = {
        "manager": manager,
        "operation": "Apply",
        "apiVersion": before["apiVersion"],
        "fieldsType": "FieldsV1",
        "fieldsV1": _fields(owned),
    }
    result["metadata"]["managedFields"] = [*(m for m in others if m.get("fieldsV1")), entry]
    if "resourceVersion" not in patch["metadata"]:
        result["metadata"].pop("resourceVersion", None)
    return result


def _is_mine(entry: Json, manager: str) -> bool:
    return bool(entry.get("manager") == manager and entry.get("operation") == "Apply")


def _leaves(value: Any, path: Path = (), field: str = "", parent: str = "") -> Iterator[Path]:
    """The paths an object sets: scalars, atomic lists, and empty containers."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _leaves(item, (*path, name), name, field)
        return
    key = merge_key(field, parent)
    if isinstance(value, list) and key and all(isinstance(i, dict) and key in i for i in value):
        for item in value:
            step = (key, item[key])
            yield (*path, step)
            for name, inner in item.items():
                yield from _leaves(inner, (*path, step, name), name, field)
        return
    if path:
        yield path


def _overlay(base: Any, patch: Any, field: str, parent: str) -> Any:
    if isinstance(patch, dict) and isinstance(base, dict):
        merged = dict(base)
        for name, value in patch.items():
            merged[name] = _overlay(base.get(name), value, name, field)
        return merged
    key = merge_key(field, parent)
    if isinstance(patch, list) and isinstance(base, list) and key:
        if not all(isinstance(i, dict) and key in i for i in patch):
            return patch
        items = {i.get(key): i for i in base if isinstance(i, dict)}
        given = [_overlay(items.get(i[key]), i, field, parent) for i in patch]
        names = {i[key] for i in patch}
        return [*given, *(i for i in base if i.get(key) not in names)]
    return patch


def _get(value: Any, path: Path) -> Any:
    for step in path:
        if isinstance(step, tuple):
            items = value if isinstance(value, list) else ()
            value = next((i for i in items if i.get(step[0]) == step[1]), None)
        else:
            value = value.get(step) if isinstance(value, dict) else None
        if value is None:
            return None
    return value


def _remove(data: Json, path: Path) -> None:
    """Take a field or an item out, and containers that become empty with it."""
    parent = _get(data, path[:-1]) if len(path) > 1 else data
    step = path[-1]
    if isinstance(parent, dict):
        value = parent.get(step)
        if isinstance(value, dict | list) and value and not isinstance(step, tuple):
            return
        parent.pop(step, None)
    elif isinstance(parent, list) and isinstance(step, tuple):
        parent[:] = [i for i in parent if i.get(step[0]) != step[1]]


def _conflicts(
    before: Json, patch: Json, owned: list[Path], others: list[Json]
) -> list[tuple[Path, str]]:
    found = []
    for entry in others:
        theirs = set(_paths(entry.get("fieldsV1") or {}))
        found += [
            (path, str(entry.get("manager")))
            for path in owned
            if path in theirs and _get(before, path) != _get(patch, path)
        ]
    return found


def _conflict(conflicts: list[tuple[Path, str]]) -> StatusError:
    causes = [
        {"reason": "FieldManagerConflict", "field": _text(path),
         "message": f'conflict with "{manager}"'}
        for path, manager in conflicts
    ]  # fmt: skip
    listed = "\n".join(f"- {c['field']}" for c in causes)
    count = f"{len(causes)} conflict{'s' if len(causes) > 1 else ''}"
    message = f'Apply failed with {count}: conflict with "{conflicts[0][1]}":\n{listed}'
    return StatusError(409, "Conflict", message, details={"causes": causes})


def _text(path: Path) -> str:
    return "".join(f'[{s[0]}="{s[1]}"]' if isinstance(s, tuple) else f".{s}" for s in path)


def _fields(paths: list[Path]) -> Json:
    """Paths in the fieldsV1 form: `f:name` for fields, `k:{...}` for keyed items."""
    import json

    tree: Json = {}
    for path in paths:
        node = tree
        for step in path:
            name = f"k:{json.dumps({step[0]: step[1]})}" if isinstance(step, tuple) else f"f:{step}"
            node = node.setdefault(name, {})
        if path and isinstance(path[-1], tuple):
            node.setdefault(".", {})
    return tree


def _paths(tree: Json, path: Path = ()) -> Iterator[Path]:
    import json

    if not tree:
        if path:
            yield path
        return
    for name, inner in tree.items():
        if name == ".":
            yield path
        elif name.startswith("k:"):
            ((key, value),) = json.loads(name[2:]).items()
            yield from _paths(inner, (*path, (key, value)))
        else:
            yield from _paths(inner, (*path, name[2:]))


def _without(entry: Json, owned: set[Path]) -> Json:
    left = sorted((p for p in _paths(entry.get("fieldsV1") or {}) if p not in owned), key=str)
    return {**entry, "fieldsV1": _fields(left)}

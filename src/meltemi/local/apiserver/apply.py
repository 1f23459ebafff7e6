"""Server-side apply: a manager owns the fields it applied, and gives up those it leaves out.

Two managers may not own one field with different values, unless the newer one forces it.
https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from meltemi.local.apiserver.errors import StatusError
from meltemi.local.apiserver.ownership import (
    Fields,
    Held,
    Owner,
    Path,
    item_step,
    leaves,
    read,
)
from meltemi.local.apiserver.schema.node import Node

Json = dict[str, Any]
_BEFORE = "before-first-apply"


class Applied(msgspec.Struct, frozen=True):
    """The merged object, and who owns what in it."""

    data: Json
    owners: Sequence[Held]


def apply(
    node: Node | None, live: Json, wanted: Json, owner: Owner, *, force: bool, now: str
) -> Applied:
    """Merge what an owner wants into what stands. Neither is changed.

    Raises the 409 that names every field somebody else owns with another value.
    """
    held = read(live)
    if not held and leaves(node, live) and "uid" in live.get("metadata", {}):
        held = [_before_first(node, live, now)]
    mine = next((h for h in held if h.owner.is_same(owner)), None)
    others = [h for h in held if h is not mine]
    fields = frozenset(leaves(node, wanted))
    merged = _merged(node, live, wanted)
    conflicts = _conflicts(leaves(node, live), leaves(node, merged), fields, others)
    if conflicts and not force:
        raise _conflict(conflicts)
    lost = {path for _, path in conflicts}
    others = [msgspec.structs.replace(h, fields=h.fields - lost) for h in others]
    gone = mine.fields - fields if mine is not None else frozenset[Path]()
    kept = fields.union(*(h.fields for h in others))
    for path in sorted(gone - kept, key=len):
        if not any(path == other[: len(path)] for other in kept):
            merged = _without(node, merged, path)
    left = leaves(node, merged).keys()
    others = [msgspec.structs.replace(h, fields=h.fields - (gone - left)) for h in others]
    is_new = mine is None or mine.fields != fields or mine.owner != owner
    since = now if is_new or mine is None else mine.time
    return Applied(merged, [*others, Held(owner, fields, since)])


def _before_first(node: Node | None, live: Json, now: str) -> Held:
    """An object that nobody is recorded for belongs to whoever wrote it before."""
    owner = Owner(_BEFORE, "Update", str(live.get("apiVersion", "")))
    return Held(owner, frozenset(leaves(node, live)), now)


def _merged(node: Node | None, live: Any, wanted: Any) -> Any:
    is_atomic = node is not None and node.is_atomic
    if isinstance(wanted, dict) and isinstance(live, dict) and not is_atomic:
        merged = dict(live)
        for name, value in wanted.items():
            child = node.child(name) if node is not None else None
            merged[name] = _merged(child, live.get(name), value)
        return merged
    if isinstance(wanted, list) and isinstance(live, list) and node is not None:
        if node.list_type == "set":
            return [*live, *(v for v in wanted if v not in live)]
        if node.list_type == "map":
            return _merged_items(node, live, wanted)
    return wanted


def _merged_items(node: Node, live: list[Any], wanted: list[Any]) -> list[Any]:
    """Applied items in their order; others keep their place between them."""
    asked = {item_step(node, item): item for item in wanted}
    old = {item_step(node, item): item for item in live}
    others = iter(old)
    result: list[Any] = []

    def take_others(until: str | None) -> None:
        for step in others:
            if step == until:
                return
            if step not in asked:
                result.append(old[step])

    passed: set[str] = set()
    order = list(old)
    for step, item in asked.items():
        if step in old and step not in passed:
            take_others(step)
            passed.update(order[: order.index(step) + 1])
        elif step not in old and not any(s in old and s not in passed for s in asked):
            take_others(None)
        result.append(_merged(node.item, old[step], item) if step in old else item)
    take_others(None)
    return result


def _conflicts(
    before: dict[Path, Any], after: dict[Path, Any], fields: Fields, others: Iterable[Held]
) -> list[tuple[Owner, Path]]:
    changed = {p for p in fields if p in after and before.get(p, ...) != after[p]}
    return [(h.owner, path) for h in others for path in sorted(h.fields & changed)]


def _without(node: Node | None, value: Any, path: Path) -> Any:
    """A copy without one field; containers that are empty without it go as well.

    An item's keys stay as long as the item does.
    """
    step, rest = path[0], path[1:]
    if step.startswith("f:") and isinstance(value, dict):
        name = step[2:]
        if name not in value:
            return value
        copied = dict(value)
        child = node.child(name) if node is not None else None
        inner = _without(child, value[name], rest) if rest else None
        if rest and inner not in ({}, []):
            copied[name] = inner
        elif inner is not None or not rest:
            del copied[name]
        return copied
    if isinstance(value, list) and node is not None:
        kept = []
        for item in value:
            if item_step(node, item) != step:
                kept.append(item)
            elif rest and rest[0][2:] not in node.keys:
                kept.append(_without(node.item, item, rest))
            elif rest:
                kept.append(item)
        return kept
    return value


def _conflict(conflicts: Sequence[tuple[Owner, Path]]) -> StatusError:
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {owner}",
         "field": text(path)}
        for owner, path in conflicts
    ]  # fmt: skip
    if len(conflicts) == 1:
        owner, path = conflicts[0]
        return _failed(f"1 conflict: conflict with {owner}: {text(path)}", causes)
    lines = []
    for owner in dict.fromkeys(owner for owner, _ in conflicts):
        lines.append(f"conflicts with {owner}:")
        lines += [f"- {text(path)}" for other, path in conflicts if other == owner]
    return _failed(f"{len(conflicts)} conflicts: " + "\n".join(lines), causes)


def _failed(what: str, causes: list[Json]) -> StatusError:
    return StatusError(409, "Conflict", f"Apply failed with {what}", details={"causes": causes})


def text(path: Path) -> str:
    """A path as people read it: `.spec.containers[name="app"].image`."""
    words = []
    for step in path:
        form, _, rest = step.partition(":")
        if form == "f":
            words.append(f".{rest}")
        elif form == "k":
            keys = json.loads(rest)
            words.append("[" + ",".join(f"{k}={json.dumps(v)}" for k, v in keys.items()) + "]")
        else:
            words.append(f"[={rest}]")
    return "".join(words)

"""Who owns which fields: `metadata.managedFields`, and sets of fields in the fieldsV1 form.

A field is a path of steps as fieldsV1 writes them: `f:NAME` for a field or a map's key, `k:{...}`
for an item of a list that is keyed, `v:...` for a value in a set. Sets of fields hold leaves, and
besides them the items of keyed lists and the entries of maps.
https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from meltemi.local.apiserver.schema.node import Node

Json = dict[str, Any]
Path = tuple[str, ...]
Fields = frozenset[Path]
_OWN_META = (
    "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp",
    "managedFields", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds",
)  # fmt: skip
_IDENTITY: Fields = frozenset(
    [
        ("f:apiVersion",),
        ("f:kind",),
        ("f:metadata",),
        *(("f:metadata", f"f:{n}") for n in _OWN_META),
    ]
)
_MOST_UPDATERS = 10


def leaves(node: Node | None, data: Json) -> dict[Path, Any]:
    """The fields of an object that can be owned, with their values."""
    found: dict[Path, Any] = {}
    for name, value in data.items():
        path: Path = (f"f:{name}",)
        if path in _IDENTITY and name != "metadata":
            continue
        child = node.child(name) if node is not None else None
        _collect(child, value, path, found)
    for own in [p for p in found if p[:2] in _IDENTITY or p in _IDENTITY]:
        del found[own]
    return found


def _collect(node: Node | None, value: Any, path: Path, found: dict[Path, Any]) -> None:
    if isinstance(value, dict) and value and not (node is not None and node.is_atomic):
        for name, inner in value.items():
            step = (*path, f"f:{name}")
            child = node.child(name) if node is not None else None
            _collect(child, inner, step, found)
            if node is not None and node.word == "map" and step not in found:
                found[step] = True
    elif isinstance(value, list) and node is not None and node.list_type != "atomic":
        for item in value:
            step = (*path, item_step(node, item))
            if node.list_type == "map":
                _collect(node.item, item, step, found)
            found[step] = True
    else:
        found[path] = value


def item_step(node: Node, item: Any) -> str:
    """The step to an item of a keyed list or a set."""
    if node.list_type == "set" or not isinstance(item, dict):
        return "v:" + json.dumps(item, separators=(",", ":"))
    keys = {}
    for name in node.keys:
        value = item.get(name)
        if value is None and node.item is not None and name in node.item.fields:
            default = node.item.fields[name].default
            value = None if default is msgspec.UNSET else default
        if value is not None:
            keys[name] = value
    return "k:" + json.dumps(keys, separators=(",", ":"), sort_keys=True)


def tree(fields: Iterable[Path]) -> Json:
    """A set of fields in the fieldsV1 form."""
    root: Json = {}
    inner: set[Path] = set()
    listed = sorted(fields)
    for path in listed:
        place = root
        for step in path:
            place = place.setdefault(step, {})
        inner.update(path[:i] for i in range(1, len(path)))
    for path in listed:
        if path in inner:
            place = root
            for step in path:
                place = place[step]
            place["."] = {}
    return root


def fields(form: Any) -> Fields:
    """The set of fields that a fieldsV1 tree says."""
    return frozenset(_walk(form, ())) if isinstance(form, dict) else frozenset()


def _walk(form: Json, path: Path) -> Iterator[Path]:
    for step, inner in form.items():
        if step == ".":
            yield path
        elif isinstance(inner, dict) and inner:
            yield from _walk(inner, (*path, step))
        else:
            yield (*path, step)


class Owner(msgspec.Struct, frozen=True):
    """One entry of managedFields, apart from its fields."""

    manager: str
    operation: str
    api_version: str
    subresource: str = ""

    def is_same(self, other: "Owner") -> bool:
        """Appliers keep their fields across versions."""
        same = (self.manager, self.operation, self.subresource) == (
            other.manager, other.operation, other.subresource,
        )  # fmt: skip
        return same and (self.operation == "Apply" or self.api_version == other.api_version)

    def __str__(self) -> str:
        text = f'"{self.manager}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        return f"{text} using {self.api_version}"


class Held(msgspec.Struct, frozen=True):
    """What one owner holds, and since when."""

    owner: Owner
    fields: Fields
    time: str = ""


def read(data: Json) -> list[Held]:
    """The owners of an object."""
    found = []
    for entry in data.get("metadata", {}).get("managedFields") or ():
        owner = Owner(
            str(entry.get("manager", "")),
            str(entry.get("operation", "")),
            str(entry.get("apiVersion", "")),
            str(entry.get("subresource") or ""),
        )
        held = Held(owner, fields(entry.get("fieldsV1")), str(entry.get("time") or ""))
        if held.fields:
            found.append(held)
    return found


def write(owners: Iterable[Held]) -> list[Json]:
    """managedFields, as an object carries them: appliers first, then by age."""
    listed = [held for held in owners if held.fields]
    listed.sort(key=lambda h: (h.owner.operation != "Apply", h.time, h.owner.manager))
    return [_entry(held) for held in _capped(listed)]


def _entry(held: Held) -> Json:
    entry = {
        "manager": held.owner.manager,
        "operation": held.owner.operation,
        "apiVersion": held.owner.api_version,
        "time": held.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": tree(held.fields),
    }
    if held.owner.subresource:
        entry["subresource"] = held.owner.subresource
    return entry


def _capped(listed: list[Held]) -> list[Held]:
    """Many updaters would make objects grow for ever: the oldest become one."""
    updaters = [h for h in listed if h.owner.operation == "Update"]
    if len(updaters) <= _MOST_UPDATERS:
        return listed
    old = updaters[: len(updaters) - _MOST_UPDATERS + 1]
    merged = Held(
        Owner("ancient-changes", "Update", old[0].owner.api_version),
        frozenset().union(*(h.fields for h in old)),
        old[-1].time,
    )
    return [*(h for h in listed if h.owner.operation != "Update"), merged, *updaters[len(old) :]]


def updated(node: Node | None, before: Json, after: Json, owner: Owner, now: str) -> list[Held]:
    """Owners after an ordinary write: who changes a field takes it from whoever had it.

    `before` is empty when the object is new.
    """
    old, new = leaves(node, before), leaves(node, after)
    changed = {p for p, v in new.items() if p not in old or old[p] != v}
    removed = old.keys() - new.keys()
    result, mine = [], frozenset[Path]()
    for held in read(before):
        if held.owner.is_same(owner):
            mine = held.fields
            result.append(msgspec.structs.replace(held, fields=held.fields - removed))
        else:
            result.append(msgspec.structs.replace(held, fields=held.fields - changed - removed))
    if not changed - mine and not (changed and mine):
        return result
    others = [h for h in result if not h.owner.is_same(owner)]
    return [*others, Held(owner, (mine - removed) | changed, now)]

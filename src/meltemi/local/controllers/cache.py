"""What the controllers know: objects by kind, with the indexes they need.

Answers to our own writes are put in at once, so that a controller never acts twice because the
watch has not shown yet what it did itself.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import JsonObject
from meltemi.kube.informer import Event

Changed = Callable[[ObjectKey, JsonObject], None]


class Cache:
    """Objects of the kinds that were subscribed to."""

    def __init__(self, changed: Changed) -> None:
        """`changed` is called with the key and the object, the last known one when it is gone."""
        self._changed = changed
        self._objects: dict[ObjectKey, JsonObject] = {}
        self._by_namespace: dict[tuple[str, str], set[ObjectKey]] = defaultdict(set)
        self._by_owner: dict[str, set[ObjectKey]] = defaultdict(set)
        self._leaving: set[str] = set()

    def get(self, key: ObjectKey) -> JsonObject | None:
        return self._objects.get(key)

    def list(self, kind: str, namespace: str) -> Sequence[JsonObject]:
        """All of a kind in a namespace, oldest first."""
        return self._sorted(self._by_namespace[kind, namespace])

    def every(self, kind: str) -> Sequence[JsonObject]:
        return self._sorted(key for key in self._objects if key.kind == kind)

    def owned(self, owner: JsonObject, kind: str) -> Sequence[JsonObject]:
        """Objects whose controller is `owner`, oldest first, without those being deleted by us."""
        keys = self._by_owner.get(owner["metadata"]["uid"], ())
        return self._sorted(key for key in keys if key.kind == kind)

    def _sorted(self, keys: Iterable[ObjectKey]) -> Sequence[JsonObject]:
        found = [self._objects[key] for key in keys]
        found = [o for o in found if o["metadata"]["uid"] not in self._leaving]
        return sorted(
            found,
            key=lambda o: (o["metadata"].get("creationTimestamp", ""), o["metadata"]["name"]),
        )

    def deliver(self, events: Sequence[Event]) -> None:
        """Take a batch from an informer."""
        for event in events:
            if event.raw is None:
                self._remove(event.key)
            else:
                self.observe(msgspec.json.decode(event.raw), kind=event.key.kind)

    def observe(self, data: JsonObject, *, kind: str = "") -> None:
        """Take an object, from a watch or from the answer to a write; an older one is ignored."""
        meta = data["metadata"]
        key = ObjectKey(kind or data["kind"], meta.get("namespace", ""), meta["name"])
        before = self._objects.get(key)
        if before is not None and _version(before) >= _version(data):
            return
        if before is not None and _owner(before) != _owner(data):
            self._unindex(key, before)
        self._objects[key] = data
        self._by_namespace[key.kind, key.namespace].add(key)
        owner = _owner(data)
        if owner:
            self._by_owner[owner].add(key)
        self._changed(key, data)

    def leaving(self, data: JsonObject) -> None:
        """We deleted this object: it no longer counts, though the watch may still show it."""
        self._leaving.add(data["metadata"]["uid"])

    def _remove(self, key: ObjectKey) -> None:
        before = self._objects.pop(key, None)
        if before is None:
            return
        self._unindex(key, before)
        self._leaving.discard(before["metadata"]["uid"])
        self._changed(key, before)

    def _unindex(self, key: ObjectKey, before: JsonObject) -> None:
        self._by_namespace[key.kind, key.namespace].discard(key)
        owner = _owner(before)
        if owner:
            self._by_owner[owner].discard(key)


def _version(data: JsonObject) -> int:
    return int(data["metadata"].get("resourceVersion", "0"))


def _owner(data: JsonObject) -> str:
    """The uid of the controller of an object."""
    owner = controller_of(data)
    return str(owner["uid"]) if owner is not None else ""


def controller_of(data: JsonObject) -> JsonObject | None:
    """The owner reference that controls an object."""
    owners = data["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)


def owner_reference(owner: JsonObject, api_version: str, kind: str) -> JsonObject:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }

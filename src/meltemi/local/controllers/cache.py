"""What the controllers know: objects by kind, with the indexes they need.

Answers to our own writes are put in at once, so that a controller never acts twice because the
watch has not shown yet what it did itself. What we deleted stays, marked as leaving, until the
watch takes it out: its name is not free before.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import JsonObject
from meltemi.kube.informer import Event

Changed = Callable[[ObjectKey, JsonObject | None, JsonObject | None], None]
"""Called with the key, the object before (None: it is new) and after (None: it is gone)."""

_MOST_REMEMBERED = 4096
K = TypeVar("K")


class Cache:
    """Objects of the kinds that were subscribed to."""

    def __init__(self, changed: Changed) -> None:
        self._changed = changed
        self._objects: dict[ObjectKey, JsonObject] = {}
        self._by_namespace: dict[tuple[str, str], set[ObjectKey]] = defaultdict(set)
        self._by_owner: dict[str, set[ObjectKey]] = defaultdict(set)
        self._watched: dict[ObjectKey, str] = {}
        """The uid that the watch showed last; a deletion it reports is that one's."""
        self._gone: dict[str, None] = {}
        """Uids that ended, oldest first: a late answer must not bring them back."""

    def get(self, key: ObjectKey) -> JsonObject | None:
        return self._objects.get(key)

    def list(self, kind: str, namespace: str) -> Sequence[JsonObject]:
        """All of a kind in a namespace, oldest first."""
        return self._sorted(self._by_namespace.get((kind, namespace), ()))

    def every(self, kind: str) -> Sequence[JsonObject]:
        return self._sorted(key for key in self._objects if key.kind == kind)

    def owned(self, owner: JsonObject, kind: str) -> Sequence[JsonObject]:
        """Objects whose controller is `owner`, oldest first, those that are leaving included."""
        keys = self._by_owner.get(owner["metadata"]["uid"], ())
        return self._sorted(key for key in keys if key.kind == kind)

    def _sorted(self, keys: Iterable[ObjectKey]) -> Sequence[JsonObject]:
        return sorted(
            (self._objects[key] for key in keys),
            key=lambda o: (o["metadata"].get("creationTimestamp", ""), o["metadata"]["name"]),
        )

    def deliver(self, events: Sequence[Event]) -> None:
        """Take a batch from an informer."""
        for event in events:
            if event.raw is None:
                self._end(event.key)
            else:
                data: JsonObject = msgspec.json.decode(event.raw)
                self._watched[event.key] = data["metadata"]["uid"]
                self._put(event.key, data)

    def observe(self, data: JsonObject) -> None:
        """Take the answer to a write; one that is older than what is known is ignored."""
        meta = data["metadata"]
        self._put(ObjectKey(data["kind"], meta.get("namespace", ""), meta["name"]), data)

    def leaving(self, key: ObjectKey, uid: str, *, now: str) -> None:
        """We deleted this object and it ends at once; until the watch says so, it is leaving."""
        before = self._objects.get(key)
        if before is None or before["metadata"]["uid"] != uid or is_leaving(before):
            return
        after = {**before, "metadata": {**before["metadata"], "deletionTimestamp": now}}
        self._objects[key] = after
        self._changed(key, before, after)

    def _put(self, key: ObjectKey, data: JsonObject) -> None:
        before = self._objects.get(key)
        if data["metadata"]["uid"] in self._gone:
            return
        if before is not None and _version(before) >= _version(data):
            return
        if before is not None:
            self._unindex(key, before)
        self._objects[key] = data
        self._by_namespace[key.kind, key.namespace].add(key)
        owner = _owner(data)
        if owner:
            self._by_owner[owner].add(key)
        self._changed(key, before, data)

    def _end(self, key: ObjectKey) -> None:
        ended = self._watched.pop(key, "")
        self._gone[ended] = None
        while len(self._gone) > _MOST_REMEMBERED:
            self._gone.pop(next(iter(self._gone)))
        before = self._objects.get(key)
        if before is None or before["metadata"]["uid"] != ended:
            return
        del self._objects[key]
        self._unindex(key, before)
        self._changed(key, before, None)

    def _unindex(self, key: ObjectKey, before: JsonObject) -> None:
        _discard(self._by_namespace, (key.kind, key.namespace), key)
        owner = _owner(before)
        if owner:
            _discard(self._by_owner, owner, key)


def _discard(index: dict[K, set[ObjectKey]], name: K, key: ObjectKey) -> None:
    index[name].discard(key)
    if not index[name]:
        del index[name]


def is_leaving(data: JsonObject) -> bool:
    return "deletionTimestamp" in data["metadata"]


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

"""Who owns whom: an index of owner references over everything that is stored."""

from meltemi.local.apiserver.store import Change, Entry, Resource, Store

_Place = tuple[Resource, str, str]


class Owned:
    """Follows the store's changes, so that no question has to look at every object."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._places: dict[str, _Place] = {}
        self._dependents: dict[str, set[_Place]] = {}

    def note(self, resource: Resource, change: Change) -> None:
        if change.before is not None:
            self._forget(resource, change.before)
        if not change.deleted:
            self.learn(resource, change.entry)

    def learn(self, resource: Resource, entry: Entry) -> None:
        meta, place = entry.data["metadata"], (resource, entry.namespace, entry.name)
        self._places[meta["uid"]] = place
        for owner in meta.get("ownerReferences") or ():
            self._dependents.setdefault(owner.get("uid", ""), set()).add(place)

    def _forget(self, resource: Resource, entry: Entry) -> None:
        meta, place = entry.data["metadata"], (resource, entry.namespace, entry.name)
        self._places.pop(meta["uid"], None)
        for owner in meta.get("ownerReferences") or ():
            known = self._dependents.get(owner.get("uid", ""))
            if known is not None:
                known.discard(place)
                if not known:
                    del self._dependents[owner["uid"]]

    def exists(self, uid: str) -> bool:
        return uid in self._places

    def find(self, uid: str) -> tuple[Resource, Entry] | None:
        place = self._places.get(uid)
        entry = self._store.get(*place) if place is not None else None
        return (place[0], entry) if place is not None and entry is not None else None

    def dependents(self, uid: str) -> list[tuple[Resource, Entry]]:
        """Objects that name an owner, in a stable order."""
        found = [(p[0], self._store.get(*p)) for p in sorted(self._dependents.get(uid, ()))]
        return [(resource, entry) for resource, entry in found if entry is not None]

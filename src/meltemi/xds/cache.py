"""Sets of resources, the views that list them, and the sessions that hear of changes.

A change costs what it touches: the sessions that see a changed set, and the names in it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from meltemi.base.resource import Change, ProxyView, Resource, SetKey
from meltemi.xds.messages import Responses, Wrapped


class Listener(Protocol):
    """A session, as far as the cache knows it."""

    @property
    def node_id(self) -> str: ...

    def mark(self, type_url: str, name: str, revision: int) -> None:
        """Something under this name changed in a set the proxy sees."""
        ...

    def mark_all(self, revision: int) -> None:
        """The proxy sees other sets now."""
        ...

    def wake(self) -> None:
        """All marks of one change are made."""
        ...


_NOBODY: frozenset[Listener] = frozenset()
_LARGE = 100
"""Resources of a set that scopes share, and not of one proxy's own."""
_NOTHING: Mapping[str, Wrapped] = {}
_NO_VERSIONS: Mapping[str, str] = {}


class Cache:
    """The world as proxies may see it."""

    def __init__(self) -> None:
        self.revision = 0
        self.responses = Responses()
        self._sets: dict[SetKey, dict[str, Wrapped]] = {}
        self._versions: dict[SetKey, dict[str, str]] = {}
        self._views: dict[str, ProxyView] = {}
        self._places: dict[tuple[str, str], tuple[SetKey, ...]] = {}
        """A node's sets of one type."""
        self._listeners: dict[str, set[Listener]] = defaultdict(set)
        self._watching: dict[SetKey, set[Listener]] = defaultdict(set)

    def apply(self, change: Change) -> None:
        """Take one propagation's change, then wake whom it concerns.

        A session whose view changes compares all it has with the world as it is then.
        """
        self.revision = change.revision
        for key, resources in change.resources.items():
            self._update(key, resources)
        moved: set[Listener] = set()
        for node, view in change.views.items():
            moved |= self._set_view(node, view, change.revision)
        touched = set(moved)
        for key, resources in change.resources.items():
            for listener in self._watching.get(key, _NOBODY) - moved:
                for name in resources:
                    listener.mark(key.type_url, name, change.revision)
                touched.add(listener)
        for listener in touched:
            listener.wake()

    def _update(self, key: SetKey, resources: Mapping[str, Resource | None]) -> None:
        held = self._sets.setdefault(key, {})
        versions = self._versions.setdefault(key, {})
        for name, resource in resources.items():
            if resource is None:
                held.pop(name, None)
                versions.pop(name, None)
            else:
                held[name] = Wrapped(resource, held.get(name))
                versions[name] = resource.version
        if not held:
            del self._sets[key], self._versions[key]

    def _set_view(self, node: str, view: ProxyView | None, revision: int) -> set[Listener]:
        listeners = set(self._listeners.get(node, ()))
        for listener in listeners:
            self._unwatch(listener)
        before = self._views.pop(node, None)
        for key in before.sets if before else ():
            self._places.pop((node, key.type_url), None)
        if view is not None:
            self._views[node] = view
            for key in view.sets:
                place = (node, key.type_url)
                self._places[place] = (*self._places.get(place, ()), key)
        for listener in listeners:
            self._watch(listener)
            listener.mark_all(revision)
        return listeners

    def open(self, listener: Listener) -> None:
        """A session begins; it asks for what it sees by itself."""
        self._listeners[listener.node_id].add(listener)
        self._watch(listener)

    def close(self, listener: Listener) -> None:
        self._unwatch(listener)
        listeners = self._listeners[listener.node_id]
        listeners.discard(listener)
        if not listeners:
            del self._listeners[listener.node_id]

    def _watch(self, listener: Listener) -> None:
        view = self._views.get(listener.node_id)
        for key in view.sets if view else ():
            self._watching[key].add(listener)

    def _unwatch(self, listener: Listener) -> None:
        view = self._views.get(listener.node_id)
        for key in view.sets if view else ():
            self._watching[key].discard(listener)
            if not self._watching[key]:
                del self._watching[key]

    def is_known(self, node: str) -> bool:
        """Whether the compiler has said what a proxy sees."""
        return node in self._views

    def get(self, node: str, type_url: str, name: str) -> Wrapped | None:
        """A resource as a proxy sees it."""
        for key in self._places.get((node, type_url), ()):
            found = self._sets.get(key, _NOTHING).get(name)
            if found is not None:
                return found
        return None

    def versions(self, node: str, type_url: str) -> Iterator[Mapping[str, str]]:
        """The versions by name of each set of a type that a proxy sees."""
        for key in self._places.get((node, type_url), ()):
            yield self._versions.get(key, _NO_VERSIONS)

    def likely(self, node: str, type_url: str) -> Iterator[Mapping[str, str]]:
        """`versions`, or the large sets of that type while it is not known what a proxy sees."""
        if self.is_known(node):
            yield from self.versions(node, type_url)
            return
        for key, versions in self._versions.items():
            if key.type_url == type_url and len(versions) >= _LARGE:
                yield versions

    def several(self, node: str, type_url: str, names: Iterable[str]) -> dict[str, Wrapped]:
        """What there is of these names, as a proxy sees it, in their order."""
        found: dict[str, Wrapped] = {}
        for key in self._places.get((node, type_url), ()):
            found = {**self._sets.get(key, _NOTHING), **found}
        return {name: found[name] for name in names if name in found}

    def resources(self, node: str, type_url: str) -> Iterator[tuple[str, Wrapped]]:
        """Every resource of a type that a proxy sees, by name."""
        for key in self._places.get((node, type_url), ()):
            yield from self._sets.get(key, _NOTHING).items()

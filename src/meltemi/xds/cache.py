"""Sets of resources, the views that list them, and the sessions that hear of changes.

A change costs what it touches: the sessions that see a changed set, and the names in it.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol
from weakref import WeakValueDictionary

from meltemi.base.resource import Change, ProxyView, Resource, SetKey
from meltemi.xds.messages import Responses, Wrapped, entry


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


class Held:
    """A set's resources by name, and what proxies say of all of them at once."""

    __slots__ = ("_entries", "_names", "_wrap", "resources", "versions")

    def __init__(self, wrap: Callable[[Resource, Wrapped | None], Wrapped]) -> None:
        self._wrap = wrap
        self.resources: dict[str, Wrapped] = {}
        self.versions: dict[str, str] = {}
        self._names: frozenset[str] | None = None
        self._entries: frozenset[bytes] | None = None

    def put(self, name: str, resource: Resource | None) -> None:
        """Replace a resource, or take it away."""
        before = self.resources.get(name)
        self._entries = None
        if (before is None) != (resource is None):
            self._names = None
        if resource is None:
            self.resources.pop(name, None)
            self.versions.pop(name, None)
        else:
            self.resources[name] = self._wrap(resource, before)
            self.versions[name] = resource.version

    @property
    def names(self) -> frozenset[str]:
        if self._names is None:
            self._names = frozenset(self.versions)
        return self._names

    @property
    def entries(self) -> frozenset[bytes]:
        """The versions as a proxy says them that comes again."""
        if self._entries is None:
            self._entries = frozenset(map(entry, self.versions, self.versions.values()))
        return self._entries


class Cache:
    """The world as proxies may see it."""

    def __init__(self) -> None:
        self.revision = 0
        self.responses = Responses()
        self._sets: dict[SetKey, Held] = {}
        self._wraps: WeakValueDictionary[int, Wrapped] = WeakValueDictionary()
        """By the identity of what they wrap."""
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
        held = self._sets.setdefault(key, Held(self._wrapped))
        for name, resource in resources.items():
            held.put(name, resource)
        if not held.resources:
            del self._sets[key]

    def _wrapped(self, resource: Resource, before: Wrapped | None) -> Wrapped:
        """Many sets hold the very same resource, and share what is prepared of it."""
        found = self._wraps.get(id(resource))
        if found is None:
            found = self._wraps[id(resource)] = Wrapped(resource, before)
        return found

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
            held = self._sets.get(key)
            found = held.resources.get(name) if held is not None else None
            if found is not None:
                return found
        return None

    def sets(self, node: str, type_url: str) -> Iterator[Held]:
        """The sets of a type that a proxy sees."""
        for key in self._places.get((node, type_url), ()):
            held = self._sets.get(key)
            if held is not None:
                yield held

    def shared(self, node: str, type_url: str, names: frozenset[str]) -> frozenset[str]:
        """The same names, as the cache has them: thousands of proxies then share the strings, and
        the whole of them if it is a set's."""
        for held in self.sets(node, type_url):
            if held.names == names:
                return held.names
        return frozenset(map(sys.intern, names))

    def several(self, node: str, type_url: str, names: Mapping[str, int]) -> dict[str, Wrapped]:
        """What there is of these names, as a proxy sees it."""
        found: dict[str, Wrapped] = {}
        for held in self.sets(node, type_url):
            if held.versions.keys() <= names.keys():
                found.update(held.resources)
            else:
                found.update((n, w) for n, w in held.resources.items() if n in names)
        return found

    def resources(self, node: str, type_url: str) -> Iterator[tuple[str, Wrapped]]:
        """Every resource of a type that a proxy sees, by name."""
        for held in self.sets(node, type_url):
            yield from held.resources.items()

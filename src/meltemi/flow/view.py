"""Views: values by key, with indexes, and a record of who read what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_MISSING: Any = object()
_KEY = "key"
_ALL = "all"


class Index(Generic[V]):
    """A named way to look values up by something they contain; create once, pass to `View.by`."""

    __slots__ = ("extract", "name")

    def __init__(self, name: str, extract: Callable[[V], Iterable[Hashable]]) -> None:
        self.name = name
        self.extract = extract

    def __repr__(self) -> str:
        return f"Index({self.name})"


class Reader:
    """One input key of one derived view, marked dirty when something it read changes."""

    __slots__ = ("dirty", "key")

    def __init__(self, dirty: set[Hashable], key: Hashable) -> None:
        self.dirty = dirty
        self.key = key


class View(Generic[K, V]):
    """A read-only keyed collection at the graph's current revision."""

    def __init__(self, name: str, rank: int, indexes: Sequence[Index[V]] = ()) -> None:
        self.name = name
        self.rank = rank
        self.changed: set[K] = set()
        """Keys whose value changed since the graph last handed its changes out."""
        self._values: dict[K, V] = {}
        self._tables: dict[Index[V], dict[Hashable, set[K]]] = {
            index: defaultdict(set) for index in indexes
        }
        self._readers: dict[object, dict[Hashable, set[Reader]]] = {}
        """By what was read: under _KEY by key, under _ALL for all, under an Index by value."""
        self._followers: list[set[K]] = []

    def __repr__(self) -> str:
        return f"View({self.name}, {len(self._values)})"

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[K]:
        return iter(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def get(self, key: K) -> V | None:
        return self._values.get(key)

    def items(self) -> Mapping[K, V]:
        return self._values

    def by(self, index: Index[V], value: Hashable) -> Sequence[V]:
        """Values that the index files under `value`, ordered by key."""
        keys = self._tables[index].get(value)
        if not keys:
            return ()
        ordered = sorted(cast(Any, keys)) if len(keys) > 1 else keys
        return [self._values[key] for key in ordered]

    def values(self) -> Sequence[V]:
        """All values, ordered by key."""
        return [self._values[key] for key in sorted(cast(Any, self._values))]

    def _follow(self, dirty: set[K]) -> None:
        """Every changed key of this view goes into `dirty` too: how a primary drives a view."""
        self._followers.append(dirty)

    def _read(self, kind: object, value: Hashable, reader: Reader) -> None:
        table = self._readers.get(kind)
        if table is None:
            table = self._readers[kind] = {}
        readers = table.get(value)
        if readers is None:
            table[value] = {reader}
        else:
            readers.add(reader)

    def _unread(self, kind: object, value: Hashable, reader: Reader) -> None:
        table = self._readers.get(kind, {})
        readers = table.get(value)
        if readers is not None:
            readers.discard(reader)
            if not readers:
                del table[value]

    def _wake(self, kind: object, value: Hashable) -> None:
        table = self._readers.get(kind)
        for reader in table.get(value, ()) if table else ():
            reader.dirty.add(reader.key)

    def _put(self, key: K, new: V) -> None:
        """Store a value, or `_MISSING` to remove it; an equal value changes nothing."""
        old = self._values.get(key, _MISSING)
        if old is new or (old is not _MISSING and new is not _MISSING and old == new):
            return
        for index, table in self._tables.items():
            self._refile(index, table, key, old, new)
        if new is _MISSING:
            del self._values[key]
        else:
            self._values[key] = new
        self.changed.add(key)
        for follower in self._followers:
            follower.add(key)
        self._wake(_KEY, key)
        self._wake(_ALL, None)

    def _refile(
        self, index: Index[V], table: dict[Hashable, set[K]], key: K, old: V, new: V
    ) -> None:
        after = set(index.extract(new)) if new is not _MISSING else set()
        for value in set(index.extract(old)) if old is not _MISSING else ():
            if value in after:
                after.discard(value)
            else:
                table[value].discard(key)
                if not table[value]:
                    del table[value]
            self._wake(index, value)
        for value in after:
            table[value].add(key)
            self._wake(index, value)


class Source(View[K, V]):
    """A collection written from outside the graph."""

    def __init__(self, name: str, indexes: Sequence[Index[V]] = ()) -> None:
        super().__init__(name, 0, indexes)

    def set(self, key: K, value: V) -> None:
        self._put(key, value)

    def drop(self, key: K) -> None:
        self._put(key, _MISSING)

"""The graph: derived views refreshed in rank order, problems kept beside their values."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Outcome, Problem, Severity
from meltemi.flow.view import _ALL, _KEY, _MISSING, Index, Reader, Source, View

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
K2 = TypeVar("K2", bound=Hashable)
V2 = TypeVar("V2")

__all__ = [
    "Derived",
    "Distinct",
    "Fetch",
    "Graph",
    "GraphMismatch",
    "Index",
    "Source",
    "Transform",
    "Union",
    "View",
]


Mark = tuple[View[Any, Any], object, Hashable]
"""What was read: a view, and (_KEY, key), (_ALL, None) or (Index, value) of it."""


class GraphMismatch(AssertionError):
    """`verify()` found a view that differs from one built from scratch: a bug in a transform."""


class Fetch:
    """The only way a transform reads other views; records each read as a dependency."""

    __slots__ = ("_marks", "_name", "_rank", "_reader")

    def __init__(self, name: str, rank: int, reader: Reader | None) -> None:
        self._name = name
        self._rank = rank
        self._reader = reader
        self._marks: list[Mark] = []

    @classmethod
    def unrecorded(cls) -> Fetch:
        """For a question from outside the graph: what a transform would answer now."""
        return cls("a question", 0, None)

    def get(self, view: View[K, V], key: K) -> V | None:
        self._note(view, _KEY, key)
        return view.get(key)

    def by(self, view: View[K, V], index: Index[V], value: Hashable) -> Sequence[V]:
        """Values filed under `value`, ordered by key."""
        self._note(view, index, value)
        return view.by(index, value)

    def all(self, view: View[K, V]) -> Sequence[V]:
        """Every value, ordered by key. Any change of the view wakes the reader: use sparingly."""
        self._note(view, _ALL, None)
        return view.values()

    def _note(self, view: View[Any, Any], kind: object, value: Hashable) -> None:
        if self._reader is None:
            return
        if view.rank >= self._rank:
            raise TypeError(f"{self._name} reads {view.name}, which it did not declare in `reads`")
        view._read(kind, value, self._reader)
        self._marks.append((view, kind, value))


Transform = Callable[[Fetch, K, V], Mapping[K2, Outcome[V2]]]
"""(fetch, key, value) -> outputs by key. `Outcome(None, problems)` keeps the last good value."""


class _Run(Reader, Generic[K2]):
    """What the last run for one input key read, produced and complained about."""

    __slots__ = ("held", "keys", "marks", "problems")

    def __init__(self, dirty: set[Hashable], key: Hashable) -> None:
        super().__init__(dirty, key)
        self.marks: tuple[Mark, ...] = ()
        self.keys: Collection[K2] = ()
        self.held: Collection[K2] = ()
        self.problems: tuple[Problem, ...] = ()


_FEW = 4
"""Output keys of a run that are looked through one by one: a set takes more memory than they."""


class Derived(View[K2, V2], Generic[K, V, K2, V2]):
    """A view computed from a primary view. Two inputs must not produce the same output key."""

    def __init__(
        self,
        name: str,
        primary: View[K, V],
        transform: Transform[K, V, K2, V2],
        *,
        reads: Sequence[View[Any, Any]],
        indexes: Sequence[Index[V2]],
    ) -> None:
        super().__init__(name, 1 + max(v.rank for v in (primary, *reads)), indexes)
        self.primary = primary
        self.reads = tuple(reads)
        self.transform = transform
        self.runs = 0
        """How many times the transform ran: tests count it."""
        self._dirty: set[K] = set(primary)
        self._runs: dict[K, _Run[K2]] = {}
        primary._follow(self._dirty)

    def problems(self) -> Sequence[Problem]:
        return [p for run in self._runs.values() for p in run.problems]

    def refresh(self) -> None:
        """Run the transform for every dirty input, then apply all removals, then all values."""
        if not self._dirty:
            return
        keys = list(self._dirty)
        self._dirty.clear()
        produced: dict[K2, V2] = {}
        stale: set[K2] = set()
        for key in keys:
            stale.update(self._rerun(key, produced))
        for gone in stale - produced.keys():
            self._put(gone, _MISSING)
        for out_key, value in produced.items():
            self._put(out_key, value)

    def _rerun(self, key: K, produced: dict[K2, V2]) -> Collection[K2]:
        """Recompute one input into `produced`; answers the output keys it no longer makes."""
        run = self._runs.get(key)
        for view, kind, value in run.marks if run is not None else ():
            view._unread(kind, value, cast("Reader", run))
        given = self.primary.get(key)
        if given is None:
            if run is None:
                return ()
            del self._runs[key]
            return run.keys
        if run is None:
            run = self._runs[key] = _Run(cast("set[Hashable]", self._dirty), key)
        fetch = Fetch(self.name, self.rank, run)
        self.runs += 1
        before = run.keys
        try:
            outcomes = self.transform(fetch, key, given)
        except Exception as error:
            run.problems = (_internal(self.name, key, error),)
            run.held = before
        else:
            self._collect(run, outcomes, produced)
        run.marks = tuple(fetch._marks)
        return [gone for gone in before if gone not in run.keys]

    def _collect(
        self, run: _Run[K2], outcomes: Mapping[K2, Outcome[V2]], produced: dict[K2, V2]
    ) -> None:
        keys: list[K2] = []
        held: list[K2] = []
        problems: list[Problem] = []
        for out_key, outcome in outcomes.items():
            if outcome.problems:
                problems.extend(outcome.problems)
            if outcome.value is not None:
                if out_key in produced:
                    raise GraphMismatch(f"{self.name}: two inputs produce {out_key!r}")
                produced[out_key] = outcome.value
                keys.append(out_key)
            elif out_key in run.keys:
                keys.append(out_key)
                held.append(out_key)
        run.keys = tuple(keys) if len(keys) <= _FEW else frozenset(keys)
        run.held = tuple(held)
        run.problems = tuple(problems)

    def held(self) -> set[K2]:
        """Output keys that keep an older value because the newest input was bad."""
        return {key for run in self._runs.values() for key in run.held}


class Distinct(View[V, V], Generic[K, V]):
    """The different values of a view, or of a part of each, every one under itself; `members`
    tells whose value it is."""

    def __init__(
        self,
        name: str,
        primary: View[K, Any],
        indexes: Sequence[Index[V]],
        of: Callable[[Any], V] | None,
    ) -> None:
        super().__init__(name, primary.rank + 1, indexes)
        self.primary = primary
        self._of = of
        self._dirty: set[K] = set(primary)
        self._held: dict[K, V] = {}
        self._members: dict[V, set[K]] = {}
        primary._follow(self._dirty)

    def members(self, value: V) -> frozenset[K]:
        return frozenset(self._members.get(value, ()))

    def refresh(self) -> None:
        for key in self._dirty:
            old, new = self._held.pop(key, None), self.primary.get(key)
            if new is not None and self._of is not None:
                new = self._of(new)
            if old is not None:
                self._members[old].discard(key)
            if new is not None:
                self._held[key] = new
                members = self._members.get(new)
                if members is None:
                    members = self._members[new] = set()
                    self._put(new, new)
                members.add(key)
            if old is not None and not self._members[old]:
                del self._members[old]
                self._put(old, _MISSING)
        self._dirty.clear()


class Selected(View[K, V]):
    """Those values of a view that are wanted: what follows runs for no others."""

    def __init__(self, name: str, primary: View[K, V], keep: Callable[[K, V], bool]) -> None:
        super().__init__(name, primary.rank + 1)
        self._primary = primary
        self._keep = keep
        self._dirty: set[K] = set(primary)
        primary._follow(self._dirty)

    def refresh(self) -> None:
        for key in self._dirty:
            value = self._primary.get(key)
            if value is not None and self._keep(key, value):
                self._put(key, value)
            else:
                self._put(key, _MISSING)
        self._dirty.clear()


class Union(View[K, V]):
    """Several views as one. A key that more than one of them has takes the first view's value."""

    def __init__(self, name: str, parts: Sequence[View[K, V]], indexes: Sequence[Index[V]]) -> None:
        super().__init__(name, 1 + max(part.rank for part in parts), indexes)
        self._parts = tuple(parts)
        self._dirty: set[K] = set()
        for part in parts:
            self._dirty |= set(part)
            part._follow(self._dirty)

    def refresh(self) -> None:
        for key in self._dirty:
            found = (part.get(key) for part in self._parts)
            self._put(key, next((v for v in found if v is not None), _MISSING))
        self._dirty.clear()


_Step = Derived[Any, Any, Any, Any] | Distinct[Any, Any] | Selected[Any, Any] | Union[Any, Any]


def _internal(name: str, key: Hashable, error: Exception) -> Problem:
    about = key if isinstance(key, ObjectKey) else ObjectKey("", "", f"{name}:{key}")
    where = traceback.extract_tb(error.__traceback__)[-1]
    reason = f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})"
    return Problem(Code.INTERNAL, Severity.ERROR, about, "", f"Meltemi's own fault: {reason}")


class Graph:
    """Sources and derived views, and the one call that brings them up to date."""

    def __init__(self) -> None:
        self.revision = 0
        self._sources: list[Source[Any, Any]] = []
        self._derived: list[Derived[Any, Any, Any, Any]] = []
        self._steps: list[_Step] = []

    def source(self, name: str, indexes: Sequence[Index[V]] = ()) -> Source[Any, V]:
        """A new source; annotate the variable with its key type."""
        source: Source[Any, V] = Source(name, indexes)
        self._sources.append(source)
        return source

    def derive(
        self,
        name: str,
        primary: View[K, V],
        transform: Transform[K, V, K2, V2],
        *,
        reads: Sequence[View[Any, Any]] = (),
        indexes: Sequence[Index[V2]] = (),
    ) -> Derived[K, V, K2, V2]:
        """A new view; `reads` names every view that `transform` may fetch from."""
        derived = Derived(name, primary, transform, reads=reads, indexes=indexes)
        self._derived.append(derived)
        self._add_step(derived)
        return derived

    def distinct(
        self, name: str, primary: View[K, V], indexes: Sequence[Index[V]] = ()
    ) -> Distinct[K, V]:
        """A view of the different values of another; the values must be hashable."""
        distinct: Distinct[K, V] = Distinct(name, primary, indexes, None)
        self._add_step(distinct)
        return distinct

    def distinct_of(self, name: str, primary: View[K, V], of: Callable[[V], V2]) -> Distinct[K, V2]:
        """A view of what differs in one part of another's values."""
        distinct: Distinct[K, V2] = Distinct(name, primary, (), of)
        self._add_step(distinct)
        return distinct

    def select(
        self, name: str, primary: View[K, V], keep: Callable[[K, V], bool]
    ) -> Selected[K, V]:
        """A view of some of another's values; `keep` looks at nothing but its arguments."""
        selected = Selected(name, primary, keep)
        self._add_step(selected)
        return selected

    def union(
        self, name: str, parts: Sequence[View[K, V]], indexes: Sequence[Index[V]] = ()
    ) -> Union[K, V]:
        """Several views as one; where keys meet, the earlier part wins."""
        union = Union(name, parts, indexes)
        self._add_step(union)
        return union

    def constant(self) -> Source[str, bool]:
        """A source with one value that never changes: drives a view that reads others whole."""
        source: Source[str, bool] = self.source("constant")
        source.set("", True)
        return source

    def _add_step(self, step: _Step) -> None:
        self._steps.append(step)
        self._steps.sort(key=lambda view: view.rank)

    def propagate(self) -> Mapping[View[Any, Any], frozenset[Any]]:
        """Refresh everything; answers the changed keys of each changed view.

        Grows `revision` by one, whether anything changed or not.
        """
        self.revision += 1
        for step in self._steps:
            step.refresh()
        changes: dict[View[Any, Any], frozenset[Any]] = {}
        for node in (*self._sources, *self._steps):
            if node.changed:
                changes[node] = frozenset(node.changed)
                node.changed.clear()
        return changes

    def problems(self) -> Sequence[Problem]:
        """All problems of all views, as of the last propagation, each once."""
        found = (problem for view in self._derived for problem in view.problems())
        return list(dict.fromkeys(found))

    def verify(self) -> None:
        """Recompute every view from its inputs; a difference raises GraphMismatch.

        Keys held at their last good value are left out: scratch cannot know them.
        """
        for view in self._derived:
            expected: dict[Any, Any] = {}
            for key, value in view.primary.items().items():
                reader = Reader(set(), key)
                fetch = Fetch(view.name, view.rank, reader)
                try:
                    outcomes = view.transform(fetch, key, value)
                except Exception:
                    outcomes = {}
                expected |= {k: o.value for k, o in outcomes.items() if o.value is not None}
                for read, kind, mark in fetch._marks:
                    read._unread(kind, mark, reader)
            held = view.held()
            actual = {k: v for k, v in view.items().items() if k not in held}
            if actual != {k: v for k, v in expected.items() if k not in held}:
                differing = sorted(
                    str(k)
                    for k in actual.keys() | expected.keys()
                    if actual.get(k) != expected.get(k)
                )
                raise GraphMismatch(f"{view.name} differs from scratch at {differing[:5]}")

"""What one proxy wants, has and is being sent, for one type of resource."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import cast

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.base.resource import (
    CLUSTER,
    ENDPOINT,
    EXTENSION,
    LISTENER,
    ROUTE,
    SECRET,
    VIRTUAL_HOST,
)

ORDER = (CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE, VIRTUAL_HOST, SECRET)
"""What is needed first goes first."""
SECRETS = frozenset((SECRET,))
CONFIGURATION = frozenset(ORDER) - SECRETS
"""Keys go another way than configuration: to who has proved that it may have them."""
WILDCARD_TYPES = frozenset((CLUSTER, LISTENER))
CLIENTS = (LISTENER, ROUTE, VIRTUAL_HOST)
"""What names clusters: sent after them, and before they go."""


class Rejection(msgspec.Struct, frozen=True):
    """One version of one resource that a proxy refused, in its own words."""

    type_url: str
    name: str
    version: str
    message: str
    about: tuple[ObjectKey, ...] = ()
    """The objects whose patches were in it."""


class Subscription:
    """Plain state; `session` moves it, `order` reads it."""

    def __init__(self) -> None:
        self.wildcard = False
        self.owes = False
        """A wildcard subscription is answered once even when there is nothing."""
        self.names: frozenset[str] = frozenset()
        """Of thousands of proxies the same."""
        self.has: dict[str, str] = {}
        """Name to the version the proxy last took; absent: it has none."""
        self.resumed: frozenset[str] = frozenset()
        """The names of a set it has all of since an earlier stream, until that is looked at."""
        self.losses = 0
        """How often a name left `has`."""
        self.absent: set[str] = set()
        """Names it asked for and was told do not exist."""
        self.dirty: dict[str, int] = {}
        """Names to send, with the revision they changed at."""
        self.coming: set[str] = set()
        """Names that do not exist yet and will: no answer is better than a no."""
        self.again: set[str] = set()
        """Dirty names that are sent even if the proxy has this version."""
        self.parked: set[str] = set()
        """Dirty names that stay for as long as something else does: nobody waits for them."""
        self.since: dict[str, float] = {}
        """When a dirty name that is held back began to wait, in seconds of the caller's clock."""
        self.clusters: dict[str, frozenset[str] | None] = {}
        """The clusters that the version a proxy has names; None: not known after a reconnect."""
        self.flight: dict[str, str | None] = {}
        """What the response in flight carries: versions, None for removals."""
        self.flight_clusters: dict[str, frozenset[str]] = {}
        self.nonce = ""
        self.flight_revision = 0
        self.suspects: set[str] = set()
        """Names of a response that was rejected without saying which: they go out alone."""
        self.rejected: dict[str, Rejection] = {}
        self.patched: dict[str, Rejection] = {}
        """Patched versions that were refused: the proxy gets what was before the patch."""
        self.sent_any = False
        self.count = 0

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def wants_all(self, names: frozenset[str]) -> bool:
        return self.wildcard or names <= self.names

    def mark(self, name: str, revision: int, *, again: bool = False) -> None:
        """Note that a name is to be sent."""
        self.parked.discard(name)
        self.dirty.setdefault(name, revision)
        if again:
            self.again.add(name)

    def mark_again(self, names: Sequence[str], revision: int) -> None:
        """`mark` for many names, which are sent even if the proxy has them."""
        self.parked.difference_update(names)
        self.again.update(names)
        if not self.dirty:
            self.dirty = dict.fromkeys(names, revision)
        for name in names:
            self.dirty.setdefault(name, revision)

    def oldest_of(self, names: AbstractSet[str], default: int) -> int:
        """The oldest revision at which some of these names changed."""
        if len(names) >= len(self.dirty) and names >= self.dirty.keys():
            return min(self.dirty.values(), default=default)
        return min((self.dirty[name] for name in names if name in self.dirty), default=default)

    def settle_all(self, names: AbstractSet[str]) -> None:
        """`settle` for many names; most of the tables are empty nearly always."""
        if len(names) >= len(self.dirty) and names >= self.dirty.keys():
            self.dirty = {}
        for table in (self.dirty, self.since):
            for name in names if table else ():
                table.pop(name, None)
        for marks in (self.parked, self.again, self.suspects):
            if marks:
                marks.difference_update(names)

    def settle(self, name: str) -> None:
        """Nothing is to be sent for a name after all."""
        self.dirty.pop(name, None)
        self.since.pop(name, None)
        self.parked.discard(name)
        self.again.discard(name)
        self.suspects.discard(name)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is to be sent, on its way or held back."""
        return not (
            self.dirty or self.flight or self.again or self.parked or self.since or self.suspects
        )

    @property
    def is_new(self) -> bool:
        """Whether the proxy has nothing and refused nothing: all that is there may be sent."""
        return not (self.has or self.suspects or self.rejected or self.patched)

    def takes(self, flight: Mapping[str, str | None]) -> bool:
        """Note at once that the proxy has all of a response, unless something in it needs a closer
        look: a removal, or a name that it has lost interest in."""
        if None in flight.values() or not (self.wildcard or flight.keys() <= self.names):
            return False
        self.suspects.difference_update(flight)
        for name in self.rejected.keys() & flight.keys():
            del self.rejected[name]
        self.has.update(cast("Mapping[str, str]", flight))
        self.absent.difference_update(flight)
        return True

    def forget(self, names: Iterable[str]) -> None:
        """The proxy has lost interest."""
        gone = frozenset(names)
        self.names -= gone
        for name in gone:
            self.drop(name)
            self.settle(name)

    def drop_all(self, names: Iterable[str]) -> None:
        """`drop` for many names."""
        if self.has or self.absent or self.clusters:
            for name in names:
                self.drop(name)

    def drop(self, name: str) -> None:
        """The proxy no longer has what it had under a name."""
        if self.has.pop(name, None) is not None:
            self.losses += 1
        self.absent.discard(name)
        self.clusters.pop(name, None)

    def is_refused(self, name: str, version: str) -> bool:
        found = self.rejected.get(name)
        return found is not None and found.version == version

    @property
    def oldest(self) -> int | None:
        """The oldest revision not yet acknowledged; None when there is none."""
        waiting = [r for name, r in self.dirty.items() if name not in self.parked]
        if self.nonce:
            waiting.append(self.flight_revision)
        return min(waiting, default=None)

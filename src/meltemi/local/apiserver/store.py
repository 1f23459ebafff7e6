"""Objects in memory, written through to SQLite: one writer, group commits, bounded history.

A write counts for later writers at once. Readers and watchers see it, and it is acknowledged, when
its transaction has committed: concurrent writes share one. Resource versions grow for ever, across
restarts too.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import orjson

Json = dict[str, Any]
HISTORY = 4096
"""Changes of one resource that a watch can be resumed over."""


class Resource(NamedTuple):
    """A collection: `("apps", "deployments")`."""

    group: str
    plural: str


class Entry(NamedTuple):
    """One object at one version. `data` is never changed in place; `raw` is its JSON."""

    namespace: str
    name: str
    version: int
    data: Json
    raw: bytes


class Change(NamedTuple):
    """What watchers see. `before` tells them whether an object left their selection."""

    version: int
    entry: Entry
    before: Entry | None
    deleted: bool


class StoreFailed(Exception):
    """The database cannot be written; what was to be written has not happened."""


Told = Callable[[Sequence[Change]], None]


class _Write(NamedTuple):
    resource: Resource
    change: Change
    done: asyncio.Future[None]


class Store:
    """Call from one event loop only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._objects: dict[Resource, dict[tuple[str, str], Entry]] = {}
        self._history: dict[Resource, deque[Change]] = {}
        self._floor: dict[Resource, int] = {}
        self._ahead: dict[Resource, dict[tuple[str, str], _Write]] = {}
        """Writes whose transaction has not committed yet: the newest of each object."""
        self._followers: dict[Resource, list[Told]] = {}
        self._pending: list[_Write] = []
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._task: asyncio.Task[None] | None = None
        self.listeners: list[Callable[[Resource, Change], None]] = []
        """Told of every committed change, whatever the resource."""
        self.version = 0
        """The newest resource version given out."""
        self.committed = 0
        self._start = 0

    def open(self) -> None:
        """Read everything; versions older than this moment have no history."""
        self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        self._path.chmod(0o600)
        for statement in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=NORMAL",
            "CREATE TABLE IF NOT EXISTS object (grp TEXT, plural TEXT, namespace TEXT, name TEXT,"
            " version INTEGER, body BLOB,"
            " PRIMARY KEY (grp, plural, namespace, name)) WITHOUT ROWID",
            "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER)",
            "INSERT OR IGNORE INTO meta VALUES ('version', 1)",
        ):
            self._db.execute(statement)
        self.version = self._db.execute("SELECT value FROM meta").fetchone()[0]
        rows = self._db.execute("SELECT grp, plural, namespace, name, version, body FROM object")
        for group, plural, namespace, name, version, body in rows:
            entry = Entry(namespace, name, version, orjson.loads(body), body)
            self._table(Resource(group, plural))[namespace, name] = entry
        self.committed = self._start = self.version
        self._task = asyncio.create_task(self._commit_loop(), name="store commits")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown()
        self._db.close()

    def _table(self, resource: Resource) -> dict[tuple[str, str], Entry]:
        return self._objects.setdefault(resource, {})

    def get(self, resource: Resource, namespace: str, name: str) -> Entry | None:
        """An object as the next writer has to take it."""
        ahead = self._ahead.get(resource)
        if ahead and (write := ahead.get((namespace, name))):
            return None if write.change.deleted else write.change.entry
        return self.durable(resource, namespace, name)

    def durable(self, resource: Resource, namespace: str, name: str) -> Entry | None:
        """An object as readers see it: nothing that a crash could take back."""
        return self._table(resource).get((namespace, name))

    def entries(self, resource: Resource, namespace: str = "") -> Iterator[Entry]:
        """All objects of a resource as writers have to take them, by namespace and name."""
        table = self._table(resource)
        if ahead := self._ahead.get(resource):
            table = {**table, **{key: write.change.entry for key, write in ahead.items()}}
            for key in [key for key, write in ahead.items() if write.change.deleted]:
                del table[key]
        return _ordered(table, namespace)

    def durable_entries(self, resource: Resource, namespace: str = "") -> Iterator[Entry]:
        """All objects of a resource as readers see them, by namespace and name."""
        return _ordered(self._table(resource), namespace)

    def resources(self) -> Iterable[Resource]:
        return list(self._objects)

    async def put(self, resource: Resource, namespace: str, name: str, data: Json) -> Entry:
        """Store an object under a new version; returns once it is durable."""
        self.version += 1
        meta = {**data["metadata"], "resourceVersion": str(self.version)}
        stored = {**data, "metadata": meta}
        entry = Entry(namespace, name, self.version, stored, orjson.dumps(stored))
        before = self.get(resource, namespace, name)
        await self._commit(resource, Change(self.version, entry, before, False))
        return entry

    async def remove(self, resource: Resource, namespace: str, name: str) -> Entry | None:
        """Take an object out; answers its last state, under the version of its removal."""
        before = self.get(resource, namespace, name)
        if before is None:
            return None
        self.version += 1
        meta = {**before.data["metadata"], "resourceVersion": str(self.version)}
        last = {**before.data, "metadata": meta}
        entry = Entry(namespace, name, self.version, last, orjson.dumps(last))
        await self._commit(resource, Change(self.version, entry, before, True))
        return entry

    async def _commit(self, resource: Resource, change: Change) -> None:
        write = _Write(resource, change, asyncio.get_running_loop().create_future())
        self._ahead.setdefault(resource, {})[change.entry.namespace, change.entry.name] = write
        self._pending.append(write)
        self._wake.set()
        await asyncio.shield(write.done)

    async def settled(self, resource: Resource, namespace: str, name: str) -> None:
        """Return once what was written to an object last is durable."""
        write = self._ahead.get(resource, {}).get((namespace, name))
        if write is not None:
            await asyncio.shield(write.done)

    async def _commit_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._pending = self._pending, []
            if not batch:
                continue
            try:
                await loop.run_in_executor(self._thread, self._write, batch)
            except sqlite3.Error as error:
                self._undo([*batch, *self._pending], StoreFailed(f"{self._path}: {error}"))
                self._pending = []
                continue
            self._publish(batch)

    def _undo(self, writes: list[_Write], error: StoreFailed) -> None:
        """Nothing of these has happened, nor anything that built on them."""
        self._ahead.clear()
        for write in writes:
            if not write.done.done():
                write.done.set_exception(error)

    def _write(self, batch: list[_Write]) -> None:
        """Runs in the database thread."""
        self._db.execute("BEGIN")
        try:
            for write in batch:
                entry = write.change.entry
                key = (*write.resource, entry.namespace, entry.name)
                if write.change.deleted:
                    self._db.execute(
                        "DELETE FROM object WHERE grp=? AND plural=? AND namespace=? AND name=?",
                        key,
                    )
                else:
                    self._db.execute(
                        "INSERT OR REPLACE INTO object VALUES (?,?,?,?,?,?)",
                        (*key, entry.version, entry.raw),
                    )
            self._db.execute("UPDATE meta SET value=?", (batch[-1].change.version,))
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _publish(self, batch: list[_Write]) -> None:
        """Show what has committed: to readers, to followers, and then to its writers."""
        changes: dict[Resource, list[Change]] = {}
        for write in batch:
            self._settle(write)
            changes.setdefault(write.resource, []).append(write.change)
            for listener in self.listeners:
                listener(write.resource, write.change)
        for resource, changed in changes.items():
            for told in tuple(self._followers.get(resource, ())):
                told(changed)
        for write in batch:
            if not write.done.done():
                write.done.set_result(None)

    def _settle(self, write: _Write) -> None:
        resource, change = write.resource, write.change
        key = (change.entry.namespace, change.entry.name)
        if change.deleted:
            self._table(resource).pop(key, None)
        else:
            self._table(resource)[key] = change.entry
        if self._ahead[resource].get(key) is write:
            del self._ahead[resource][key]
        self.committed = change.version
        history = self._history.setdefault(resource, deque(maxlen=HISTORY))
        if len(history) == HISTORY:
            self._floor[resource] = history[0].version
        history.append(change)

    def oldest(self, resource: Resource) -> int:
        """The version from which on every change of a resource is remembered."""
        return max(self._floor.get(resource, 0), self._start)

    def last_change(self, resource: Resource) -> int:
        """The version of the newest change of a resource that is remembered."""
        history = self._history.get(resource)
        return history[-1].version if history else self._start

    def changes(self, resource: Resource, since: int) -> list[Change] | None:
        """What was committed after a version; None: that much history is not kept."""
        if since < self.oldest(resource):
            return None
        return [c for c in self._history.get(resource, ()) if c.version > since]

    def follow(self, resource: Resource, told: Told) -> None:
        """Call `told` with the changes of each commit from now on, in order."""
        self._followers.setdefault(resource, []).append(told)

    def unfollow(self, resource: Resource, told: Told) -> None:
        self._followers[resource].remove(told)

    def forget_history(self) -> None:
        """Make every version before this moment too old to be watched from."""
        self._history.clear()
        self._start = self.committed


def _ordered(table: dict[tuple[str, str], Entry], namespace: str) -> Iterator[Entry]:
    """Entries of one namespace or of all; what is taken out meanwhile is left out."""
    keys = [k for k in table if k[0] == namespace] if namespace else list(table)
    keys.sort()
    for key in keys:
        found = table.get(key)
        if found is not None:
            yield found

"""Objects in memory, written through to SQLite: one writer, group commits, bounded history.

Every write takes effect in memory at once and is acknowledged, and shown to watchers, when its
transaction has committed: concurrent writes share one. Resource versions grow for ever, across
restarts too. A watcher that does not keep up is cut off; it never slows a writer.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import orjson

Json = dict[str, Any]
HISTORY = 4096
"""Changes of one resource that a watch can be resumed over."""
QUEUE = 4096
"""Events a watcher may lag behind."""


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


class Watcher:
    """Receives committed changes of one resource, in order."""

    def __init__(self) -> None:
        self._changes: deque[Change] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self.is_lost = False
        self.on_lost: Callable[[], None] = lambda: None
        """Called once, when the watcher has fallen too far behind."""

    def offer(self, change: Change) -> None:
        if self.is_lost:
            return
        if len(self._changes) >= QUEUE:
            self.is_lost = True
            self._changes.clear()
            self.on_lost()
        else:
            self._changes.append(change)
        self.wake()

    def wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def batch(self, seconds: float) -> list[Change]:
        """All changes there are; waits for the first one, but not for longer than this."""
        if not self._changes and not self.is_lost:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = loop.call_later(seconds, self.wake)
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        found = list(self._changes)
        self._changes.clear()
        return found


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
        self._watchers: dict[Resource, set[Watcher]] = {}
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
        return self._table(resource).get((namespace, name))

    def entries(self, resource: Resource, namespace: str = "") -> Iterator[Entry]:
        """All objects of a resource, ordered by namespace and name."""
        table = self._table(resource)
        keys = [k for k in table if k[0] == namespace] if namespace else list(table)
        keys.sort()
        for key in keys:
            found = table.get(key)
            if found is not None:
                yield found

    def resources(self) -> Iterable[Resource]:
        return list(self._objects)

    async def put(self, resource: Resource, namespace: str, name: str, data: Json) -> Entry:
        """Store an object under a new version; returns once it is durable."""
        self.version += 1
        meta = {**data["metadata"], "resourceVersion": str(self.version)}
        stored = {**data, "metadata": meta}
        entry = Entry(namespace, name, self.version, stored, orjson.dumps(stored))
        table = self._table(resource)
        before = table.get((namespace, name))
        table[namespace, name] = entry
        await self._commit(resource, Change(self.version, entry, before, False))
        return entry

    async def remove(self, resource: Resource, namespace: str, name: str) -> Entry | None:
        """Take an object out; answers its last state, under the version of its removal."""
        before = self._table(resource).pop((namespace, name), None)
        if before is None:
            return None
        self.version += 1
        meta = {**before.data["metadata"], "resourceVersion": str(self.version)}
        last = {**before.data, "metadata": meta}
        entry = Entry(namespace, name, self.version, last, orjson.dumps(last))
        await self._commit(resource, Change(self.version, entry, before, True))
        return entry

    async def _commit(self, resource: Resource, change: Change) -> None:
        done = asyncio.get_running_loop().create_future()
        self._pending.append(_Write(resource, change, done))
        self._wake.set()
        await done

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
            for write in batch:
                self._publish(write)

    def _undo(self, writes: list[_Write], error: StoreFailed) -> None:
        """Nothing of these has happened: memory goes back to what the database holds."""
        for write in reversed(writes):
            entry, before = write.change.entry, write.change.before
            table = self._table(write.resource)
            if before is None:
                table.pop((entry.namespace, entry.name), None)
            else:
                table[before.namespace, before.name] = before
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

    def _publish(self, write: _Write) -> None:
        resource, change = write.resource, write.change
        self.committed = change.version
        history = self._history.setdefault(resource, deque(maxlen=HISTORY))
        if len(history) == HISTORY:
            self._floor[resource] = history[0].version
        history.append(change)
        for watcher in self._watchers.get(resource, ()):
            watcher.offer(change)
        for listener in self.listeners:
            listener(resource, change)
        if not write.done.done():
            write.done.set_result(None)

    def oldest(self, resource: Resource) -> int:
        """The version from which on every change of a resource is remembered."""
        return max(self._floor.get(resource, 0), self._start)

    def last_change(self, resource: Resource) -> int:
        """The version of the newest change of a resource that is remembered."""
        history = self._history.get(resource)
        return history[-1].version if history else self._start

    def watch(self, resource: Resource, since: int | None) -> Watcher | None:
        """Follow a resource from after a version on; None: that much history is not kept."""
        watcher = Watcher()
        if since is not None:
            if since < self.oldest(resource):
                return None
            for change in self._history.get(resource, ()):
                if change.version > since:
                    watcher.offer(change)
        self._watchers.setdefault(resource, set()).add(watcher)
        return watcher

    def watcher_count(self) -> int:
        """How many watchers there are that have not fallen behind."""
        return sum(not w.is_lost for found in self._watchers.values() for w in found)

    def forget_history(self) -> None:
        """Make every version before this moment too old to be watched from."""
        self._history.clear()
        self._start = self.committed

    def unwatch(self, resource: Resource, watcher: Watcher) -> None:
        self._watchers.get(resource, set()).discard(watcher)

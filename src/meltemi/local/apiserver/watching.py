"""Lists and watches: selections on the wire, in JSON or as tables."""

import asyncio
import base64
import datetime
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson

from meltemi.api.kinds import Kind
from meltemi.local.apiserver import tables
from meltemi.local.apiserver.errors import StatusError, bad_request, gone
from meltemi.local.apiserver.operations import Operations
from meltemi.local.apiserver.registry import resource_of
from meltemi.local.apiserver.selectors import object_test
from meltemi.local.apiserver.store import Change, Entry, Watcher

Json = dict[str, Any]
_BOOKMARK_EVERY = 30.0


class Form:
    """How objects are shown: at which version, and whether as a table."""

    def __init__(self, kind: Kind, version: str, *, table: bool, include: str) -> None:
        self.kind = kind
        self._api_version = f"{kind.group}/{version}" if kind.group else version
        self.is_table = table
        self.include = include or "Metadata"

    def one(self, data: Json) -> Json:
        """An object at the version asked for."""
        if data.get("apiVersion") == self._api_version:
            return data
        return {**data, "apiVersion": self._api_version}

    def shown(self, data: Json, now: datetime.datetime) -> Json:
        """An object as a watch event carries it."""
        if not self.is_table:
            return self.one(data)
        version = str(data["metadata"].get("resourceVersion", ""))
        return tables.table(self.kind, [self.one(data)], version, now, include=self.include)

    def many(self, items: list[Json], meta: Json, now: datetime.datetime) -> Json:
        if self.is_table:
            shown = tables.table(
                self.kind,
                [self.one(i) for i in items],
                meta["resourceVersion"],
                now,
                include=self.include,
            )
            shown["metadata"] = meta
            return shown
        return {
            "kind": f"{self.kind.name}List",
            "apiVersion": self._api_version,
            "metadata": meta,
            "items": [self.one(i) for i in items],
        }


def parse_bool(text: str | None) -> bool:
    """Go's ParseBool: 1, t, T, true, True, TRUE."""
    return text in ("1", "t", "T", "true", "True", "TRUE")


class Pages:
    """Lists in pages, each continued over the snapshot its first page was taken from."""

    MOST = 64

    def __init__(self) -> None:
        self._snapshots: dict[str, list[Entry]] = {}

    def page(
        self, entries: Callable[[], list[Entry]], version: int, limit: int, token: str
    ) -> tuple[list[Entry], Json]:
        """One page and its list metadata."""
        start = 0
        if token:
            key, start = self._parse(token)
            found = self._snapshots.get(key)
            if found is None:
                raise gone("the provided continue parameter is too old; list again from the start")
            version = int(key.partition(":")[0])
        else:
            found = entries()
            key = f"{version}:{id(found)}"
        meta: Json = {"resourceVersion": str(version)}
        if not limit or start + limit >= len(found):
            if token:
                self._snapshots.pop(key, None)
            return found[start:], meta
        self._snapshots[key] = found
        while len(self._snapshots) > self.MOST:
            self._snapshots.pop(next(iter(self._snapshots)))
        meta["continue"] = base64.urlsafe_b64encode(f"{key}:{start + limit}".encode()).decode()
        meta["remainingItemCount"] = len(found) - start - limit
        return found[start : start + limit], meta

    def _parse(self, token: str) -> tuple[str, int]:
        try:
            text = base64.urlsafe_b64decode(token.encode()).decode()
            key, _, start = text.rpartition(":")
            return key, int(start)
        except ValueError as error:
            raise bad_request("continue key is not valid") from error


class Watch:
    """One client's watch: yields lines of JSON until its time is over or it is cut off."""

    def __init__(
        self, operations: Operations, form: Form, namespace: str, query: dict[str, str]
    ) -> None:
        self._operations = operations
        self._form = form
        self._namespace = namespace
        self._test = object_test(query.get("labelSelector", ""), query.get("fieldSelector", ""))
        self._bookmarks = parse_bool(query.get("allowWatchBookmarks"))
        self._initial = parse_bool(query.get("sendInitialEvents"))
        self._since = query.get("resourceVersion", "")
        self._seconds = float(query.get("timeoutSeconds") or 1800)

    def _start(self) -> tuple[Watcher, list[Entry]]:
        """The watcher, and what to send first."""
        store, resource = self._operations.store, resource_of(self._form.kind)
        from_now = self._since in ("", "0") or self._initial
        if not from_now and not self._since.isdecimal():
            raise bad_request(f"invalid resource version {self._since!r}")
        watcher = store.watch(resource, None if from_now else int(self._since))
        if watcher is None:
            raise gone(f"too old resource version: {self._since} ({store.committed})")
        wants_state = from_now and (self._initial or self._since != "" or not self._since)
        entries = list(store.entries(resource, self._namespace)) if wants_state else []
        return watcher, [e for e in entries if self._test(e.data)]

    async def lines(self, now: Callable[[], datetime.datetime]) -> AsyncIterator[bytes]:
        store, resource = self._operations.store, resource_of(self._form.kind)
        watcher, entries = self._start()
        try:
            for entry in entries:
                yield self._line("ADDED", entry.data, now())
            if self._initial:
                yield self._bookmark(store.committed, ended=True)
            loop = asyncio.get_running_loop()
            ends = loop.time() + self._seconds
            while (left := ends - loop.time()) > 0 and not watcher.lost:
                try:
                    change = await asyncio.wait_for(watcher.queue.get(), min(left, _BOOKMARK_EVERY))
                except TimeoutError:
                    if self._bookmarks:
                        yield self._bookmark(store.committed)
                    continue
                if change is not None:
                    for line in self._change(change, entries, now()):
                        yield line
        finally:
            store.unwatch(resource, watcher)

    def _change(self, change: Change, first: list[Entry], now: datetime.datetime) -> list[bytes]:
        entry, before = change.entry, change.before
        if self._namespace and entry.namespace != self._namespace:
            return []
        if first and any(e.version >= change.version and e.name == entry.name for e in first):
            return []
        had = before is not None and self._test(before.data)
        has = not change.deleted and self._test(entry.data)
        if not had and not has:
            return []
        word = "MODIFIED" if had and has else "ADDED" if has else "DELETED"
        return [self._line(word, entry.data, now)]

    def _line(self, word: str, data: Json, now: datetime.datetime) -> bytes:
        return orjson.dumps({"type": word, "object": self._form.shown(data, now)}) + b"\n"

    def _bookmark(self, version: int, *, ended: bool = False) -> bytes:
        meta: Json = {"resourceVersion": str(version), "creationTimestamp": None}
        if ended:
            meta["annotations"] = {"k8s.io/initial-events-end": "true"}
        body = self._form.one({"kind": self._form.kind.name, "apiVersion": "", "metadata": meta})
        return orjson.dumps({"type": "BOOKMARK", "object": body}) + b"\n"


def error_line(error: StatusError) -> bytes:
    """A failure, as a watch event."""
    return orjson.dumps({"type": "ERROR", "object": error.status}) + b"\n"

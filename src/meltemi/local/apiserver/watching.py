"""Lists and watches: selections on the wire, in JSON or as tables.

Objects go out as the bytes they are stored in. An event is encoded once and its bytes are shared
by everyone who watches in the same form.
"""

import asyncio
import base64
import datetime
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import orjson

from meltemi.api.kinds import Kind
from meltemi.local.apiserver import tables
from meltemi.local.apiserver.convert import converted
from meltemi.local.apiserver.errors import StatusError, bad_request, gone
from meltemi.local.apiserver.operations import Operations
from meltemi.local.apiserver.registry import Registry, resource_of
from meltemi.local.apiserver.selectors import object_test
from meltemi.local.apiserver.store import Change, Entry, Watcher

Json = dict[str, Any]
_BOOKMARK_EVERY = 30.0
_DEFAULT_SECONDS = 1800.0


class Form:
    """How objects are shown: at which version, whole, as a table or only their metadata."""

    def __init__(
        self, registry: Registry, kind: Kind, version: str, *, accept: str = "", include: str = ""
    ) -> None:
        self._registry = registry
        self.kind = kind
        self.version = version
        self.api_version = f"{kind.group}/{version}" if kind.group else version
        self.is_table = "as=Table" in accept
        self.is_partial = "as=PartialObjectMetadata" in accept
        self.include = include or "Metadata"
        self._is_plain = not self.is_table and not self.is_partial
        self._is_stored = self._is_plain and version == kind.versions[0]

    @property
    def key(self) -> tuple[str, ...]:
        """What tells forms apart that show the same object differently."""
        shape = "table" if self.is_table else "partial" if self.is_partial else ""
        return (self.kind.group, self.kind.plural, self.version, shape, self.include)

    def one(self, data: Json) -> Json:
        """An object at the version asked for."""
        if data.get("apiVersion") == self.api_version:
            return data
        return {**converted(self.kind, self.version, data), "apiVersion": self.api_version}

    def shown(self, data: Json, now: datetime.datetime) -> Json:
        """One object in this form."""
        if self.is_table:
            version = str(data["metadata"].get("resourceVersion", ""))
            return self._table([data], version, now)
        return _partial(data) if self.is_partial else self.one(data)

    def raw(self, entry: Entry, now: datetime.datetime) -> bytes:
        """One stored object in this form, as JSON."""
        return entry.raw if self._is_stored else orjson.dumps(self.shown(entry.data, now))

    def many(self, entries: Sequence[Entry], meta: Json, now: datetime.datetime) -> bytes:
        """A list in this form, as JSON."""
        if self.is_table:
            shown = self._table([e.data for e in entries], meta["resourceVersion"], now)
            return orjson.dumps({**shown, "metadata": meta})
        name, version = f"{self.kind.name}List", self.api_version
        if self.is_partial:
            name, version = "PartialObjectMetadataList", "meta.k8s.io/v1"
        head = orjson.dumps({"kind": name, "apiVersion": version, "metadata": meta})
        items = b",".join([self.raw(e, now) for e in entries])
        return head[:-1] + b',"items":[' + items + b"]}"

    def _table(self, items: Sequence[Json], version: str, now: datetime.datetime) -> Json:
        columns = self._registry.columns(self.kind, self.version)
        shown = [self.one(item) for item in items]
        return tables.table(self.kind, columns, shown, version, now, include=self.include)


def _partial(data: Json) -> Json:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": data["metadata"],
    }


def parse_bool(text: str | None) -> bool:
    """Go's ParseBool: 1, t, T, true, True, TRUE."""
    return text in ("1", "t", "T", "true", "True", "TRUE")


def parse_number(text: str | None, name: str) -> int:
    """A number in a query; absent is 0."""
    if not text:
        return 0
    if not text.isdecimal() or len(text) > 18:
        raise bad_request(f"{name}: {text[:32]!r} is not a number")
    return int(text)


def check_version(operations: Operations, kind: Kind, query: dict[str, str]) -> None:
    """Whether a list can be as new, or as old, as a client wants it."""
    text, match = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
    if match and not text:
        raise bad_request(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless "
            "resourceVersion is provided"
        )
    if match not in ("", "Exact", "NotOlderThan"):
        raise bad_request(f'resourceVersionMatch: Unsupported value: "{match}"')
    if not text or query.get("continue"):
        return
    wanted = parse_number(text, "resourceVersion")
    store = operations.store
    if wanted > store.version:
        raise too_new(wanted, store.version)
    if match == "Exact" and wanted and wanted < store.last_change(resource_of(kind)):
        raise gone(f"The resourceVersion for the provided list is too old: {wanted}")


def too_new(wanted: int, newest: int) -> StatusError:
    """A version from the future: of another cluster, or of a database that was replaced."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return StatusError(
        504,
        "Timeout",
        f"Too large resource version: {wanted}, current: {newest}",
        details={"causes": [cause], "retryAfterSeconds": 1},
    )


class Pages:
    """Lists in pages, each continued over the snapshot its first page was taken from."""

    MOST = 64

    def __init__(self) -> None:
        self._snapshots: OrderedDict[str, list[Entry]] = OrderedDict()
        self._next = 0

    def page(
        self, entries: Callable[[], list[Entry]], version: int, limit: int, token: str
    ) -> tuple[list[Entry], Json]:
        """One page and its list metadata."""
        start = 0
        if token:
            key, start = self._parse(token)
            kept = self._snapshots.get(key)
            if kept is None:
                raise gone("the provided continue parameter is too old; list again from the start")
            found = kept
            version = int(key.partition(":")[0])
        else:
            found = entries()
            self._next += 1
            key = f"{version}:{self._next}"
        meta: Json = {"resourceVersion": str(version)}
        if not limit or start + limit >= len(found):
            return found[start:], meta
        self._snapshots[key] = found
        self._snapshots.move_to_end(key)
        while len(self._snapshots) > self.MOST:
            self._snapshots.popitem(last=False)
        meta["continue"] = base64.urlsafe_b64encode(f"{key}:{start + limit}".encode()).decode()
        meta["remainingItemCount"] = len(found) - start - limit
        return found[start : start + limit], meta

    def _parse(self, token: str) -> tuple[str, int]:
        try:
            text = base64.urlsafe_b64decode(token.encode()).decode()
            key, _, start = text.rpartition(":")
            return key, max(int(start), 0)
        except ValueError as error:
            raise bad_request("continue key is not valid") from error


class Lines:
    """Events as lines of JSON, each encoded once however many watch."""

    MOST = 1024

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()

    def of(self, word: str, change: Change, form: Form, now: datetime.datetime) -> bytes:
        key = (change.version, word, *form.key)
        line = self._known.get(key)
        if line is None:
            line = event_line(word, form.raw(change.entry, now))
            self._known[key] = line
            if len(self._known) > self.MOST:
                self._known.popitem(last=False)
        return line


def event_line(word: str, raw: bytes) -> bytes:
    return b'{"type":"' + word.encode() + b'","object":' + raw + b"}\n"


class Watch:
    """One client's watch: yields lines of JSON until its time is over or it is cut off."""

    def __init__(
        self,
        operations: Operations,
        lines: Lines,
        form: Form,
        namespace: str,
        query: dict[str, str],
    ) -> None:
        self._operations = operations
        self._lines = lines
        self._form = form
        self._namespace = namespace
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        self._test = object_test(labels, fields) if labels or fields else None
        self._bookmarks = parse_bool(query.get("allowWatchBookmarks"))
        self._initial = parse_bool(query.get("sendInitialEvents"))
        if self._initial and not self._bookmarks:
            raise bad_request("sendInitialEvents: Forbidden: allowWatchBookmarks must be true")
        self._since = query.get("resourceVersion", "")
        self._seconds = float(
            parse_number(query.get("timeoutSeconds"), "timeoutSeconds") or _DEFAULT_SECONDS
        )
        self.on_lost: Callable[[], None] = lambda: None

    def _start(self) -> tuple[Watcher, list[Entry]]:
        """The watcher, and what to send first."""
        store, resource = self._operations.store, resource_of(self._form.kind)
        since = parse_number(self._since, "resourceVersion")
        if since > store.version:
            raise too_new(since, store.version)
        from_now = not since or self._initial
        watcher = store.watch(resource, None if from_now else since)
        if watcher is None:
            raise gone(f"too old resource version: {self._since} ({store.oldest(resource)})")
        watcher.on_lost = self.on_lost
        entries = list(store.entries(resource, self._namespace)) if from_now else []
        return watcher, [e for e in entries if self._test is None or self._test(e.data)]

    async def lines(self, now: Callable[[], datetime.datetime]) -> AsyncIterator[bytes]:
        """Blocks of lines, each with everything that has happened by then."""
        store, resource = self._operations.store, resource_of(self._form.kind)
        watcher, entries = self._start()
        try:
            sent = {(e.namespace, e.name): e.version for e in entries}
            if entries:
                time = now()
                yield b"".join(event_line("ADDED", self._form.raw(e, time)) for e in entries)
            if self._initial:
                yield self._bookmark(store.committed, ended=True)
            loop = asyncio.get_running_loop()
            ends = loop.time() + self._seconds
            while (left := ends - loop.time()) > 0 and not watcher.is_lost:
                changes = await watcher.batch(min(left, _BOOKMARK_EVERY))
                if not changes and self._bookmarks:
                    yield self._bookmark(store.committed)
                block = b"".join(self._change(change, sent, now()) for change in changes)
                if block:
                    yield block
            if self._bookmarks and not watcher.is_lost:
                yield self._bookmark(store.committed)
        finally:
            store.unwatch(resource, watcher)

    def _change(
        self, change: Change, sent: dict[tuple[str, str], int], now: datetime.datetime
    ) -> bytes:
        entry, before = change.entry, change.before
        if self._namespace and entry.namespace != self._namespace:
            return b""
        if sent and sent.get((entry.namespace, entry.name), 0) >= change.version:
            return b""
        test = self._test
        had = before is not None and (test is None or test(before.data))
        has = not change.deleted and (test is None or test(entry.data))
        if not had and not has:
            return b""
        word = "MODIFIED" if had and has else "ADDED" if has else "DELETED"
        return self._lines.of(word, change, self._form, now)

    def _bookmark(self, version: int, *, ended: bool = False) -> bytes:
        meta: Json = {"resourceVersion": str(version), "creationTimestamp": None}
        if ended:
            meta["annotations"] = {"k8s.io/initial-events-end": "true"}
        kind, written = self._form.kind.name, self._form.api_version
        if self._form.is_partial:
            kind, written = "PartialObjectMetadata", "meta.k8s.io/v1"
        body: Json = {"kind": kind, "apiVersion": written, "metadata": meta}
        if self._form.is_table:
            row: Json = {"cells": [], "object": {**body}}
            body = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
                    "columnDefinitions": [], "rows": [row]}  # fmt: skip
        return event_line("BOOKMARK", orjson.dumps(body))


def error_line(error: StatusError) -> bytes:
    """A failure, as a watch event."""
    return event_line("ERROR", orjson.dumps(error.status))

"""Lists and watches: what a client asks for, and in which order it gets it."""

import asyncio
import base64
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from meltemi.api.kinds import Kind
from meltemi.local.apiserver.broadcast import Broadcasts, Outlet, Selection, event_line, framed
from meltemi.local.apiserver.errors import StatusError, bad_request, gone
from meltemi.local.apiserver.forms import Form
from meltemi.local.apiserver.operations import Operations
from meltemi.local.apiserver.registry import resource_of
from meltemi.local.apiserver.store import Change, Entry

Json = dict[str, Any]
_BOOKMARK_EVERY = 30.0
_DEFAULT_SECONDS = 1800.0


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


class Watch:
    """One request to watch: first what there is, then every change."""

    def __init__(
        self,
        operations: Operations,
        broadcasts: Broadcasts,
        form: Form,
        namespace: str,
        query: Mapping[str, str],
    ) -> None:
        self._operations = operations
        self._broadcasts = broadcasts
        self._form = form
        self._selection = Selection(
            resource_of(form.kind),
            form,
            namespace=namespace,
            labels=query.get("labelSelector", ""),
            fields=query.get("fieldSelector", ""),
        )
        self._bookmarks = parse_bool(query.get("allowWatchBookmarks"))
        self._initial = parse_bool(query.get("sendInitialEvents"))
        if self._initial and not self._bookmarks:
            raise bad_request("sendInitialEvents: Forbidden: allowWatchBookmarks must be true")
        self._since = query.get("resourceVersion", "")
        self._seconds = float(
            parse_number(query.get("timeoutSeconds"), "timeoutSeconds") or _DEFAULT_SECONDS
        )

    async def run(self, response: web.StreamResponse, outlet: Outlet) -> None:
        """Send until the time is over; whoever leaves or falls behind ends it by cancelling."""
        selection, store = self._selection, self._operations.store
        missed = self._missed()
        broadcast = self._broadcasts.join(selection, outlet)
        try:
            first = broadcast.block(missed) if missed is not None else self._present()
            if first:
                await response.write(first)
            outlet.open()
            loop = asyncio.get_running_loop()
            ends = loop.time() + self._seconds
            while (left := ends - loop.time()) > 0:
                sent = outlet.sent
                await asyncio.sleep(min(left, _BOOKMARK_EVERY))
                if self._bookmarks and (outlet.sent == sent or left <= _BOOKMARK_EVERY):
                    outlet.send(framed(self._bookmark(store.committed)))
        finally:
            self._broadcasts.leave(selection, outlet)

    def _missed(self) -> list[Change] | None:
        """What has changed since the version asked for; None: begin with what there is."""
        store, resource = self._operations.store, self._selection.resource
        since = parse_number(self._since, "resourceVersion")
        if since > store.version:
            raise too_new(since, store.version)
        if not since or self._initial:
            return None
        missed = store.changes(resource, since)
        if missed is None:
            raise gone(f"too old resource version: {self._since} ({store.oldest(resource)})")
        return missed

    def _present(self) -> bytes:
        """What there is, as events."""
        store, selection, time = (
            self._operations.store,
            self._selection,
            self._operations.clock.now(),
        )
        lines = [
            event_line("ADDED", self._form.raw(entry, time))
            for entry in store.durable_entries(selection.resource, selection.namespace)
            if selection.includes(entry.data)
        ]
        if self._initial:
            lines.append(self._bookmark(store.committed, ended=True))
        return b"".join(lines)

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

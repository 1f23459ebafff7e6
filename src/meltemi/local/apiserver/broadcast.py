"""Telling watchers: an event is chosen, encoded and framed once for all who watch alike.

What a commit changed is written to every watcher's connection at once, with no task in between:
with a hundred watchers that is most of what an event costs. The connection's own buffer is the
queue; a watcher whose buffer grows too long is cut off, so that it never slows a writer.
"""

import asyncio
import datetime
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from meltemi.local.apiserver.forms import Form
from meltemi.local.apiserver.selectors import object_test
from meltemi.local.apiserver.store import Change, Resource, Store

log = logging.getLogger(__name__)
Json = dict[str, Any]
MOST_BEHIND = 16 << 20
"""Bytes that a watcher may leave unread."""


class Lines:
    """Events as lines of JSON, each encoded once however many watch."""

    MOST = 256

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


class Selection:
    """Which objects somebody watches, and in which form they are shown."""

    def __init__(
        self, resource: Resource, form: Form, *, namespace: str, labels: str, fields: str
    ) -> None:
        self.resource = resource
        self.form = form
        self.namespace = namespace
        self.key = (resource, namespace, labels, fields, *form.key, form.generation)
        self.includes = object_test(labels, fields) if labels or fields else lambda _: True

    def word(self, change: Change) -> str:
        """What a change means to who watches this: an event's type, or nothing at all."""
        entry, before = change.entry, change.before
        if self.namespace and entry.namespace != self.namespace:
            return ""
        had = before is not None and self.includes(before.data)
        has = not change.deleted and self.includes(entry.data)
        if has:
            return "MODIFIED" if had else "ADDED"
        return "DELETED" if had else ""


class Outlet:
    """One watcher's connection. What is sent before it is opened waits until then."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._held: list[bytes] | None = []
        self._behind = 0
        self.is_lost = False
        self.sent = 0
        """How often something was sent."""

    def open(self) -> None:
        held, self._held = self._held or [], None
        for chunk in held:
            self.send(chunk)

    def send(self, chunk: bytes) -> None:
        """Write a framed block, or cut the watcher off when it does not read."""
        transport = self._transport
        if self.is_lost or transport.is_closing():
            return
        if self._held is not None:
            self._held.append(chunk)
            self._behind += len(chunk)
        else:
            transport.write(chunk)
            self._behind = transport.get_write_buffer_size()
        self.sent += 1
        if self._behind > MOST_BEHIND:
            self.cut()

    def cut(self) -> None:
        self.is_lost = True
        self._transport.abort()


class Broadcast:
    """All who watch one selection in one form."""

    def __init__(
        self, selection: Selection, lines: Lines, now: Callable[[], datetime.datetime]
    ) -> None:
        self._selection = selection
        self._lines = lines
        self._now = now
        self.outlets: set[Outlet] = set()

    def block(self, changes: Iterable[Change]) -> bytes:
        """The lines of what changed, for these watchers; empty when it does not concern them."""
        selection, now = self._selection, self._now()
        return b"".join(
            self._lines.of(word, change, selection.form, now)
            for change in changes
            if (word := selection.word(change))
        )

    def tell(self, changes: Sequence[Change]) -> None:
        try:
            block = self.block(changes)
        except Exception:
            # The store calls this: what one selection cannot show is no failure of the write.
            log.exception("watch of %s", self._selection.resource)
            for outlet in self.outlets:
                outlet.cut()
            return
        if block:
            chunk = framed(block)
            for outlet in self.outlets:
                outlet.send(chunk)


def framed(block: bytes) -> bytes:
    """A chunk of a chunked HTTP body (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(block), block)


class Broadcasts:
    """Brings those together who watch the same selection in the same form."""

    def __init__(self, store: Store, now: Callable[[], datetime.datetime]) -> None:
        self._store = store
        self._now = now
        self._lines = Lines()
        self._known: dict[tuple[Any, ...], Broadcast] = {}

    def join(self, selection: Selection, outlet: Outlet) -> Broadcast:
        """Send an outlet everything that is committed from now on."""
        found = self._known.get(selection.key)
        if found is None:
            found = self._known[selection.key] = Broadcast(selection, self._lines, self._now)
            self._store.follow(selection.resource, found.tell)
        found.outlets.add(outlet)
        return found

    def leave(self, selection: Selection, outlet: Outlet) -> None:
        found = self._known[selection.key]
        found.outlets.discard(outlet)
        if not found.outlets:
            self._store.unfollow(selection.resource, found.tell)
            del self._known[selection.key]

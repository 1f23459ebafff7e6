"""Keeps up with one kind of object: LIST once, then WATCH, and list again whenever in doubt.

The informer remembers names and resource versions only; the bytes go to whoever listens. A break
in the stream costs nothing when the server still has the history; otherwise the new list is
compared with what was delivered, and only the differences go out, deletions included.
Protocol: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import asyncio
import logging
import random as random_module
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, NoReturn

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.kube import paths
from meltemi.kube.client import Client
from meltemi.kube.errors import (
    ApiError,
    Gone,
    KubeError,
    NotFound,
    Unavailable,
    error_from_response,
)
from meltemi.kube.paths import Selection

log = logging.getLogger(__name__)


class Event(NamedTuple):
    """One object as it is now; no bytes: it is gone."""

    key: ObjectKey
    raw: bytes | None


Deliver = Callable[[Sequence[Event]], None]
"""Called in the event loop with each batch, in order. It must not block; it may enqueue."""


class _Meta(msgspec.Struct, rename="camel", gc=False):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class _Envelope(msgspec.Struct, rename="camel", gc=False):
    kind: str = ""
    metadata: _Meta = msgspec.field(default_factory=_Meta)


class _ListMeta(msgspec.Struct, rename="camel", gc=False):
    resource_version: str = ""


class _List(msgspec.Struct, gc=False):
    items: list[msgspec.Raw] | None = None
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)


class _WatchEvent(msgspec.Struct, gc=False):
    type: str
    object: msgspec.Raw


_list_decoder = msgspec.json.Decoder(_List)
_event_decoder = msgspec.json.Decoder(_WatchEvent)
_envelope_decoder = msgspec.json.Decoder(_Envelope)

_WATCH_SECONDS = 290
_IDLE_GRACE = 20.0
_SHORTEST, _LONGEST = 0.1, 30.0
_ABSENT_RETRY = 30.0
"""Seconds between looks for a kind that the server doesn't serve (its CRD may come)."""


class Backoff:
    """Waits that double from 0.1 s to 30 s, each cut by a random half so that clients spread."""

    def __init__(self, random: random_module.Random) -> None:
        self._random = random
        self._next = _SHORTEST

    def reset(self) -> None:
        self._next = _SHORTEST

    def wait(self) -> float:
        ceiling, self._next = self._next, min(self._next * 2, _LONGEST)
        return ceiling * (0.5 + self._random.random() / 2)


class Informer:
    """Delivers every object of a selection, then every change of it, for ever."""

    def __init__(
        self,
        client: Client,
        selection: Selection,
        deliver: Deliver,
        *,
        random: random_module.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        optional: bool = False,
    ) -> None:
        """`optional`: a server that does not serve the kind counts as synced and empty."""
        kind = paths.kind_named(selection.kind)
        self._client = client
        self._selection = selection
        self._deliver = deliver
        self._random = random
        self._sleep = sleep
        self._optional = optional
        self._namespaced = kind.namespaced
        group = f"{kind.group}/" if kind.group else ""
        self._type_fields = f'{{"kind":"{kind.name}","apiVersion":"{group}{kind.versions[0]}",'
        self._known: dict[ObjectKey, str] = {}
        self._version = ""
        self._listed = False
        self.synced = asyncio.Event()
        """Set when the first list has been delivered."""
        self.failure: KubeError | None = None
        """Why the informer is behind at this moment; None while it keeps up."""

    @property
    def selection(self) -> Selection:
        return self._selection

    def keys(self) -> Iterable[ObjectKey]:
        """The objects that exist, as far as was delivered."""
        return self._known.keys()

    async def run(self) -> NoReturn:
        """Keep up until cancelled. Only a bug, or an exception of `deliver`, ends it otherwise."""
        backoff = Backoff(self._random)
        while True:
            try:
                if not self._listed:
                    await self._list()
                    backoff.reset()
                if not await self._watch(backoff):
                    await self._sleep(backoff.wait())
            except Gone:
                log.info("%s: history is gone, listing again", self._selection)
                self._listed = False
                await self._sleep(_SHORTEST * self._random.random())
            except NotFound as e:
                await self._absent(e)
            except KubeError as e:
                await self._pause(e, backoff)

    async def _list(self) -> None:
        # The first list may come from the server's cache; a later one must not be older than
        # what was seen, so it is read from the store.
        first = "" if self._version else "0"
        body = await self._client.list_raw(self._selection, first)
        try:
            listed = _list_decoder.decode(body)
            found = [self._event(bytes(item), typed=False) for item in listed.items or ()]
        except msgspec.MsgspecError as e:
            raise KubeError(f"{self._selection}: the list cannot be read: {e}") from e
        versions = {event.key: version for event, version in found}
        batch = [Event(key, None) for key in self._known if key not in versions]
        batch += [e for e, version in found if self._known.get(e.key) != version]
        self._known = versions
        self._version = listed.metadata.resource_version
        self._listed = True
        self.failure = None
        if batch:
            self._deliver(batch)
        self.synced.set()

    async def _watch(self, backoff: Backoff) -> bool:
        """One watch to its end; whether anything came, for a server may end it at once."""
        any_came = False
        seconds = _WATCH_SECONDS + int(self._random.random() * 60)
        async with self._client.watch(
            self._selection,
            resource_version=self._version,
            seconds=seconds,
            idle=seconds + _IDLE_GRACE,
        ) as chunks:
            self.failure = None
            tail = b""
            async for chunk in chunks:
                lines = (tail + chunk).split(b"\n")
                tail = lines.pop()
                if lines:
                    self._take(lines)
                    backoff.reset()
                    any_came = True
        return any_came

    def _take(self, lines: Iterable[bytes]) -> None:
        """Deliver the events of whole lines; an ERROR event is raised after those before it."""
        batch: list[Event] = []
        try:
            for line in lines:
                if line and not line.isspace():
                    self._take_one(line, batch)
        except msgspec.MsgspecError as e:
            self._listed = False
            raise KubeError(f"{self._selection}: a watch event cannot be read: {e}") from e
        finally:
            if batch:
                self._deliver(batch)

    def _take_one(self, line: bytes, batch: list[Event]) -> None:
        watched = _event_decoder.decode(line)
        if watched.type == "ERROR":
            raise _error_of(bytes(watched.object))
        event, version = self._event(bytes(watched.object), typed=True)
        if version:
            self._version = version
        if watched.type == "DELETED":
            self._known.pop(event.key, None)
            batch.append(Event(event.key, None))
        elif watched.type != "BOOKMARK":
            self._known[event.key] = version
            batch.append(event)

    def _event(self, raw: bytes, *, typed: bool) -> tuple[Event, str]:
        """An object and its resource version. Items of lists lack their kind: it is put back."""
        envelope = _envelope_decoder.decode(raw)
        if not typed and not envelope.kind:
            raw = self._type_fields.encode() + raw.lstrip()[1:]
        meta = envelope.metadata
        namespace = meta.namespace if self._namespaced else ""
        key = ObjectKey(self._selection.kind, namespace, meta.name)
        return Event(key, raw), meta.resource_version

    async def _absent(self, error: NotFound) -> None:
        """The server does not serve the kind (or no longer: then its objects are gone)."""
        self.failure = None if self._optional else error
        self._listed = False
        if self._known:
            gone = [Event(key, None) for key in self._known]
            self._known = {}
            self._deliver(gone)
        if self._optional:
            self.synced.set()
        else:
            log.warning("%s: not served by this API: %s", self._selection, error)
        await self._sleep(_ABSENT_RETRY * (0.5 + self._random.random() / 2))

    async def _pause(self, error: KubeError, backoff: Backoff) -> None:
        wait = backoff.wait()
        if isinstance(error, Unavailable) and error.retry_after is not None:
            wait = max(wait, min(error.retry_after, _LONGEST))
        if isinstance(error, ApiError):
            self._listed = False
        if self.failure is None:
            log.warning("%s: %s; trying again", self._selection, error)
        self.failure = error
        await self._sleep(wait)


def _error_of(status: bytes) -> KubeError:
    error = error_from_response(500, status)
    if isinstance(error, ApiError) and error.reason == "Expired":
        return Gone(410, error.reason, str(error))
    return error


async def run_informers(informers: Iterable[Informer]) -> NoReturn:
    """Run them all until cancelled; a bug in one ends all."""
    async with asyncio.TaskGroup() as group:
        for informer in informers:
            group.create_task(informer.run(), name=f"informer {informer.selection}")
    raise AssertionError("informers never return")


async def synced(informers: Iterable[Informer]) -> None:
    """Return once every informer has delivered its first list: nothing is served before."""
    for informer in informers:
        await informer.synced.wait()

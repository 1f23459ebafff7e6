"""The one loop that owns the graph: events in, one propagation, one Change out.

Endpoints are served at once, and proxies with those that connect in the same moment; other changes
wait for a moment of quiet, so that a burst of objects becomes one push. Nothing is compiled before
every informer has synced.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Problem
from meltemi.base.resource import Change, NodeInfo
from meltemi.compile.build import Compiled, compile_views
from meltemi.compile.settings import MeshSettings, settings_view
from meltemi.flow import Graph, Source
from meltemi.model.build import Domain, Model, build
from meltemi.model.objects import Objects, objects
from meltemi.protos import Protos

log = logging.getLogger(__name__)

QUIET = 0.02
"""Seconds without a further change before ordinary changes are compiled."""
LONGEST = 0.5
"""Seconds an ordinary change waits at most, however many follow it."""
GATHER = 0.01
"""Seconds a proxy that connects waits for others: a herd costs a propagation for many."""
MOST_NAMES = 2000
"""Names one on-demand workload may learn."""
URGENT_KINDS = frozenset({"EndpointSlice", "Pod"})


class Event(Protocol):
    @property
    def key(self) -> ObjectKey: ...
    @property
    def raw(self) -> bytes | None: ...


class Engine:
    """Holds the graph, its sources and views. All calls come from one event loop."""

    def __init__(
        self,
        protos: Protos,
        domain: Domain,
        settings: MeshSettings,
        publish: Callable[[Change], None],
    ) -> None:
        self.domain = domain
        self.start = settings
        self.graph = Graph()
        self.objects: Objects = objects(self.graph, domain.cluster, domain.root)
        self.model: Model = build(self.graph, self.objects, domain)
        self.proxies: Source[str, NodeInfo] = self.graph.source("proxies")
        start: Source[str, MeshSettings] = self.graph.source("start settings")
        start.set("mesh", self.start)
        self.settings = settings_view(self.graph, start, self.objects.mesh.config)
        self.demands: Source[ObjectKey, frozenset[str]] = self.graph.source("demands")
        """What on-demand workloads have asked for: they go on being sent it."""
        self.compiled: Compiled = compile_views(
            self.graph, self.model, self.proxies, self.settings, protos, self.demands
        )
        self.refused: Callable[[], Sequence[Problem]] = tuple
        """What proxies refuse; xDS knows it."""
        self.changed = asyncio.Condition()
        """Notified after every propagation."""
        self._publish = publish
        self._urgent = asyncio.Event()
        self._pending = asyncio.Event()
        self._arriving = False
        self._delivered = 0
        self._propagated = 0

    def deliver(self, events: Sequence[Event]) -> None:
        """Take a batch from an informer."""
        urgent = False
        for event in events:
            source = self.objects.raw[event.key.kind]
            if event.raw is None:
                source.drop(event.key)
            else:
                source.set(event.key, event.raw)
            urgent = urgent or event.key.kind in URGENT_KINDS
        self._delivered += 1
        self._pending.set()
        if urgent:
            self._urgent.set()

    def connect(self, node: NodeInfo) -> None:
        """A proxy opened its stream: compile for it now."""
        self.proxies.set(node.id, node)
        self._arriving = True
        self._wake()

    def disconnect(self, node_id: str) -> None:
        """Nobody waits for what is no longer compiled, and the proxy may be about to come again."""
        self.proxies.drop(node_id)
        self._pending.set()

    def demand(self, node_id: str, names: Sequence[str]) -> bool:
        """An on-demand proxy needs these virtual hosts: its workload keeps them from now on.

        Answers whether they will be made: there is a limit to what one workload may learn.
        """
        workload = self.compiled.plans.learned.workloads.get(node_id)
        if workload is None:
            return False
        known = self.demands.get(workload) or frozenset()
        wanted = known | frozenset(names)
        if len(wanted) > max(MOST_NAMES, len(known)):
            log.warning("%s has asked for %d names: no more are learned", workload, MOST_NAMES)
            return False
        self.demands.set(workload, wanted)
        self._wake()
        return True

    def _wake(self) -> None:
        self._pending.set()
        self._urgent.set()

    def problems(self) -> Sequence[Problem]:
        """What is wrong with the objects, and what came of it when it met the proxies."""
        return [*self.graph.problems(), *self.compiled.problems(), *self.refused()]

    async def run(self) -> None:
        """Propagate whenever there is reason to, until cancelled."""
        while True:
            await self._pending.wait()
            await self._debounce()
            if self._arriving:
                await asyncio.sleep(GATHER)
                self._arriving = False
            self._pending.clear()
            self._urgent.clear()
            await self.propagate()

    async def propagate(self) -> None:
        """Bring every view up to date, hand the change to xDS, tell who waits."""
        delivered = self._delivered
        changes = self.graph.propagate()
        self._publish(self.compiled.change(changes, self.graph.revision))
        self._propagated = delivered
        async with self.changed:
            self.changed.notify_all()

    async def propagated_after(self, revision: int, seconds: float | None = None) -> int:
        """Wait for a propagation later than a revision, so long at most; answers the newest one.

        Who looks at the graph, and then waits for what it has seen, misses nothing meanwhile.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self.changed:
                await self.changed.wait_for(lambda: self.graph.revision > revision)
        return self.graph.revision

    async def caught_up(self, key: ObjectKey, version: int) -> int:
        """Wait until an object of at least this resource version has been propagated.

        Answers the revision it is part of. Raises KeyError for a kind the mesh does not read.
        """
        source = self.objects.raw[key.kind]
        async with self.changed:
            await self.changed.wait_for(lambda: _version(source.get(key)) >= version)
            wanted = self._delivered
            await self.changed.wait_for(lambda: self._propagated >= wanted)
            return self.graph.revision

    async def _debounce(self) -> None:
        """Return at once for urgent changes, else after a quiet moment."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LONGEST
        while not self._urgent.is_set() and loop.time() < deadline:
            self._pending.clear()
            try:
                async with asyncio.timeout(QUIET):
                    await _first(self._pending, self._urgent)
            except TimeoutError:
                return


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = "0"


class _Envelope(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()


def _version(raw: bytes | None) -> int:
    """The resource version of an object; a server that has no numbers counts as up to date."""
    if raw is None:
        return -1
    version = msgspec.json.decode(raw, type=_Envelope).metadata.resource_version
    return int(version) if version.isdecimal() else 0


async def _first(*events: asyncio.Event) -> None:
    """Return when any of the events is set."""
    tasks = [asyncio.create_task(event.wait(), name="wait for a change") for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()

"""Runs a reconcile function for keys that need it: one run a key at a time, retried with pauses."""

import asyncio
import logging
import random as random_module
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import NoReturn

from meltemi.api.meta import Json
from meltemi.base.keys import ObjectKey
from meltemi.kube.errors import Conflict, KubeError, NotFound

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 10.0

Reconcile = Callable[[ObjectKey], Awaitable[float | None]]
"""Makes one object so; returns seconds after which to look again although nothing changed."""


class Queue:
    """The keys of one controller. It holds each key once, so it is bounded by the objects."""

    def __init__(self, name: str, reconcile: Reconcile, random: random_module.Random) -> None:
        self._name = name
        self._reconcile = reconcile
        self._random = random
        self._ready: asyncio.Queue[ObjectKey] = asyncio.Queue()
        self._queued: set[ObjectKey] = set()
        self._running: set[ObjectKey] = set()
        self._again: set[ObjectKey] = set()
        self._pauses: dict[ObjectKey, float] = {}
        self._timers: dict[ObjectKey, asyncio.TimerHandle] = {}

    def add(self, key: ObjectKey) -> None:
        """Ask for a run; several before it starts are one."""
        if key in self._running:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.put_nowait(key)

    async def run(self) -> NoReturn:
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    key = await self._ready.get()
                    self._queued.discard(key)
                    self._running.add(key)
                    self._stop_timer(key)
                    group.create_task(self._one(key), name=f"{self._name} {key}")
        finally:
            for timer in self._timers.values():
                timer.cancel()
        raise AssertionError("a queue never ends")

    async def _one(self, key: ObjectKey) -> None:
        try:
            later = await self._reconcile(key)
            self._pauses.pop(key, None)
        except (Conflict, NotFound):
            # The cache was behind; the watch brings what is missing, and with it another run.
            later = self._pause(key)
        except KubeError as error:
            log.warning("%s %s: %s; trying again", self._name, key, error)
            later = self._pause(key)
        except Exception:
            log.exception("%s %s failed", self._name, key)
            later = self._pause(key)
        finally:
            self._running.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        elif later is not None:
            loop = asyncio.get_running_loop()
            self._timers[key] = loop.call_later(later, self._due, key)

    def _due(self, key: ObjectKey) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _stop_timer(self, key: ObjectKey) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _pause(self, key: ObjectKey) -> float:
        pause = min(self._pauses.get(key, _FIRST_PAUSE) * 2, _LONGEST_PAUSE)
        self._pauses[key] = pause
        return pause * (0.5 + self._random.random() / 2)


async def each(name: str, calls: Iterable[Coroutine[Json, Json, None]]) -> None:
    """Make all calls at once, each to its end whatever happens to the others.

    Raises the first KubeError afterwards. A call that were cancelled half-way might have been
    served, with nobody to see the answer.
    """
    failures: list[KubeError] = []

    async def one(call: Coroutine[Json, Json, None]) -> None:
        try:
            await call
        except KubeError as error:
            failures.append(error)

    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(one(call), name=name)
    if failures:
        raise failures[0]

"""Runs a reconcile function for keys that need it: one run a key at a time, retried with pauses."""

import asyncio
import logging
import random as random_module
from collections.abc import Awaitable, Callable
from typing import NoReturn

from meltemi.base.keys import ObjectKey
from meltemi.kube.errors import Conflict, KubeError, NotFound

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 10.0

Reconcile = Callable[[ObjectKey], Awaitable[None]]


class Queue:
    """The keys of one controller."""

    def __init__(self, name: str, reconcile: Reconcile, random: random_module.Random) -> None:
        self._name = name
        self._reconcile = reconcile
        self._random = random
        self._ready: asyncio.Queue[ObjectKey] = asyncio.Queue()
        self._queued: set[ObjectKey] = set()
        self._running: set[ObjectKey] = set()
        self._again: set[ObjectKey] = set()
        self._pauses: dict[ObjectKey, float] = {}

    def add(self, key: ObjectKey) -> None:
        """Ask for a run; several before it starts are one."""
        if key in self._running:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.put_nowait(key)

    def add_later(self, key: ObjectKey, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self.add, key)

    async def run(self) -> NoReturn:
        async with asyncio.TaskGroup() as group:
            while True:
                key = await self._ready.get()
                self._queued.discard(key)
                self._running.add(key)
                group.create_task(self._one(key), name=f"{self._name} {key}")
        raise AssertionError("a queue never ends")

    async def _one(self, key: ObjectKey) -> None:
        try:
            await self._reconcile(key)
            self._pauses.pop(key, None)
        except (Conflict, NotFound):
            # The cache was behind; the watch brings what is missing, and with it another run.
            self._retry(key)
        except KubeError as error:
            log.warning("%s %s: %s; trying again", self._name, key, error)
            self._retry(key)
        except Exception:
            log.exception("%s %s failed", self._name, key)
            self._retry(key)
        finally:
            self._running.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)

    def _retry(self, key: ObjectKey) -> None:
        pause = min(self._pauses.get(key, _FIRST_PAUSE) * 2, _LONGEST_PAUSE)
        self._pauses[key] = pause
        self.add_later(key, pause * (0.5 + self._random.random() / 2))

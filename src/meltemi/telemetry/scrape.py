"""Fetches the metrics of every proxy, every two seconds, spread over the interval."""

import asyncio
import logging
import random as random_module
from collections.abc import Callable, Mapping
from typing import NoReturn

import aiohttp

from meltemi.base.clock import Clock
from meltemi.telemetry.store import Store

log = logging.getLogger(__name__)

INTERVAL = 2.0
_TIMEOUT = 1.5
_AT_ONCE = 16
_FORGET_EVERY = 30
"""Rounds."""


class Scraper:
    """Follows the proxies there are. `targets` maps a proxy's name to the URL of its page."""

    def __init__(
        self,
        targets: Callable[[], Mapping[str, str]],
        store: Store,
        clock: Clock,
        *,
        random: random_module.Random,
        on_round: Callable[[], None],
        interval: float = INTERVAL,
    ) -> None:
        self._targets = targets
        self._store = store
        self._clock = clock
        self._random = random
        self._on_round = on_round
        self._interval = interval
        self.failures = 0
        """Pages that could not be had since the start."""

    async def run(self) -> NoReturn:
        """Scrape until cancelled."""
        limits = aiohttp.ClientTimeout(total=_TIMEOUT)
        connector = aiohttp.TCPConnector(limit=_AT_ONCE)
        async with aiohttp.ClientSession(timeout=limits, connector=connector) as session:
            rounds = 0
            while True:
                started = self._clock.monotonic()
                await self.round(session)
                rounds += 1
                if rounds % _FORGET_EVERY == 0:
                    self._store.forget(self._clock.now().timestamp())
                left = self._interval - (self._clock.monotonic() - started)
                await asyncio.sleep(max(left, 0.1))

    async def round(self, session: aiohttp.ClientSession) -> None:
        """One page of every proxy."""
        at_once = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for name, url in self._targets().items():
                group.create_task(self._one(session, at_once, name, url), name=f"scrape {name}")
        self._store.revision += 1
        self._on_round()

    async def _one(
        self, session: aiohttp.ClientSession, at_once: asyncio.Semaphore, name: str, url: str
    ) -> None:
        try:
            async with at_once, session.get(url) as reply:
                if reply.status != 200:
                    self.failures += 1
                    return
                page = await reply.text()
        except (aiohttp.ClientError, TimeoutError):
            self.failures += 1
            return
        self._store.add(name, page, self._clock.now().timestamp())

"""Fetches the metrics of every proxy, every two seconds, each proxy at a moment of its own."""

import asyncio
import random as random_module
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

import aiohttp

from meltemi.base.clock import Clock
from meltemi.telemetry.store import Store

INTERVAL = 2.0
_TIMEOUT = 1.5
_AT_ONCE = 16
_FORGET_EVERY = 30
"""Rounds."""
_LARGEST = 32 << 20
"""Bytes of a page; a pod's application adds to it, so it is not to be trusted."""


class _Target(NamedTuple):
    proxy: str
    url: str


class Scraper:
    """Follows the proxies there are. `targets` maps a proxy's name to the URL of its page;
    `on_round` is called after each interval, when every proxy had its turn."""

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
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._followed: dict[_Target, asyncio.Task[NoReturn]] = {}
        self.failures = 0
        """Pages that could not be had since the start."""

    async def run(self) -> NoReturn:
        """Scrape until cancelled."""
        session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT),
            connector=aiohttp.TCPConnector(limit=_AT_ONCE),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        async with session, asyncio.TaskGroup() as group:
            rounds = 0
            while True:
                self._follow(session, group)
                await asyncio.sleep(self._interval)
                rounds += 1
                if rounds % _FORGET_EVERY == 0:
                    self._store.forget(self._clock.now().timestamp())
                self._store.revision += 1
                self._on_round()

    def _follow(self, session: aiohttp.ClientSession, group: asyncio.TaskGroup) -> None:
        """Start with the proxies that came, stop with those that went."""
        wanted = {_Target(proxy, url) for proxy, url in self._targets().items()}
        for gone in self._followed.keys() - wanted:
            self._followed.pop(gone).cancel()
        for target in sorted(wanted - self._followed.keys()):
            task = group.create_task(self._one(session, target), name=f"scrape {target.proxy}")
            self._followed[target] = task

    async def _one(self, session: aiohttp.ClientSession, target: _Target) -> NoReturn:
        """One proxy, from a random moment of the interval on; a slow one delays no other."""
        await asyncio.sleep(self._random.random() * self._interval)
        while True:
            started = self._clock.monotonic()
            async with self._at_once:
                page = await self._page(session, target.url)
            if page is None:
                self.failures += 1
            else:
                self._store.add(target.proxy, page, self._clock.now().timestamp())
            spent = self._clock.monotonic() - started
            await asyncio.sleep(max(self._interval - spent, self._interval / 4))

    async def _page(self, session: aiohttp.ClientSession, url: str) -> str | None:
        """The page, or None where it cannot be had; the reason is the proxy's status to tell."""
        try:
            async with session.get(url, allow_redirects=False) as reply:
                if reply.status != 200:
                    return None
                body = bytearray()
                async for part in reply.content.iter_any():
                    body += part
                    if len(body) > _LARGEST:
                        return None
        except (aiohttp.ClientError, OSError, ValueError):
            return None
        # Envoy passes on bytes that are no UTF-8; they must not cost the page.
        return body.decode("utf-8", errors="replace")

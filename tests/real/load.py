"""Bounded load on the mesh: a count of requests, so many at once."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp


class Load:
    """Asks for a URL until stopped, a few at once; counts the answers."""

    def __init__(
        self, url: str, *, at_once: int = 4, most: int = 20_000, keeps_alive: bool = True
    ) -> None:
        self._url = url
        self._at_once = at_once
        self._keeps_alive = keeps_alive
        self._left = most
        self.answers: Counter[int | str] = Counter()
        self._stopping = asyncio.Event()
        self._answered = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Load":
        self._task = asyncio.create_task(self._run(), name="load")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        assert self._task is not None
        await self._task

    @property
    def failures(self) -> dict[int | str, int]:
        return {code: count for code, count in self.answers.items() if code != 200}

    async def reach(self, count: int) -> None:
        """Wait until that many more answers came."""
        wanted = self.answers.total() + count
        async with self._answered:
            await self._answered.wait_for(lambda: self.answers.total() >= wanted)

    async def _run(self) -> None:
        limits = aiohttp.ClientTimeout(total=15)
        connector = aiohttp.TCPConnector(force_close=not self._keeps_alive)
        async with (
            aiohttp.ClientSession(timeout=limits, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(self._at_once):
                group.create_task(self._visitor(session), name="visitor")

    async def _visitor(self, session: aiohttp.ClientSession) -> None:
        while not self._stopping.is_set() and self._left > 0:
            self._left -= 1
            try:
                async with session.get(self._url) as reply:
                    await reply.read()
                    self.answers[reply.status] += 1
            except (aiohttp.ClientError, TimeoutError) as error:
                self.answers[type(error).__name__] += 1
            async with self._answered:
                self._answered.notify_all()


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Poll for what only the outside can change and nothing announces."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def answers(
    url: str, count: int, *, headers: Mapping[str, str] | None = None, at_once: int = 16
) -> list[Any]:
    """The JSON bodies of `count` requests."""
    found: list[Any] = []
    left = iter(range(count))

    async def visitor(session: aiohttp.ClientSession) -> None:
        for _ in left:
            async with session.get(url) as reply:
                found.append(await reply.json(content_type=None))

    async with aiohttp.ClientSession(headers=headers) as session, asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(visitor(session), name="visitor")
    return found

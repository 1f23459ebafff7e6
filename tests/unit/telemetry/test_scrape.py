"""The scraper against a real server: failures cost nothing but a count."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from meltemi.base.clock import SystemClock
from meltemi.telemetry import scrape
from meltemi.telemetry.scrape import Scraper
from meltemi.telemetry.store import Store

from .conftest import line

INTERVAL = 0.02


class World:
    """Proxies by name, a server that answers for them, and a scraper that follows them."""

    def __init__(self) -> None:
        self.store = Store()
        self.targets: dict[str, str] = {}
        self.asked: dict[str, int] = {}
        self.body = b""
        self._rounds = asyncio.Condition()
        self._told = asyncio.Event()
        self._server = TestServer(self._app())
        self.scraper = Scraper(
            lambda: self.targets,
            self.store,
            SystemClock(),
            random=random.Random(4),
            on_round=self._told.set,
            interval=INTERVAL,
        )

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/ok/{proxy}", self._ok)
        app.router.add_get("/broken", self._broken)
        app.router.add_get("/elsewhere", self._elsewhere)
        app.router.add_get("/slow", self._slow)
        return app

    async def _ok(self, request: web.Request) -> web.Response:
        proxy = request.match_info["proxy"]
        count = self.asked[proxy] = self.asked.get(proxy, 0) + 1
        page = line("istio_requests_total", count, source_app=proxy)
        return web.Response(body=page.encode() + b"\n" + self.body)

    async def _broken(self, _: web.Request) -> web.Response:
        return web.Response(status=503)

    async def _elsewhere(self, _: web.Request) -> web.Response:
        raise web.HTTPFound("/ok/elsewhere")

    async def _slow(self, _: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    def url(self, path: str) -> str:
        return str(self._server.make_url(path))

    async def rounds(self, count: int) -> None:
        for _ in range(count):
            self._told.clear()
            await self._told.wait()

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self.rounds(1)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        await self._server.start_server()
        task = asyncio.create_task(self.scraper.run(), name="scraper")
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait([task])
            await self._server.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World().running() as found:
        yield found


async def test_every_proxy_is_followed(world: World) -> None:
    world.targets = {name: world.url(f"/ok/{name}") for name in ("a", "b", "c")}
    await world.until(lambda: len(world.asked) == 3 and min(world.asked.values()) >= 3)
    assert {s.series.labels.source_app for s in world.store.window(60, world.store.latest)} == {
        "a",
        "b",
        "c",
    }
    assert world.scraper.failures == 0
    assert world.store.revision >= 3


async def test_proxies_that_cannot_be_asked_are_counted_and_delay_no_other(world: World) -> None:
    world.targets = {
        "ok": world.url("/ok/ok"),
        "broken": world.url("/broken"),
        "slow": world.url("/slow"),
        "nowhere": "http://127.0.0.1:1/",
        "nonsense": "http://[",
        "moved": world.url("/elsewhere"),
    }
    await world.until(lambda: world.asked.get("ok", 0) >= 5 and world.scraper.failures >= 8)
    assert "elsewhere" not in world.asked


async def test_bytes_that_are_no_text_do_not_cost_the_page(world: World) -> None:
    world.body = b'istio_requests_total{source_app="\xff\xfe"} 1\n'
    world.targets = {"a": world.url("/ok/a")}
    await world.until(lambda: world.asked.get("a", 0) >= 3)
    assert world.scraper.failures == 0


async def test_a_page_without_end_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "_LARGEST", 1000)
    world.body = b"x" * 2000
    world.targets = {"a": world.url("/ok/a")}
    await world.until(lambda: world.scraper.failures >= 2)
    assert world.store.latest == 0


async def test_who_went_is_asked_no_more(world: World) -> None:
    world.targets = {"a": world.url("/ok/a"), "b": world.url("/ok/b")}
    await world.until(lambda: len(world.asked) == 2)
    world.targets = {"a": world.targets["a"]}
    await world.rounds(2)
    before = dict(world.asked)
    await world.until(lambda: world.asked["a"] >= before["a"] + 3)
    assert world.asked["b"] == before["b"]


async def test_a_proxy_with_a_new_address_is_followed_there(world: World) -> None:
    world.targets = {"a": world.url("/broken")}
    await world.until(lambda: world.scraper.failures >= 1)
    world.targets = {"a": world.url("/ok/a")}
    await world.until(lambda: world.asked.get("a", 0) >= 1)

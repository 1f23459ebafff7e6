"""The console's HTTP face: who may ask, what is refused, how pages are sent."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from meltemi.console.api import Console, State
from meltemi.console.types import Graph, GraphType, Mesh

MESH = Mesh(version="1", namespaces=(), proxies=2, proxies_synced=2, problems=0, components={})


class World:
    """A state whose revision a test can raise, and which counts the graphs it made."""

    def __init__(self) -> None:
        self.revision = 1
        self.changed = asyncio.Condition()
        self.graphs = 0

    def graph(self, spaces: tuple[str, ...], seconds: float, graph_type: GraphType) -> Graph:
        self.graphs += 1
        return Graph(
            at="2026-01-01T00:00:00+00:00",
            duration=seconds,
            graph_type=graph_type,
            namespaces=spaces,
            boxes=(),
            nodes=(),
            edges=(),
        )

    def state(self) -> State:
        return State(
            graph=self.graph,
            mesh=lambda: MESH,
            proxies=list,
            problems=list,
            revision=lambda: self.revision,
            changed=self.changed,
        )


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def static(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("<!doctype html><title>Meltemi</title>")
    assets = tmp_path / "assets"
    assets.mkdir()
    (assets / "app-1.js").write_text("console.log(1);" * 100)
    (assets / "app-1.js.br").write_bytes(b"brotli bytes")
    (assets / "app-1.css").write_text("p { margin: 0 }" * 100)
    (tmp_path.parent / "secret.txt").write_text("outside")
    return tmp_path


@pytest.fixture
async def client(world: World, static: Path) -> AsyncIterator[TestClient[Any, Any]]:
    server = TestServer(Console(world.state(), static).application(), host="127.0.0.1")
    async with TestClient(server, auto_decompress=False) as client:
        yield client


async def test_every_answer_forbids_foreign_scripts_and_frames(
    client: TestClient[Any, Any],
) -> None:
    for path in ("/", "/api/mesh", "/api/graph", "/api/nothing", "/assets/gone.js"):
        async with client.get(path) as reply:
            policy = reply.headers["Content-Security-Policy"]
            assert "default-src 'self'" in policy
            assert "script-src" not in policy
            assert "frame-ancestors 'none'" in policy
            assert reply.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "a b", "[::1"])
async def test_a_page_elsewhere_cannot_reach_it_by_a_name_of_its_own(
    client: TestClient[Any, Any], host: str
) -> None:
    async with client.get("/api/mesh", headers={"Host": host}) as reply:
        assert reply.status in (400, 421)


@pytest.mark.parametrize("host", ["localhost:20001", "127.0.0.1", "[::1]:20001", "LOCALHOST"])
async def test_local_names_are_served(client: TestClient[Any, Any], host: str) -> None:
    async with client.get("/api/mesh", headers={"Host": host}) as reply:
        assert reply.status == 200


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("type=pie", "type"),
        ("duration=long", "duration"),
        ("duration=1e9", "duration"),
        ("duration=nan", "duration"),
        ("namespaces=<script>", "namespaces"),
        ("namespaces=" + ",".join(f"n{i}" for i in range(300)), "namespaces"),
    ],
)
async def test_a_bad_parameter_is_named_and_not_repeated(
    client: TestClient[Any, Any], query: str, field: str
) -> None:
    async with client.get(f"/api/graph?{query}") as reply:
        assert reply.status == 400
        assert reply.content_type == "application/json"
        answer = await reply.json()
        assert answer["field"] == field
        assert "<script>" not in answer["message"]


async def test_a_graph_is_made_once_for_each_revision(
    client: TestClient[Any, Any], world: World
) -> None:
    for _ in range(3):
        async with client.get("/api/graph?namespaces=default") as reply:
            assert (await reply.json())["namespaces"] == ["default"]
    assert world.graphs == 1
    world.revision = 2
    async with client.get("/api/graph?namespaces=default") as reply:
        assert reply.status == 200
    assert world.graphs == 2


async def test_events_tell_of_each_new_revision(client: TestClient[Any, Any], world: World) -> None:
    async with client.get("/api/events") as reply:
        assert await reply.content.readuntil(b"\n\n") == b'event: graph\ndata: {"revision": 1}\n\n'
        world.revision = 2
        async with world.changed:
            world.changed.notify_all()
        assert await reply.content.readuntil(b"\n\n") == b'event: graph\ndata: {"revision": 2}\n\n'


@pytest.mark.parametrize(
    ("taken", "encoding"), [("gzip, deflate, br", "br"), ("gzip", "gzip"), ("", None)]
)
async def test_scripts_are_sent_in_the_smallest_form_that_is_taken(
    client: TestClient[Any, Any], taken: str, encoding: str | None
) -> None:
    async with client.get("/assets/app-1.js", headers={"Accept-Encoding": taken}) as reply:
        assert reply.headers.get("Content-Encoding") == encoding
        assert reply.content_type == "text/javascript"
        assert "immutable" in reply.headers["Cache-Control"]
        body = await reply.read()
    if encoding == "br":
        assert body == b"brotli bytes"


async def test_a_known_file_is_not_sent_again(client: TestClient[Any, Any]) -> None:
    async with client.get("/", headers={"Accept-Encoding": "gzip"}) as reply:
        tag = reply.headers["ETag"]
    headers = {"Accept-Encoding": "gzip", "If-None-Match": tag}
    async with client.get("/", headers=headers) as reply:
        assert reply.status == 304


@pytest.mark.parametrize("path", ["/graph", "/some/page?x=1"])
async def test_other_paths_are_the_apps_own(client: TestClient[Any, Any], path: str) -> None:
    async with client.get(path, headers={"Accept-Encoding": ""}) as reply:
        assert "Meltemi" in await reply.text()
        assert reply.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "path", ["/../secret.txt", "/%2e%2e/secret.txt", "/assets/..%2f..%2fsecret.txt", "/a%00b"]
)
async def test_nothing_outside_of_its_directory_is_served(
    client: TestClient[Any, Any], path: str
) -> None:
    async with client.get(path, headers={"Accept-Encoding": ""}) as reply:
        assert "outside" not in await reply.text()


async def test_only_reading_is_possible(client: TestClient[Any, Any]) -> None:
    for path in ("/api/mesh", "/", "/api/graph"):
        async with client.post(path) as reply:
            assert reply.status == 405

"""A small API server whose lists and watches the test writes by hand."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from meltemi.kube.client import Client
from meltemi.kube.kubeconfig import Access


class ScriptedApi:
    """Answers GET on pods from `items`, and watches from `events`; records what it was asked."""

    def __init__(self) -> None:
        self.version = 1
        self.items: dict[str, dict[str, Any]] = {}
        self.events: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.lists: list[str] = []
        self.watches: asyncio.Queue[str] = asyncio.Queue()
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, Any]]] = []

    def put(self, name: str) -> dict[str, Any]:
        """Store a pod at a new version, without telling watchers."""
        self.version += 1
        meta = {"name": name, "namespace": "default", "resourceVersion": str(self.version)}
        self.items[name] = {"metadata": meta}
        return self.items[name]

    def send(self, kind: str, obj: dict[str, Any]) -> None:
        self.events.put_nowait(json.dumps({"type": kind, "object": obj}).encode() + b"\n")

    def end_watch(self) -> None:
        self.events.put_nowait(None)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append((request.method, request.path_qs, dict(request.headers), body))
        if self.answers:
            code, answer = self.answers.pop(0)
            return web.json_response(answer, status=code)
        if request.query.get("watch"):
            return await self._watch(request)
        self.lists.append(request.query.get("resourceVersion", ""))
        listed = {
            "metadata": {"resourceVersion": str(self.version)},
            "items": list(self.items.values()),
        }
        return web.json_response(listed)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse()
        await reply.prepare(request)
        self.watches.put_nowait(request.query["resourceVersion"])
        while (event := await self.events.get()) is not None:
            await reply.write(event)
        return reply


@pytest.fixture
def api() -> ScriptedApi:
    return ScriptedApi()


@pytest.fixture
async def client(api: ScriptedApi) -> AsyncIterator[Client]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    async with TestServer(app) as server:
        url = str(server.make_url("/")).rstrip("/")
        async with Client(Access(server=url)) as client:
            yield client

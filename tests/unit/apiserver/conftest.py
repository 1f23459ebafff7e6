"""A real embedded API on a loopback port, and a client that sends what a test writes."""

import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meltemi.kube.kubeconfig import access_from_file, ssl_context
from meltemi.local.apiserver.server import Running, running

Json = dict[str, Any]
PODS = "/api/v1/namespaces/default/pods"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
SERVICES = "/api/v1/namespaces/default/services"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"


class Answer:
    """A response, read."""

    def __init__(self, status: int, headers: Any, raw: bytes) -> None:
        self.status = status
        self.headers = headers
        self.raw = raw

    @property
    def body(self) -> Json:
        found: Json = json.loads(self.raw)
        return found

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))

    @property
    def warnings(self) -> list[str]:
        return list(self.headers.getall("Warning", []))


class Api:
    """Requests as the administrator, or with a token of somebody else."""

    def __init__(self, url: str, tls: ssl.SSLContext | None, token: str = "") -> None:
        self.url = url
        connector = aiohttp.TCPConnector(limit=0, ssl=tls if tls is not None else True)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.session = aiohttp.ClientSession(connector=connector, headers=headers)

    async def call(
        self, method: str, path: str, body: Any = None, *, media: str = "application/json",
        accept: str = "application/json", **headers: str,
    ) -> Answer:  # fmt: skip
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Accept": accept, **{k.replace("_", "-"): v for k, v in headers.items()}}
        if data is not None:
            sent["Content-Type"] = media
        async with self.session.request(method, self.url + path, data=data, headers=sent) as reply:
            return Answer(reply.status, reply.headers, await reply.read())

    async def good(self, method: str, path: str, body: Any = None, **more: Any) -> Json:
        """The body of an answer that has to be a success."""
        answer = await self.call(method, path, body, **more)
        assert answer.status < 300, answer.raw.decode()
        return answer.body

    async def get(self, path: str) -> Json:
        return await self.good("GET", path)

    async def post(self, path: str, body: Any) -> Json:
        return await self.good("POST", path, body)

    async def put(self, path: str, body: Any) -> Json:
        return await self.good("PUT", path, body)

    async def delete(self, path: str, body: Any = None) -> Json:
        return await self.good("DELETE", path, body)

    async def patch(self, path: str, body: Any, media: str = MERGE) -> Json:
        return await self.good("PATCH", path, body, media=media)

    async def apply(
        self, path: str, body: Any, manager: str = "me", *, force: bool = False
    ) -> Json:
        query = f"?fieldManager={manager}" + ("&force=true" if force else "")
        return await self.patch(path + query, body, APPLY)

    @asynccontextmanager
    async def watch(self, path: str, query: str = "") -> AsyncIterator[AsyncIterator[Json]]:
        async with self.session.get(f"{self.url}{path}?watch=true&{query}") as reply:

            async def events() -> AsyncIterator[Json]:
                async for line in reply.content:
                    yield json.loads(line)

            yield events()

    async def until_gone(self, path: str) -> None:
        """Return once the object at a path has been taken out."""
        collection, _, name = path.rpartition("/")
        async with self.watch(collection, f"fieldSelector=metadata.name={name}") as events:
            if (await self.call("GET", path)).status == 404:
                return
            async for event in events:
                if event["type"] == "DELETED":
                    return


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    sock = socket.create_server(("127.0.0.1", 0))
    async with running(tmp_path / "data", [sock]) as found:
        yield found


@pytest.fixture
async def api(server: Running) -> AsyncIterator[Api]:
    access = access_from_file(server.kubeconfig)
    found = Api(access.server, ssl_context(access))
    yield found
    await found.session.close()


@pytest.fixture
def pod() -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": "echo:1"}]},
    }

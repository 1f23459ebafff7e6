"""Fake proxies in a process of their own: delta ADS streams that acknowledge everything.

`python -m bench.fleet SOCKET` reads commands from stdin, one JSON line each, and answers each with
one on stdout: `{"do": "open", "nodes": [...]}` connects and answers when every proxy has been
served its clusters, endpoints, listeners and routes; `{"do": "reopen"}` ends every stream, connects
all of them at once as Envoy does, naming the versions it holds, and answers when all are served;
`{"do": "cpu"}` answers the seconds of CPU this process has used.

In a mesh the proxies are thousands of machines. Here one core plays them all, so what a proxy says
when it comes again is written before the clock starts: versions in one of several orders, because
Envoy's maps have none, and sent in pieces that proxies share.
"""

import asyncio
import contextlib
import functools
import gc
import json
import random
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from meltemi.base.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE
from meltemi.protos.small import message_classes

_CLASSES: Mapping[str, Any] = message_classes(
    "bench.fleet",
    {
        "Node": {"id": (1, "string")},
        "Version": {"key": (1, "string"), "value": (2, "string")},
        "Request": {
            "node": (1, "Node"),
            "type_url": (2, "string"),
            "subscribe": (3, "string*"),
            "initial": (5, "Version*"),
            "nonce": (6, "string"),
        },
        "Resource": {"version": (1, "string"), "name": (3, "string")},
        "Response": {
            "resources": (2, "Resource*"),
            "type_url": (4, "string"),
            "nonce": (5, "string"),
        },
    },
)
_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
)
_TYPES = (CLUSTER, ENDPOINT, LISTENER, ROUTE)
_LIMIT = 60.0
_ORDERS = 8
"""In how many orders versions are said."""
_ROUTES = ("8080",)
"""The route configurations of the generated mesh."""


@functools.lru_cache(maxsize=64)
def _read(body: bytes) -> tuple[str, str, Mapping[str, str]]:
    """A response's type, nonce and versions; proxies of one scope are sent equal bytes."""
    response = _CLASSES["Response"].FromString(body)
    versions = {resource.name: resource.version for resource in response.resources}
    return response.type_url, response.nonce, versions


@functools.lru_cache(maxsize=256)
def _request(type_url: str, nonce: str, names: tuple[str, ...] = ()) -> bytes:
    request = _CLASSES["Request"](type_url=type_url, nonce=nonce, subscribe=names)
    return bytes(request.SerializeToString())


@functools.lru_cache(maxsize=1024)
def _versions(versions: tuple[tuple[str, str], ...], order: int) -> bytes:
    """initial_resource_versions, shuffled."""
    shuffled = list(versions)
    random.Random(order).shuffle(shuffled)
    request = _CLASSES["Request"]()
    for name, version in shuffled:
        request.initial.add(key=name, value=version)
    return bytes(request.SerializeToString())


@functools.lru_cache(maxsize=1024)
def _names(names: tuple[str, ...]) -> bytes:
    return bytes(_CLASSES["Request"](subscribe=names).SerializeToString())


class Proxy:
    """One stream. What it holds outlives the stream, as in Envoy."""

    def __init__(self, node: str, channel: Any) -> None:
        self._node = node
        self._call = channel.stream_stream(_METHOD)
        self._held: dict[str, dict[str, str]] = {url: {} for url in _TYPES}
        self._heard: set[str] = set()
        self._stream: Any = None
        self._task: asyncio.Task[None] | None = None
        self.served = asyncio.Event()

    def prepare(self, number: int) -> None:
        """Write what is said first. Proxies of one namespace hold mostly the same."""
        self._heard = set()
        self.served.clear()
        held, order = self._held, number % _ORDERS
        self._first: list[tuple[bytes, ...]] = []
        for url in _TYPES:
            own = {n: v for n, v in held[url].items() if not n.startswith("outbound|")}
            shared = tuple(item for item in held[url].items() if item[0] not in own)
            pieces = [_request(url, ""), _versions(shared, order), _versions(tuple(own.items()), 0)]
            if url in (ENDPOINT, ROUTE):
                pieces.append(_names(_ROUTES if url == ROUTE else tuple(held[url])))
            self._first.append(tuple(pieces))
        node = _CLASSES["Request"](node={"id": self._node}).SerializeToString()
        self._first[0] = (node, *self._first[0])

    def connect(self) -> None:
        self._task = asyncio.create_task(self._converse(), name=self._node)

    async def disconnect(self) -> None:
        if self._task is not None:
            self._stream.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _converse(self) -> None:
        self._stream = self._call()
        clusters, endpoints, listeners, routes = self._first
        if self._held[CLUSTER]:
            for pieces in (clusters, endpoints, listeners, routes):
                await self._send(b"".join(pieces))
            self._heard.update((ENDPOINT, ROUTE))
        else:
            await self._send(b"".join(clusters))
            await self._send(b"".join(listeners))
        while True:
            body = await self._stream.read()
            if body is grpc.aio.EOF:
                raise ConnectionResetError("the control plane ended the stream")
            await self._take(body)

    async def _take(self, body: bytes) -> None:
        url, nonce, versions = _read(body)
        is_new = not self._held[url]
        self._held[url].update(versions)
        await self._send(_request(url, nonce))
        if url == CLUSTER and is_new:
            names = tuple(name for name in versions if name.startswith("outbound|"))
            await self._send(_request(ENDPOINT, "", names))
        if url == LISTENER and is_new:
            await self._send(_request(ROUTE, "", _ROUTES))
        self._heard.add(url)
        if self._heard.issuperset(_TYPES):
            self.served.set()

    async def _send(self, body: bytes) -> None:
        await self._stream.write(body)

    def failure(self) -> str:
        """Why it is not served."""
        if self._task is None or not self._task.done():
            return f"waits, having heard {sorted(self._heard)}"
        return repr(self._task.exception())


class Fleet:
    """All the proxies."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._proxies: list[Proxy] = []

    async def open(self, nodes: list[str]) -> dict[str, Any]:
        new = []
        for node in nodes:
            channel = grpc.aio.insecure_channel(f"unix:{self._socket}", options=_OPTIONS)
            new.append(Proxy(node, channel))
        self._proxies += new
        return await _connect(new)

    async def reopen(self) -> dict[str, Any]:
        await asyncio.gather(*(proxy.disconnect() for proxy in self._proxies))
        return await _connect(self._proxies)

    async def cpu(self) -> dict[str, Any]:
        return {"seconds": time.process_time()}


async def _connect(proxies: Sequence[Proxy]) -> dict[str, Any]:
    """Open all streams at once; how long until all are served, and what went wrong."""
    for number, proxy in enumerate(proxies):
        proxy.prepare(number)
    gc.collect()
    gc.freeze()
    started = time.monotonic()
    for proxy in proxies:
        proxy.connect()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LIMIT):
            await asyncio.gather(*(proxy.served.wait() for proxy in proxies))
    seconds = time.monotonic() - started
    failures = [proxy.failure() for proxy in proxies if not proxy.served.is_set()]
    return {"seconds": seconds, "failures": [text[:200] for text in failures]}


async def _main(socket: str) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    fleet = Fleet(socket)
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        answer = await getattr(fleet, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))

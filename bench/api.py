"""The embedded Kubernetes API over HTTP and TLS: writes, lists, watches, start, memory."""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp

from bench.apiserver import Server, config_map, serving
from bench.figures import Figure

_MAPS = "/api/v1/namespaces/default/configmaps"
_OBJECTS, _MORE, _AT_ONCE = 5000, 4000, 32
_BEGIN, _END = b'{"type":', b"}\n"
"""Of an event's line; only there does a line end without a carriage return."""
_WATCHERS, _EVENTS_A_SECOND, _SECONDS = 100, 50, 6


async def run() -> AsyncIterator[Figure]:
    with tempfile.TemporaryDirectory() as place:
        data = Path(place)
        async with serving(data) as server, server.client(_AT_ONCE + _WATCHERS) as client:
            yield Figure("memory at rest, nothing stored", server.memory, "MiB")
            seconds = await _create(client, 0, _OBJECTS)
            yield Figure(
                f"creates, {_AT_ONCE} at once", _OBJECTS / seconds, "/s", 1500, more_is_better=True
            )
            yield Figure(f"list of {_OBJECTS} objects", await _list(client), "ms", 60)
            lags, cpu = await _watch(server, client)
            what = f"event to {_WATCHERS} watchers at {_EVENTS_A_SECOND} events/s"
            yield Figure(f"{what}, median", statistics.median(lags) * 1000, "ms")
            yield Figure(f"{what}, p99", lags[int(len(lags) * 0.99)] * 1000, "ms", 15)
            yield Figure(f"{what}, CPU of the API", cpu * 1000, "ms")
            await _create(client, _OBJECTS, _OBJECTS + _MORE)
            yield Figure(f"memory with {_OBJECTS + _MORE} objects", server.memory, "MiB")
        started = time.perf_counter()
        async with serving(data) as server:
            seconds = time.perf_counter() - started
            yield Figure(f"start with {_OBJECTS + _MORE} objects, interpreter too", seconds, "s", 1)
            what = f"memory at rest after it, {_OBJECTS + _MORE} objects"
            yield Figure(what, server.memory, "MiB")


async def _create(client: aiohttp.ClientSession, first: int, end: int) -> float:
    numbers = iter(range(first, end))

    async def writer() -> None:
        for number in numbers:
            async with client.post(_MAPS, json=config_map(f"map-{number}")) as reply:
                assert reply.status == 201, await reply.text()

    started = time.perf_counter()
    await asyncio.gather(*(writer() for _ in range(_AT_ONCE)))
    return time.perf_counter() - started


async def _list(client: aiohttp.ClientSession) -> float:
    """The median in milliseconds, to the last byte."""
    spans = []
    for _ in range(7):
        started = time.perf_counter()
        async with client.get(_MAPS) as reply:
            body = await reply.read()
        spans.append(time.perf_counter() - started)
    assert len(json.loads(body)["items"]) >= _OBJECTS
    return statistics.median(spans) * 1000


async def _watch(server: Server, client: aiohttp.ClientSession) -> tuple[list[float], float]:
    """Seconds from sending a write to each watcher's having its event, in order of size; and
    seconds of the API's CPU for each write with all its events, which says more on a busy machine.

    One process plays all watchers: each is a bare connection that notes what comes and when, to be
    read afterwards, or the last watcher would wait for what the others do with theirs.
    """
    writes = _EVENTS_A_SECOND * _SECONDS
    watchers = [await _watcher(server, writes) for _ in range(_WATCHERS)]
    await asyncio.gather(*(watcher.opened.wait() for watcher in watchers))

    async def write(number: int) -> None:
        body = config_map(f"lag-{number}", sent=repr(time.perf_counter()))
        body["metadata"]["labels"]["lag"] = "yes"
        async with client.post(_MAPS, json=body) as reply:
            assert reply.status == 201

    used = server.cpu
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(writes):
            await asyncio.sleep(max(0, started + number / _EVENTS_A_SECOND - time.perf_counter()))
            group.create_task(write(number))
    await asyncio.gather(*(watcher.done.wait() for watcher in watchers))
    spent = (server.cpu - used) / writes
    for watcher in watchers:
        watcher.close()
    return sorted(lag for watcher in watchers for lag in _lags(watcher.chunks)), spent


async def _watcher(server: Server, lines: int) -> "_Watcher":
    connect = asyncio.get_running_loop().create_connection
    _, found = await connect(lambda: _Watcher(lines), "127.0.0.1", server.port, ssl=server.tls())
    return found


class _Watcher(asyncio.Protocol):
    """A watch over a bare connection: the head of the answer, then lines in HTTP chunks."""

    def __init__(self, lines: int) -> None:
        self.chunks: list[tuple[float, bytes]] = []
        self.opened, self.done = asyncio.Event(), asyncio.Event()
        self._left = lines
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        path = f"{_MAPS}?watch=true&labelSelector=lag%3Dyes"
        transport.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self.chunks.append((time.perf_counter(), data))
        self.opened.set()
        self._left -= data.count(_END)
        if self._left <= 0:
            self.done.set()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _lags(chunks: list[tuple[float, bytes]]) -> Iterator[float]:
    """How late each line of one watch was complete."""
    rest = b""
    for arrived, chunk in chunks:
        *lines, rest = (rest + chunk).split(_END)
        for line in lines:
            event = json.loads(line[line.index(_BEGIN) :] + b"}")
            yield arrived - float(event["object"]["data"]["sent"])

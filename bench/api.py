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

    One process plays all watchers: it notes when bytes come and reads them afterwards, or the last
    watcher would wait for what the others do with theirs.
    """
    received: list[list[tuple[float, bytes]]] = [[] for _ in range(_WATCHERS)]
    ready = [asyncio.Event() for _ in range(_WATCHERS)]
    writes = _EVENTS_A_SECOND * _SECONDS

    async def watcher(opened: asyncio.Event, chunks: list[tuple[float, bytes]]) -> None:
        lines = 0
        async with client.get(_MAPS, params={"watch": "true", "labelSelector": "lag=yes"}) as reply:
            opened.set()
            while lines < writes:
                chunk = await reply.content.readany()
                chunks.append((time.perf_counter(), chunk))
                lines += chunk.count(b"\n")

    async def write(number: int) -> None:
        body = config_map(f"lag-{number}", sent=repr(time.perf_counter()))
        body["metadata"]["labels"]["lag"] = "yes"
        async with client.post(_MAPS, json=body) as reply:
            assert reply.status == 201

    async with asyncio.TaskGroup() as group:
        for opened, chunks in zip(ready, received, strict=True):
            group.create_task(watcher(opened, chunks))
        await asyncio.gather(*(opened.wait() for opened in ready))
        used = server.cpu
        started = time.perf_counter()
        for number in range(writes):
            await asyncio.sleep(max(0, started + number / _EVENTS_A_SECOND - time.perf_counter()))
            group.create_task(write(number))
    lags = sorted(lag for chunks in received for lag in _lags(chunks))
    return lags, (server.cpu - used) / writes


def _lags(chunks: list[tuple[float, bytes]]) -> Iterator[float]:
    """How late each line of one watch was complete."""
    rest = b""
    for arrived, chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield arrived - float(json.loads(line)["object"]["data"]["sent"])

"""kill -9 of the embedded API while it writes: no acknowledged write may be lost."""

import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from bench.apiserver import Server, config_map, serving
from bench.figures import Figure

_KILLS, _WRITERS = 1000, 8
_NAMES = 250
"""Objects of each writer, changed again and again: the database stays of one size."""
_LONGEST = 0.3
"""Seconds of writing before a kill, at most."""
_APPLY = {"Content-Type": "application/apply-patch+yaml"}
_MAPS = "/api/v1/namespaces/default/configmaps"


class Ledger:
    """What was acknowledged: name to resource version."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}
        self.count = 0
        self.lost: set[tuple[str, int]] = set()
        self.regressed = 0
        self._highest = 0

    def note(self, name: str, version: int) -> None:
        self.taken[name] = version
        self.count += 1
        self._highest = max(self._highest, version)

    def check(self, found: dict[str, int], now: int) -> None:
        """Compare with what the API holds after its restart.

        A newer version than the one that was acknowledged is a write whose answer was cut off.
        """
        self.lost |= {(n, v) for n, v in self.taken.items() if found.get(n, 0) < v}
        self.regressed += now < self._highest


async def run() -> AsyncIterator[Figure]:
    dice = random.Random(4)
    ledger = Ledger()
    starts: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        for _ in range(_KILLS):
            began = time.perf_counter()
            async with serving(Path(place)) as server:
                starts.append(time.perf_counter() - began)
                async with server.client(_WRITERS) as client:
                    await _compare(client, ledger)
                    await _write_and_kill(server, client, ledger, dice.uniform(0, _LONGEST))
        async with serving(Path(place)) as server, server.client(1) as client:
            await _compare(client, ledger)
    yield Figure(f"acknowledged writes over {_KILLS} kills", ledger.count, "")
    yield Figure("of them lost", len(ledger.lost), "")
    yield Figure("resource versions that went backwards", ledger.regressed, "")
    yield Figure("start, interpreter too, median", statistics.median(starts), "s", 1)
    yield Figure("slowest start", max(starts), "s")


async def _compare(client: aiohttp.ClientSession, ledger: Ledger) -> None:
    async with client.get(_MAPS) as reply:
        answer = json.loads(await reply.read())
    found = {m["metadata"]["name"]: int(m["metadata"]["resourceVersion"]) for m in answer["items"]}
    ledger.check(found, int(answer["metadata"]["resourceVersion"]))


async def _write_and_kill(
    server: Server, client: aiohttp.ClientSession, ledger: Ledger, seconds: float
) -> None:
    async def writer(number: int) -> None:
        names = [f"map-{number}-{i}" for i in range(_NAMES)]
        while True:
            name = random.choice(names)
            body = config_map(name, number=str(ledger.count))
            where = f"{_MAPS}/{name}?fieldManager=bench&force=true"
            async with client.patch(where, data=json.dumps(body), headers=_APPLY) as reply:
                answer = await reply.json()
                assert reply.status in (200, 201), answer
                ledger.note(name, int(answer["metadata"]["resourceVersion"]))
                first.set()

    first = asyncio.Event()
    writers = [asyncio.create_task(writer(i)) for i in range(_WRITERS)]
    begun = asyncio.create_task(first.wait())
    await asyncio.wait([begun, *writers], return_when=asyncio.FIRST_COMPLETED)
    begun.cancel()
    await asyncio.sleep(seconds)
    server.process.kill()
    await server.process.wait()
    for result in await asyncio.gather(*writers, return_exceptions=True):
        if not isinstance(result, aiohttp.ClientError | OSError):
            raise RuntimeError("a write was refused") from result

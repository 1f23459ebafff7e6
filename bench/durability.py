"""kill -9 of the embedded API while it writes: no acknowledged write may be lost."""

import asyncio
import json
import random
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from bench.apiserver import Server, config_map, serving
from bench.figures import Figure

_KILLS, _WRITERS = 1000, 8
_LONGEST = 0.3
"""Seconds of writing before a kill, at most."""
_MAPS = "/api/v1/namespaces/default/configmaps"


class Ledger:
    """What was acknowledged: name to resource version."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}
        self.lost: list[str] = []
        self.regressed = 0
        self._highest = 0
        self._count = 0

    def name(self) -> str:
        self._count += 1
        return f"map-{self._count}"

    def note(self, name: str, version: int) -> None:
        self.taken[name] = version
        self._highest = max(self._highest, version)

    def check(self, found: dict[str, int], now: int) -> None:
        """Compare with what the API holds after its restart."""
        self.lost += [name for name, version in self.taken.items() if found.get(name) != version]
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
    yield Figure(f"acknowledged writes over {_KILLS} kills", len(ledger.taken), "")
    yield Figure("of them lost", len(ledger.lost), "")
    yield Figure("resource versions that went backwards", ledger.regressed, "")
    yield Figure("slowest start", max(starts), "s")


async def _compare(client: aiohttp.ClientSession, ledger: Ledger) -> None:
    async with client.get(_MAPS) as reply:
        answer = json.loads(await reply.read())
    found = {m["metadata"]["name"]: int(m["metadata"]["resourceVersion"]) for m in answer["items"]}
    ledger.check(found, int(answer["metadata"]["resourceVersion"]))


async def _write_and_kill(
    server: Server, client: aiohttp.ClientSession, ledger: Ledger, seconds: float
) -> None:
    async def writer() -> None:
        while True:
            name = ledger.name()
            async with client.post(_MAPS, json=config_map(name)) as reply:
                body = await reply.json()
                if reply.status == 201:
                    ledger.note(name, int(body["metadata"]["resourceVersion"]))

    writers = [asyncio.create_task(writer()) for _ in range(_WRITERS)]
    await asyncio.sleep(seconds)
    server.process.kill()
    await asyncio.gather(*writers, return_exceptions=True)

"""The control plane under load: 1,000 services, 500 proxies, changes timed to the last ACK.

The engine, the xDS server and its unix socket are the product's own, joined as `app.serve` joins
them; the API's informers are left out, so that a change begins when the engine hears of it.
"""

import asyncio
import gc
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from bench import world
from bench.figures import Figure, resident_mib
from bench.rules import engine
from meltemi.app.engine import Engine
from meltemi.app.serve import GC
from meltemi.xds.cache import Cache
from meltemi.xds.server import OPTIONS, Discovery
from meltemi.xds.status import Status

SERVICES, PROXIES, HERD = 1000, 500, 2000
_RULES = 20
_ROUNDS = 15


class Plane:
    """Engine and xDS server, in this process."""

    def __init__(self, engine: Engine, status: Status, discovery: Discovery) -> None:
        self.engine = engine
        self.status = status
        self.discovery = discovery

    async def settled_after(self, event: world.Event) -> float:
        """Milliseconds from an event's arrival to the last proxy's acknowledgement."""
        started = time.monotonic()
        self.engine.deliver([event])
        async with self.engine.changed:
            await self.engine.changed.wait()
        await self.status.settled(self.engine.graph.revision)
        return (time.monotonic() - started) * 1000


def make() -> Plane:
    cache = Cache()
    status = Status(cache)
    subject = engine(cache.apply)
    discovery = Discovery(
        cache, status, on_connect=subject.connect, on_disconnect=subject.disconnect
    )
    return Plane(subject, status, discovery)


@asynccontextmanager
async def running(socket: Path) -> AsyncIterator[Plane]:
    """A control plane that has just synced, as `app.serve` starts it."""
    plane = make()
    others = asyncio.all_tasks()
    plane.engine.deliver(list(world.world(SERVICES, _RULES)))
    await plane.engine.propagate()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC)
    server = grpc.aio.server(options=OPTIONS)
    plane.discovery.add_to(server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    plane.discovery.ready.set()
    loop = asyncio.create_task(plane.engine.run(), name="engine")
    try:
        yield plane
    finally:
        await server.stop(0)
        loop.cancel()
        ended = asyncio.all_tasks() - others
        await asyncio.wait(ended)


class Fleet:
    """The process of fake proxies."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        line = await stdout.readline()
        if not line:
            raise RuntimeError("the fleet of proxies ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def fleet(socket: Path) -> AsyncIterator[Fleet]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.fleet",
        str(socket),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
        env={**os.environ, "GRPC_VERBOSITY": "ERROR"},
    )
    try:
        yield Fleet(process)
    finally:
        process.kill()
        await process.wait()


async def run() -> AsyncIterator[Figure]:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    before = resident_mib()
    with tempfile.TemporaryDirectory() as place:
        socket = Path(place) / "xds.sock"
        async with fleet(socket) as proxies:
            async with running(socket) as plane:
                first = await proxies.ask("open", nodes=_nodes(0, PROXIES))
                yield _from_answer(f"{PROXIES} proxies served everything at first", first)
                for figure in await _changes(plane, proxies):
                    yield figure
                yield Figure("memory", resident_mib() - before, "MiB", aim=300)
                more = await proxies.ask("open", nodes=_nodes(PROXIES, HERD))
                yield _from_answer(f"{HERD - PROXIES} more served everything at first", more)
            async with running(socket):
                cpu = time.process_time()
                again = await proxies.ask("reopen")
                what = f"{HERD} proxies reconnect at once to a new control plane, all served"
                yield _from_answer(what, again, aim=5)
                yield Figure("of them cancelled", len(again["failures"]), "")
                yield Figure("CPU of the control plane for it", time.process_time() - cpu, "s")


def _nodes(first: int, end: int) -> list[str]:
    return [world.proxy(number).id for number in range(first, end)]


def _from_answer(what: str, answer: dict[str, Any], aim: float | None = None) -> Figure:
    """How long a command took; failures are told on stderr."""
    for failure in answer["failures"][:3]:
        print(f"  {failure}", file=sys.stderr)
    return Figure(what, answer["seconds"], "s", aim)


async def _changes(plane: Plane, proxies: Fleet) -> Sequence[Figure]:
    """Every change, from its arrival until every proxy has it."""
    found: list[Figure] = []
    kinds = (
        ("endpoint", 100.0, lambda n: world.endpoint_slice(700, 1 + n % 2)),
        ("VirtualService", 200.0, lambda n: world.virtual_service(7, 50 + n)),
    )
    for name, aim, make_change in kinds:
        here, there = time.process_time(), (await proxies.ask("cpu"))["seconds"]
        spans = [await plane.settled_after(world.Event(make_change(n))) for n in range(_ROUNDS)]
        here = time.process_time() - here
        there = (await proxies.ask("cpu"))["seconds"] - there
        median = statistics.median(spans)
        found += [
            Figure(f"{name} change to the last of {PROXIES} ACKs, median", median, "ms", aim),
            Figure(f"{name} change, slowest of {_ROUNDS}", max(spans), "ms"),
            Figure(f"{name} change, CPU of the control plane", here / _ROUNDS * 1000, "ms"),
            Figure(f"{name} change, CPU of all proxies", there / _ROUNDS * 1000, "ms"),
        ]
    # The next control plane finds the objects as this one did.
    await plane.settled_after(world.Event(world.endpoint_slice(700, world.PODS)))
    await plane.settled_after(world.Event(world.virtual_service(7, 90)))
    return found

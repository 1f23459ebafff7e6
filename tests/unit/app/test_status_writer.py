"""The loop behind every status that the control plane writes."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from meltemi.app.engine import Engine
from meltemi.app.status_writer import Status, StatusWriter
from meltemi.base.keys import ObjectKey
from meltemi.compile.settings import MeshSettings
from meltemi.model.build import Domain
from meltemi.protos import load
from meltemi.proxy.envoy import envoy_path

KEY = ObjectKey("VirtualService", "default", "a")


class Client:
    """An API whose watchers hear of a write before its writer does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.written = 0

    async def patch(self, *_: object, **__: object) -> None:
        self.written += 1
        await self._engine.propagate()


class Twice(StatusWriter):
    """Has something to say at its first look, and again at its second."""

    what = "looks"

    def __init__(self, engine: Engine, client: Client) -> None:
        super().__init__(engine, client)  # type: ignore[arg-type]
        self.looks = 0
        self.done = asyncio.Event()

    def outdated(self) -> Iterator[tuple[ObjectKey, Status]]:
        self.looks += 1
        if self.looks <= 2:
            yield KEY, {"looks": self.looks}
        else:
            self.done.set()


async def test_a_change_during_a_write_is_looked_at(tmp_path: Path) -> None:
    engine = Engine(load(envoy_path(), tmp_path), Domain(), MeshSettings(), lambda _change: None)
    client = Client(engine)
    writer = Twice(engine, client)
    running = asyncio.create_task(writer.run(), name="status")
    await asyncio.wait_for(writer.done.wait(), 5)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert client.written == 2


async def test_waiting_ends_with_what_came_before_or_with_the_time(tmp_path: Path) -> None:
    engine = Engine(load(envoy_path(), tmp_path), Domain(), MeshSettings(), lambda _change: None)
    before = engine.graph.revision
    assert await engine.propagated_after(before, 0.0) == before
    await engine.propagate()
    assert await engine.propagated_after(before) == before + 1

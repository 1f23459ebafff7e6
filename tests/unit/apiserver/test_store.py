"""The store: what writers, readers and followers see while a transaction is under way."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from meltemi.local.apiserver.store import Change, Entry, Resource, Store, StoreFailed

MAPS = Resource("", "configmaps")


class Gate:
    """Holds the database thread, and may make it fail."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.entered = asyncio.Event()
        self.error: Exception | None = None
        self._loop = asyncio.get_running_loop()
        self._write = store._write
        monkeypatch.setattr(store, "_write", self.write)

    def write(self, batch: Any) -> None:
        self._loop.call_soon_threadsafe(self.entered.set)
        self.open.wait(10)
        if self.error is not None:
            raise self.error
        self._write(batch)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    found = Store(tmp_path / "state.db")
    found.open()
    yield found
    await found.close()


@pytest.fixture
async def gate(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gate]:
    found = Gate(store, monkeypatch)
    yield found
    found.open.set()


def names(entries: Iterator[Entry]) -> list[str]:
    return [entry.name for entry in entries]


def body(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}}


async def test_readers_see_a_write_once_it_is_durable(store: Store, gate: Gate) -> None:
    told: list[Change] = []
    store.follow(MAPS, told.extend)
    put = asyncio.create_task(store.put(MAPS, "x", "a", body("a")))
    await gate.entered.wait()
    assert names(store.entries(MAPS)) == ["a"], "the next writer has to build on it"
    assert store.durable(MAPS, "x", "a") is None
    assert names(store.durable_entries(MAPS)) == []
    assert (told, store.committed < store.version, put.done()) == ([], True, False)
    gate.open.set()
    entry = await put
    assert store.durable(MAPS, "x", "a") == entry
    assert [change.entry for change in told] == [entry]
    assert store.committed == entry.version


async def test_nothing_is_left_of_a_write_that_fails_nor_of_those_after_it(
    store: Store, gate: Gate
) -> None:
    gate.open.set()
    kept = await store.put(MAPS, "x", "kept", body("kept"))
    gate.open.clear()
    gate.error = sqlite3.OperationalError("database or disk is full")
    gate.entered.clear()
    first = asyncio.create_task(store.put(MAPS, "x", "a", body("a")))
    await gate.entered.wait()
    second = asyncio.create_task(store.put(MAPS, "x", "a", body("a")))
    third = asyncio.create_task(store.remove(MAPS, "x", "kept"))
    same = asyncio.create_task(store.settled(MAPS, "x", "a"))
    await asyncio.sleep(0)
    assert names(store.entries(MAPS)) == ["a"]
    assert names(store.durable_entries(MAPS)) == ["kept"]
    gate.open.set()
    results = await asyncio.gather(first, second, third, same, return_exceptions=True)
    assert [type(r) for r in results] == [StoreFailed] * 4
    assert names(store.entries(MAPS)) == names(store.durable_entries(MAPS)) == ["kept"]
    gate.error = None
    again = await store.put(MAPS, "x", "a", body("a"))
    assert again.version > kept.version, "versions are never given out twice"
    assert store.changes(MAPS, kept.version) == [Change(again.version, again, None, False)]


async def test_a_writer_that_leaves_takes_nobody_along(store: Store, gate: Gate) -> None:
    put = asyncio.create_task(store.put(MAPS, "x", "a", body("a")))
    await gate.entered.wait()
    other = asyncio.create_task(store.settled(MAPS, "x", "a"))
    await asyncio.sleep(0)
    put.cancel()
    gate.open.set()
    await other
    assert names(store.durable_entries(MAPS)) == ["a"]
    await asyncio.gather(put, return_exceptions=True)

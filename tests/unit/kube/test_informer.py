"""List, watch, break, and list again: what the listener hears."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client
from meltemi.kube.informer import Backoff, Event, Informer
from meltemi.kube.paths import Selection


class Heard:
    """Collects what an informer delivers."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[Sequence[Event]] = asyncio.Queue()

    async def next(self) -> list[tuple[str, bool]]:
        batch = await asyncio.wait_for(self.batches.get(), 5)
        return [(e.key.name, e.raw is not None) for e in batch]


@asynccontextmanager
async def running(
    client: Client, heard: Heard, waits: list[float] | None = None, **options: Any
) -> AsyncIterator[Informer]:
    async def sleep(seconds: float) -> None:
        if waits is not None:
            waits.append(seconds)
        await asyncio.sleep(0)

    informer = Informer(
        client,
        Selection("Pod", labels="app=x"),
        heard.batches.put_nowait,
        random=random.Random(1),
        sleep=sleep,
        **options,
    )
    task = asyncio.create_task(informer.run())
    try:
        yield informer
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_first_list_is_delivered_with_its_kind_before_synced(api, client) -> None:
    api.put("a")
    heard = Heard()
    async with running(client, heard) as informer:
        await informer.synced.wait()
        batch = heard.batches.get_nowait()
        assert [e.key for e in batch] == [ObjectKey("Pod", "default", "a")]
        decoded = msgspec.json.decode(batch[0].raw)
        assert (decoded["kind"], decoded["apiVersion"]) == ("Pod", "v1")
        assert "labelSelector=app%3Dx" in api.seen[0][1]
        assert await api.watches.get() == "2"


async def test_events_arrive_in_order_and_a_break_resumes_from_the_last_version(
    api, client
) -> None:
    heard = Heard()
    async with running(client, heard):
        await api.watches.get()
        api.send("ADDED", api.put("a"))
        assert await heard.next() == [("a", True)]
        api.send("DELETED", api.put("a"))
        assert await heard.next() == [("a", False)]
        api.send("BOOKMARK", {"metadata": {"resourceVersion": "77"}})
        api.end_watch()
        assert await api.watches.get() == "77"
        assert api.lists == ["0"]


async def test_an_event_split_over_chunks_is_one_event(api, client) -> None:
    heard = Heard()
    async with running(client, heard):
        await api.watches.get()
        line = msgspec.json.encode({"type": "ADDED", "object": api.put("a")})
        api.events.put_nowait(line[:20])
        api.events.put_nowait(line[20:] + b"\n")
        assert await heard.next() == [("a", True)]


async def test_gone_history_lists_again_and_delivers_only_differences(api, client) -> None:
    api.put("kept")
    api.put("changed")
    api.put("removed")
    heard = Heard()
    async with running(client, heard):
        assert len(await heard.next()) == 3
        await api.watches.get()
        del api.items["removed"]
        api.put("changed")
        api.put("new")
        api.send("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"})
        api.end_watch()
        assert await heard.next() == [("removed", False), ("changed", True), ("new", True)]
        assert api.lists == ["0", ""]


async def test_failures_back_off_and_are_visible_until_it_works(api, client) -> None:
    api.answers += [(503, {"kind": "Status", "message": "busy"})] * 4
    heard, waits = Heard(), []
    async with running(client, heard, waits) as informer:
        await api.watches.get()
        assert informer.failure is None
        assert len(waits) == 4
        assert waits == sorted(waits)


async def test_a_watch_that_ends_at_once_does_not_spin(api, client) -> None:
    heard, waits = Heard(), []
    for _ in range(4):
        api.end_watch()
    async with running(client, heard, waits):
        for _ in range(5):
            await api.watches.get()
        assert len(waits) == 4
        assert waits[3] > waits[0] * 3


async def test_an_optional_kind_that_is_not_served_counts_as_synced(api, client) -> None:
    api.answers += [(404, {"kind": "Status", "reason": "NotFound"})]
    async with running(client, Heard(), optional=True) as informer:
        await informer.synced.wait()
        assert informer.failure is None


def test_backoff_grows_to_its_ceiling_and_resets() -> None:
    backoff = Backoff(random.Random(0))
    waits = [backoff.wait() for _ in range(20)]
    assert 0.05 <= waits[0] <= 0.1
    assert 15 <= waits[-1] <= 30
    backoff.reset()
    assert backoff.wait() <= 0.1

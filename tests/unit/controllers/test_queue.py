"""One run a key at a time, none lost, failures tried again."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from meltemi.base.keys import ObjectKey
from meltemi.kube.errors import Conflict, KubeError, Unavailable
from meltemi.local.controllers.queue import Queue, each

A, B = ObjectKey("Pod", "default", "a"), ObjectKey("Pod", "default", "b")


@asynccontextmanager
async def running(
    reconcile: Callable[[ObjectKey], Awaitable[float | None]],
) -> AsyncIterator[Queue]:
    queue = Queue("test", reconcile, random.Random(1))
    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        task = group.create_task(queue.run())
        yield queue
        task.cancel()


async def test_key_runs_alone_and_changes_meanwhile_lead_to_one_more_run() -> None:
    started, go, done = asyncio.Event(), asyncio.Event(), asyncio.Event()
    runs = 0

    async def reconcile(_: ObjectKey) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            started.set()
            await go.wait()
        else:
            done.set()

    async with running(reconcile) as queue:
        queue.add(A)
        await started.wait()
        queue.add(A)
        queue.add(A)
        go.set()
        await done.wait()
        await asyncio.sleep(0)
    assert runs == 2


async def test_keys_run_side_by_side() -> None:
    both = asyncio.Barrier(3)

    async def reconcile(_: ObjectKey) -> None:
        await both.wait()

    async with running(reconcile) as queue:
        queue.add(A)
        queue.add(B)
        await both.wait()


@pytest.mark.parametrize(
    "failure", [Conflict(409, "Conflict", "behind"), Unavailable("away"), RuntimeError("our bug")]
)
async def test_failed_key_runs_again(failure: Exception) -> None:
    done = asyncio.Event()
    failures = [failure, failure]

    async def reconcile(_: ObjectKey) -> None:
        if failures:
            raise failures.pop()
        done.set()

    async with running(reconcile) as queue:
        queue.add(A)
        await done.wait()


async def test_key_runs_again_after_the_seconds_it_asks_for() -> None:
    done = asyncio.Event()
    asked = [0.01]

    async def reconcile(_: ObjectKey) -> float | None:
        if asked:
            return asked.pop()
        done.set()
        return None

    async with running(reconcile) as queue:
        queue.add(A)
        await done.wait()


async def test_one_failing_call_does_not_cut_off_the_others() -> None:
    finished = []
    failed = asyncio.Event()

    async def bad() -> None:
        failed.set()
        raise Unavailable("away")

    async def good() -> None:
        await failed.wait()
        await asyncio.sleep(0)
        finished.append("good")

    with pytest.raises(KubeError, match="away"):
        await each("call", [bad(), good()])
    assert finished == ["good"]

"""Probes by their thresholds, in a time that the test makes."""

import asyncio
import contextlib

import pytest

from meltemi.local.node.health import Health, Illness
from meltemi.local.node.podspec import Container, Probe
from meltemi.local.node.probes import EAGER, Verdict, decisions


class _Over(Exception):
    """There are no more answers."""


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


async def decided(probe: Probe, answers: list[bool], *, eager: bool) -> list[tuple[float, bool]]:
    """(seconds, decision) for answers in turn; the last one repeats for a while."""
    time, failures, found = Time(), [], []
    left = iter(answers)

    async def ask() -> Verdict:
        good = next(left, None)
        if good is None:
            raise _Over
        return Verdict(good, "" if good else "no")

    decided_ = decisions(
        probe, ask, is_eager=eager, failed=failures.append, now=lambda: time.now, sleep=time.sleep
    )
    with contextlib.suppress(_Over):
        async for decision in decided_:
            found.append((time.now - 100.0, decision))
    return found


async def test_failures_count_once_a_period_and_decide_at_the_threshold() -> None:
    probe = Probe(period_seconds=5, failure_threshold=3)
    found = await decided(probe, [True, False, False, False, False], eager=False)
    assert found == [(0.0, True), (15.0, False)]


async def test_until_the_first_success_it_is_asked_often_but_counted_by_period() -> None:
    probe = Probe(period_seconds=2, failure_threshold=2)
    found = await decided(probe, [False] * 10 + [True], eager=True)
    assert found == [(pytest.approx(10 * EAGER), True)]


async def test_a_delay_and_a_success_threshold_hold() -> None:
    probe = Probe(initial_delay_seconds=7, period_seconds=1, success_threshold=3)
    assert await decided(probe, [True, True, True, True], eager=True) == [(9.0, True)]


async def test_a_bad_state_is_told_again_at_every_threshold() -> None:
    probe = Probe(period_seconds=1, failure_threshold=2)
    found = await decided(probe, [False] * 4, eager=False)
    assert found == [(1.0, False), (3.0, False)]


class Said(list[object]):
    """What was told; `heard` returns once something in particular was."""

    def __init__(self) -> None:
        super().__init__()
        self._grown = asyncio.Event()

    def append(self, what: object) -> None:
        super().append(what)
        self._grown.set()

    async def heard(self, what: object) -> None:
        while what not in self:
            self._grown.clear()
            await self._grown.wait()


def health(container: Container, answers: dict[str, list[bool]], said: Said) -> Health:
    async def ask(probe: Probe) -> Verdict:
        which = next(
            name
            for name in ("startup", "liveness", "readiness")
            if probe is getattr(container, f"{name}_probe")
        )
        await asyncio.sleep(0)
        good = answers[which].pop(0) if len(answers[which]) > 1 else answers[which][0]
        return Verdict(good, "" if good else f"{which} is bad")

    return Health(
        container,
        ask,
        started=lambda: said.append("started"),
        ready=said.append,
        failed=lambda which, answer: said.append((which, answer)),
        now=asyncio.get_running_loop().time,
    )


async def test_a_container_that_does_not_start_is_ill() -> None:
    probe = Probe(failure_threshold=1, termination_grace_period_seconds=3)
    said = Said()
    container = Container("c", startup_probe=probe, liveness_probe=Probe())
    ill = await health(container, {"startup": [False], "liveness": [True]}, said).watch()
    assert ill == Illness("Startup", 3)
    assert said == [("Startup", "startup is bad")]


async def test_without_probes_it_is_started_and_ready_at_once() -> None:
    said = Said()
    watching = asyncio.create_task(health(Container("c"), {}, said).watch())
    await said.heard(True)
    watching.cancel()
    assert said == ["started", True]


async def test_what_is_ending_is_no_longer_ill() -> None:
    said = Said()
    container = Container("c", liveness_probe=Probe(failure_threshold=1))
    found = health(container, {"liveness": [False]}, said)
    found.is_ending = True
    watching = asyncio.create_task(found.watch())
    await said.heard(("Liveness", "liveness is bad"))
    assert not watching.done()
    watching.cancel()

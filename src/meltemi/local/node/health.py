"""The probes of one run of a container: when it has started, when it is ready, when it is ill."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from meltemi.local.node.podspec import Container, Probe
from meltemi.local.node.probes import Verdict, decisions

Ask = Callable[[Probe], Awaitable[Verdict]]


class Illness(msgspec.Struct, frozen=True):
    """Why a container has to be ended for its own good."""

    probe: str
    """Startup or Liveness."""
    grace: int | None
    """Seconds it may take to end, where the probe says so."""


class Health:
    """Watches by the container's probes; tells starts, readiness and failures."""

    def __init__(
        self,
        container: Container,
        ask: Ask,
        *,
        started: Callable[[], None],
        ready: Callable[[bool], None],
        failed: Callable[[str, str], None],
        now: Callable[[], float],
    ) -> None:
        """`failed`: (which probe, its answer), for each failure that counts."""
        self._container = container
        self._ask = ask
        self._started = started
        self._ready = ready
        self._failed = failed
        self._now = now
        self.is_ending = False
        """It was told to end: it can no longer be ill, but still stop being ready."""

    async def watch(self) -> Illness:
        """Watch until the container is ill; for ever if it never is."""
        container = self._container
        if container.startup_probe is not None:
            async for good in self._decisions("Startup", container.startup_probe):
                if good:
                    break
                if not self.is_ending:
                    return _illness("Startup", container.startup_probe)
        self._started()
        following = asyncio.create_task(self._follow_readiness(), name="readiness probe")
        try:
            if container.liveness_probe is not None:
                async for good in self._decisions("Liveness", container.liveness_probe):
                    if not good and not self.is_ending:
                        return _illness("Liveness", container.liveness_probe)
            await asyncio.Event().wait()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        raise AssertionError("a watch ends by illness or by cancellation")

    async def _follow_readiness(self) -> None:
        if self._container.readiness_probe is None:
            self._ready(True)
            return
        async for good in self._decisions("Readiness", self._container.readiness_probe):
            self._ready(good)

    def _decisions(self, which: str, probe: Probe) -> AsyncIterator[bool]:
        return decisions(
            probe,
            lambda: self._ask(probe),
            is_eager=which != "Liveness",
            failed=lambda answer: self._failed(which, answer),
            now=self._now,
        )


def _illness(which: str, probe: Probe) -> Illness:
    return Illness(which, probe.termination_grace_period_seconds)

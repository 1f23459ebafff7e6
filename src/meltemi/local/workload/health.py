"""The health of a workload, by its group's probe, written into its entry's status."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from meltemi.api.meta import Json
from meltemi.api.workload_entry import HttpGet, ReadinessProbe
from meltemi.base.clock import Clock
from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client
from meltemi.kube.errors import KubeError
from meltemi.kube.writer import patch_status
from meltemi.local.node.network import dial

_PERIOD, _TIMEOUT, _FAILURES = 10, 1, 3
"""Kubernetes' defaults."""
_LONGEST_HEAD = 4096


class Health:
    """Asks again and again; writes the answer when it changes."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        entry: ObjectKey,
        probe: ReadinessProbe,
        network: str,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._clock = clock
        self._entry = entry
        self._probe = probe
        self._sleep = sleep
        self._network = network
        """The path of the workload's namespace; empty: this one."""

    async def run(self) -> None:
        """Until cancelled."""
        probe = self._probe
        await self._sleep(probe.initial_delay_seconds)
        told: bool | None = None
        row = 0
        while True:
            passed = await self._passes()
            row = row + 1 if row > 0 and passed else row - 1 if row < 0 and not passed else 0
            row = row or (1 if passed else -1)
            wanted = probe.success_threshold if passed else probe.failure_threshold or _FAILURES
            enough = wanted or 1
            if told is not passed and (abs(row) >= enough or told is None):
                told = passed if await self._tell(passed) else told
            await self._sleep(probe.period_seconds or _PERIOD)

    async def _passes(self) -> bool:
        try:
            async with asyncio.timeout(self._probe.timeout_seconds or _TIMEOUT):
                return await self.check()
        except (TimeoutError, OSError, ValueError):
            return False

    async def check(self) -> bool:
        """Ask once. Raises OSError, ValueError."""
        probe = self._probe
        if probe.http_get is not None:
            return await self._http(probe.http_get)
        if probe.exec is not None:
            return await self._exec(probe.exec.command)
        _, writer = await dial(self._network, probe.tcp_socket.port if probe.tcp_socket else 0)
        writer.close()
        return True

    async def _http(self, get: HttpGet) -> bool:
        reader, writer = await dial(self._network, get.port)
        try:
            head = [f"GET {get.path or '/'} HTTP/1.0", f"Host: {get.host or 'localhost'}"]
            head += [f"{h.name}: {h.value}" for h in get.http_headers]
            writer.write("\r\n".join((*head, "", "")).encode())
            answer = (await reader.read(_LONGEST_HEAD)).split(b" ", 2)
        finally:
            writer.close()
        return len(answer) > 1 and 200 <= int(answer[1]) < 400

    async def _exec(self, command: Sequence[str]) -> bool:
        inside = ("nsenter", f"--net={self._network}") if self._network else ()
        process = await asyncio.create_subprocess_exec(
            *inside,
            *command,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            return await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _tell(self, passed: bool) -> bool:
        condition: dict[str, Json] = {
            "type": "Healthy",
            "status": "True" if passed else "False",
            "lastProbeTime": f"{self._clock.now():%Y-%m-%dT%H:%M:%SZ}",
            "lastTransitionTime": f"{self._clock.now():%Y-%m-%dT%H:%M:%SZ}",
        }
        try:
            await patch_status(self._client, self._entry, {"conditions": [condition]})
        except KubeError:
            return False
        return True

"""What containers use of CPU and memory, for `kubectl top`."""

import contextlib
import os
from collections.abc import Iterable, Sequence

import msgspec

from meltemi.kube.client import JsonObject
from meltemi.local.memory import descendants, pss_mib
from meltemi.local.node.machine import Machine
from meltemi.local.node.pod import Worker

_WINDOW = 5.0
"""Seconds over which a use of CPU is measured, at least."""


class _Sample(msgspec.Struct, frozen=True):
    at: float
    """Monotonic seconds."""
    cpu: float
    """Seconds of CPU used since the process began."""


class Stats:
    """Measures; keeps for each container the sample that the next rate is taken from."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._samples: dict[int, tuple[_Sample, _Sample]] = {}
        """First process to its earlier and its latest sample."""

    def sample(self, workers: Iterable[Worker]) -> None:
        """Take note of what every container has used; to be called now and then."""
        live: dict[int, tuple[_Sample, _Sample]] = {}
        for worker in workers:
            for runner in worker.runners.values():
                if runner.pid:
                    live[runner.pid] = self._sampled(runner.pid, descendants(runner.pid))
        self._samples = live

    def _sampled(self, pid: int, pids: Sequence[int]) -> tuple[_Sample, _Sample]:
        now = _Sample(self._machine.clock.monotonic(), _cpu_seconds(pids))
        earlier, latest = self._samples.get(pid, (now, now))
        if now.at - latest.at >= _WINDOW:
            earlier = latest
        return earlier, now

    def summary(self, workers: Iterable[Worker]) -> JsonObject:
        """The node and every container. CPU is a rate (nanocores), memory what it takes (PSS)."""
        used = {
            worker.key: [
                {"name": runner.container.name, **self._usage(runner.pid)}
                for runner in worker.runners.values()
                if runner.pid
            ]
            for worker in workers
        }
        every = [container for containers in used.values() for container in containers]
        node = {
            "name": self._machine.node_name,
            "cpuNanoCores": sum(c["cpuNanoCores"] for c in every),
            "pssBytes": sum(c["pssBytes"] for c in every),
        }
        pods = [
            {"namespace": key.namespace, "name": key.name, "containers": containers}
            for key, containers in used.items()
        ]
        return {"timestamp": self._machine.stamp(), "node": node, "pods": pods}

    def _usage(self, pid: int) -> JsonObject:
        pids = descendants(pid)
        earlier, now = self._sampled(pid, pids)
        self._samples[pid] = earlier, now
        seconds = now.at - earlier.at
        rate = max(0.0, now.cpu - earlier.cpu) / seconds if seconds > 0 else 0.0
        return {
            "pssBytes": int(pss_mib(pids) * (1 << 20)),
            "cpuSeconds": now.cpu,
            "cpuNanoCores": int(rate * 1e9),
            "windowSeconds": seconds,
        }


def _cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of processes and of the children they have waited for."""
    ticks = 0
    for number in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{number}/stat", encoding="ascii") as file:
                fields = file.read().rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")

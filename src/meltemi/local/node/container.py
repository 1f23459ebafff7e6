"""One container: started, probed, restarted after a pause, ended."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from meltemi.kube.errors import KubeError
from meltemi.local.node import probes
from meltemi.local.node.errors import BadPod, NodeError, NotStarted, VolumeMissing
from meltemi.local.node.launch import joined_start
from meltemi.local.node.logs import Log, PipeReader
from meltemi.local.node.machine import Machine
from meltemi.local.node.podspec import Container, Handler, Pod, Probe
from meltemi.local.node.process import Exited, Start
from meltemi.local.node.spawn import Process
from meltemi.local.node.status import ContainerState, Running, Terminated, Waiting

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 300.0
"""Seconds before a restart, doubled each time (the kubelet's)."""
_CALM = 600.0
"""Seconds of running well after which the pause starts over."""

Prepare = Callable[[], Awaitable[Start]]
"""Makes everything ready for a start; raises NodeError, KubeError."""


class Runner:
    """Runs one container of a pod, and says what state it is in."""

    def __init__(
        self,
        machine: Machine,
        pod: Pod,
        container: Container,
        *,
        ip: Callable[[], str],
        logs: Path,
        prepare: Prepare,
        changed: Callable[[], None],
        policy: str,
    ) -> None:
        """`policy`: Always, OnFailure or Never. `changed` is called at every change of state."""
        self._machine = machine
        self._pod = pod
        self.container = container
        self._logs = logs
        self._prepare = prepare
        self._changed = changed
        self._policy = policy
        self._ip = ip
        self._process: Process | None = None
        self._start: Start | None = None
        self._stopping = asyncio.Event()
        self._unhealthy = ""
        self.state = ContainerState()
        self.log: Log | None = None
        self.started = asyncio.Event()
        """Set once the container runs and its startup probe, if any, has succeeded."""
        self.ended = asyncio.Event()
        """Set when it has ended and will not be started again."""

    @property
    def pid(self) -> int:
        """The container's first process; 0 while it does not run."""
        running = self._process is not None and not self._process.exit.done()
        return self._process.pid if running and self._process is not None else 0

    def log_path(self, *, previous: bool = False) -> Path:
        """The log of the present run, or of the one before."""
        return self._logs / f"{max(0, self.state.restarts - (1 if previous else 0))}.log"

    async def run(self) -> None:
        """Start and restart until the policy or `stop` ends it."""
        pause = 0.0
        try:
            while not self._stopping.is_set():
                began = self._machine.clock.monotonic()
                code = await self._once()
                if self._stopping.is_set() or not self._wants_restart(code):
                    return
                if self._machine.clock.monotonic() - began > _CALM:
                    pause = 0.0
                if pause:
                    await self._back_off(pause)
                pause = min(max(pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
                if code is not None and not self._stopping.is_set():
                    self._set(restarts=self.state.restarts + 1)
        finally:
            self.ended.set()

    async def stop(self, grace: float) -> None:
        """End it: hook, SIGTERM, and after `grace` seconds SIGKILL. Returns when it has ended."""
        self._stopping.set()
        self._set(is_ready=False)
        process = self._process
        if process is None:
            return
        deadline = self._machine.clock.monotonic() + grace
        hook = self.container.lifecycle.pre_stop
        if hook is not None and not process.exit.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._handle(hook)
        process.kill(signal.SIGTERM)
        left = max(deadline - self._machine.clock.monotonic(), 2.0 if hook else 0.0)
        try:
            async with asyncio.timeout(left):
                await process.wait()
        except TimeoutError:
            process.kill(signal.SIGKILL)
            await process.wait()

    def kill(self) -> None:
        """End it at once."""
        self._stopping.set()
        if self._process is not None:
            self._process.kill(signal.SIGKILL)

    async def gone(self) -> None:
        """Return when no process of it is left."""
        if self._process is not None:
            await self._process.wait()

    def joined(self, argv: tuple[str, ...], *, tty: bool = False) -> Start:
        """What to start for a further process in the container. Raises NotStarted."""
        if self._process is None or self._start is None or self._process.exit.done():
            raise NotStarted(f"container {self.container.name} is not running")
        return joined_start(self._start, self._process.pid, argv, tty=tty)

    async def command(self, argv: tuple[str, ...], timeout: float) -> tuple[int, str]:
        """Run a command in the container to its end: its exit code and what it said."""
        said = bytearray()
        read, write = os.pipe2(os.O_CLOEXEC)
        nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        reader = PipeReader(read, said.extend)
        process: Process | None = None
        try:
            process = await self._machine.spawner.start(self.joined(argv), (nothing, write, write))
            os.close(write)
            write = -1
            async with asyncio.timeout(timeout):
                ended = await process.wait()
            return ended.code, said.decode(errors="replace")
        except NotStarted as error:
            return 126, str(error)
        except TimeoutError:
            return 137, f"the command took longer than {timeout:g} s"
        finally:
            if process is not None:
                process.kill(signal.SIGKILL)
            reader.close()
            for fd in (write, nothing):
                if fd >= 0:
                    os.close(fd)

    async def _once(self) -> int | None:
        """One run; the exit code, or None when it could not start."""
        try:
            start = await self._prepare()
            process = await self._spawn(start)
        except (NodeError, KubeError) as error:
            self._failed(error)
            return None
        self._start, self._process = start, process
        self._set(
            state=Running(self._machine.stamp()),
            is_started=self.container.startup_probe is None,
            is_ready=self.container.startup_probe is None
            and self.container.readiness_probe is None,
        )
        self._tell("Started", f"Started container {self.container.name}")
        if self.state.is_started:
            self.started.set()
        watching = asyncio.create_task(self._watch(), name=f"probes of {self.container.name}")
        try:
            ended = await process.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        self._record(ended)
        return ended.code

    async def _spawn(self, start: Start) -> Process:
        path = self.log_path()
        self.log = Log(path, self._machine.clock)
        read, write = os.pipe2(os.O_CLOEXEC)
        nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        reader = PipeReader(read, self.log.feed)
        try:
            process = await self._machine.spawner.start(start, (nothing, write, write))
        except NotStarted:
            reader.close()
            self.log.close()
            raise
        finally:
            os.close(write)
            os.close(nothing)
        done = asyncio.create_task(_close_after(process, reader, self.log), name="log end")
        process.exit.add_done_callback(lambda _: done.done())
        return process

    def _failed(self, error: Exception) -> None:
        """It could not start: say why, in the terms that `kubectl get pods` shows."""
        message = str(error)
        if isinstance(error, VolumeMissing | BadPod):
            reason, event = "CreateContainerConfigError", "Failed"
        elif "no image" in message:
            reason, event = "ErrImagePull", "Failed"
        else:
            reason, event = "CreateContainerError", "Failed"
        self._set(state=Waiting(reason, message), is_ready=False, is_started=False)
        self._tell(event, f"Error: {message}", is_warning=True)

    def _record(self, ended: Exited) -> None:
        since = self.state.state.since if isinstance(self.state.state, Running) else ""
        reason = "Completed" if ended.code == 0 else "Error"
        terminated = Terminated(
            code=ended.code,
            reason=reason,
            signal=ended.signal,
            since=since,
            until=self._machine.stamp(),
            message=self._unhealthy,
        )
        self._unhealthy = ""
        self._process = None
        self.started.clear()
        self._set(state=terminated, last=terminated, is_ready=False, is_started=False)

    def _wants_restart(self, code: int | None) -> bool:
        if code is None:
            return True
        return self._policy == "Always" or (self._policy == "OnFailure" and code != 0)

    async def _back_off(self, pause: float) -> None:
        name, pod = self.container.name, self._pod.metadata
        if not isinstance(self.state.state, Waiting):
            message = (
                f"back-off {pause:g}s restarting failed container={name} "
                f"pod={pod.name}_{pod.namespace}({pod.uid})"
            )
            self._set(state=Waiting("CrashLoopBackOff", message))
            self._tell("BackOff", f"Back-off restarting failed container {name}", is_warning=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._stopping.wait()

    async def _watch(self) -> None:
        """Hooks and probes of one run; cancelled at its end."""
        container = self.container
        hook = container.lifecycle.post_start
        if hook is not None:
            await self._handle(hook)
        async with asyncio.TaskGroup() as group:
            if container.startup_probe is not None:
                watch = self._probe(container.startup_probe, self._startup, is_eager=True)
                group.create_task(watch, name="startup probe")
                await self.started.wait()
            if container.liveness_probe is not None:
                watch = self._probe(container.liveness_probe, self._liveness, is_eager=False)
                group.create_task(watch, name="liveness probe")
            if container.readiness_probe is not None:
                watch = self._probe(container.readiness_probe, self._readiness, is_eager=True)
                group.create_task(watch, name="readiness probe")

    async def _probe(
        self, probe: Probe, changed: Callable[[bool, str], None], *, is_eager: bool
    ) -> None:
        prober = probes.Prober(self._ip(), self._machine.session)

        async def ask() -> probes.Verdict:
            return await prober.ask(probe, self.container, self.command)

        await probes.watch(
            probe,
            ask,
            is_eager=is_eager,
            changed=changed,
            now=self._machine.clock.monotonic,
        )

    def _startup(self, good: bool, reason: str) -> None:
        if good:
            self._set(is_started=True, is_ready=self.container.readiness_probe is None)
            self.started.set()
        elif not self.state.is_started:
            self._not_healthy("Startup", reason)

    def _liveness(self, good: bool, reason: str) -> None:
        if not good:
            self._not_healthy("Liveness", reason)

    def _readiness(self, good: bool, reason: str) -> None:
        if not good:
            self._tell("Unhealthy", f"Readiness probe failed: {reason}", is_warning=True)
        if not self._stopping.is_set():
            self._set(is_ready=good)

    def _not_healthy(self, which: str, reason: str) -> None:
        """The container is ended for its own good; `run` starts it again."""
        self._unhealthy = f"{which} probe failed: {reason}"
        self._tell("Unhealthy", self._unhealthy, is_warning=True)
        self._tell("Killing", f"Container {self.container.name} failed {which.lower()} probe, "
                   "will be restarted")  # fmt: skip
        process = self._process
        if process is not None:
            process.kill(signal.SIGTERM)
            grace = float(self._pod.spec.termination_grace_period_seconds)
            asyncio.get_running_loop().call_later(grace, process.kill, signal.SIGKILL)

    async def _handle(self, hook: Handler) -> None:
        """Run a lifecycle hook; what it does wrong is told, and nothing else."""
        probe = Probe(
            http_get=hook.http_get, tcp_socket=hook.tcp_socket, exec=hook.exec, timeout_seconds=3600
        )
        if hook.sleep is not None:
            await asyncio.sleep(hook.sleep.seconds)
            return
        prober = probes.Prober(self._ip(), self._machine.session)
        verdict = await prober.ask(probe, self.container, self.command)
        if not verdict.is_good:
            self._tell("FailedHook", f"lifecycle hook failed: {verdict.reason}", is_warning=True)

    def _set(self, **changes: object) -> None:
        state = msgspec.structs.replace(self.state, **changes)
        if state != self.state:
            self.state = state
            self._changed()

    def _tell(self, reason: str, message: str, *, is_warning: bool = False) -> None:
        self._machine.events.tell(
            self._pod, reason, message, container=self.container.name, is_warning=is_warning
        )


async def _close_after(process: Process, reader: PipeReader, output: Log) -> None:
    """Close the log once the process has ended and its pipe is empty, or soon after."""
    await process.wait()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await reader.ended.wait()
    reader.close()
    output.close()

"""One container: started, watched, restarted after a pause, ended."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from meltemi.kube.errors import KubeError
from meltemi.local.node import probes
from meltemi.local.node.errors import BadPod, ImageMissing, NodeError, NotStarted, VolumeMissing
from meltemi.local.node.health import Health
from meltemi.local.node.launch import joined_start
from meltemi.local.node.logs import PipeReader, tail
from meltemi.local.node.machine import Machine
from meltemi.local.node.podspec import Container, Handler, Pod, Probe
from meltemi.local.node.process import NOT_STARTED, Exited, Start
from meltemi.local.node.spawn import Process
from meltemi.local.node.status import ContainerState, Running, Terminated, Waiting
from meltemi.local.node.stdio import Stdio

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 300.0
"""Seconds before a restart, doubled each time; the first restart comes at once (the kubelet's)."""
_CALM = 600.0
"""Seconds of running well after which the pause starts over."""
_API_PAUSE = 1.0
"""Seconds before what the API would not answer is asked again."""
_LEAST_GRACE = 2.0
"""Seconds a container has after its hook has used up the grace period."""
_MOST_SAID = 4096
"""Bytes of a termination message."""
_HOOK_LIMIT = 3600
_KILLED = 128 + signal.SIGKILL

Prepare = Callable[[], Awaitable[Start]]
"""Makes everything ready for a start; raises NodeError, KubeError."""


class Paths(msgspec.Struct, frozen=True):
    """Where a container's traces are."""

    logs: Path
    """A directory with a log for each run, named by its number."""
    message: Path
    """The file behind `terminationMessagePath`."""


class Runner:
    """Runs one container of a pod, and says what state it is in."""

    def __init__(
        self,
        machine: Machine,
        pod: Pod,
        container: Container,
        *,
        paths: Paths,
        prepare: Prepare,
        changed: Callable[[], None],
        policy: str,
        before: ContainerState,
        ip: Callable[[], str],
    ) -> None:
        """`policy`: Always, OnFailure or Never. `changed` is called at every change of state."""
        self._machine = machine
        self._pod = pod
        self.container = container
        self._paths = paths
        self._prepare = prepare
        self._changed = changed
        self._policy = policy
        self._ip = ip
        self._process: Process | None = None
        self._start: Start | None = None
        self._health: Health | None = None
        self._stopping = asyncio.Event()
        self.state = before
        self.stdio: Stdio | None = None
        """The streams of the present run."""
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
        """The log of the present or last run, or of the one before."""
        return self._paths.logs / f"{self.state.restarts - (1 if previous else 0)}.log"

    async def has_started(self) -> None:
        """Return when it has started, or will not start again."""
        await first_of(self.started, self.ended)

    def restart_anew(self) -> None:
        """Run it again although an earlier node has seen it end: the pod starts over."""
        if isinstance(self.state.state, Terminated):
            self._set(state=Waiting("PodInitializing"), is_ready=False)

    def awaits_creation(self) -> None:
        """Its turn has come."""
        if isinstance(self.state.state, Waiting):
            self._set(state=Waiting("ContainerCreating"))

    async def run(self) -> None:
        """Start and restart until the policy or `stop` ends it."""
        pause = 0.0
        state = self.state.state
        wants_start = not isinstance(state, Terminated) or self._wants_restart(state.code)
        try:
            while wants_start and not self._stopping.is_set():
                began = self._machine.clock.monotonic()
                failure = await self._once()
                if isinstance(failure, VolumeMissing | KubeError):
                    await self._wait_for_objects(failure)
                    continue
                if self._machine.clock.monotonic() - began > _CALM:
                    pause = 0.0
                state = self.state.state
                wants_start = not isinstance(state, Terminated) or self._wants_restart(state.code)
                if wants_start and (pause or failure is not None):
                    await self._back_off(max(pause, _FIRST_PAUSE), failure)
                pause = min(max(pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
        finally:
            self.ended.set()

    async def stop(self, grace: float) -> None:
        """End it: hook, SIGTERM, and after `grace` seconds SIGKILL. Returns when it has ended."""
        self._stopping.set()
        if self._health is not None:
            self._health.is_ending = True
        if self._process is not None:
            await self._terminate(self._process, grace)
            await self.ended.wait()

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

    async def _once(self) -> Exception | None:
        """One run to its end; why it could not even be prepared, if so."""
        since = self._machine.stamp()
        try:
            start = await self._prepare()
        except (NodeError, KubeError) as error:
            self._refused(error)
            return error
        self._begin_run()
        try:
            process = await self._spawn(start)
        except NotStarted as error:
            self._tell("Failed", f"Error: {error}", is_warning=True)
            self._end_run(Exited(0, NOT_STARTED), since, reason="StartError", message=str(error))
            return None
        self._start, self._process = start, process
        self._tell("Started", f"Started container {self.container.name}")
        caring = asyncio.create_task(self._care(process, since), name=f"care of {self._name}")
        try:
            ended = await process.wait()
        finally:
            caring.cancel()
            [failure] = await asyncio.gather(caring, return_exceptions=True)
            if isinstance(failure, Exception):
                log.error("care of %s failed", self._name, exc_info=failure)
        self._end_run(ended, since)
        return None

    @property
    def _name(self) -> str:
        meta = self._pod.metadata
        return f"{meta.namespace}/{meta.name} {self.container.name}"

    def _begin_run(self) -> None:
        restarts = self.state.restarts + (1 if self.state.last is not None else 0)
        self.state = msgspec.structs.replace(
            self.state, restarts=restarts, process_id=secrets.token_hex(32)
        )
        self._tell("Created", f"Created container: {self.container.name}")
        self._paths.message.parent.mkdir(parents=True, exist_ok=True)
        self._paths.message.write_bytes(b"")
        self._paths.message.chmod(0o666)
        for number in range(max(0, restarts - 2), restarts - 1):
            for old in self._paths.logs.glob(f"{number}.log*"):
                old.unlink(missing_ok=True)

    async def _spawn(self, start: Start) -> Process:
        """Raises NotStarted."""
        stdio = Stdio(self.container, self.log_path(), self._machine.clock)
        try:
            process = await self._machine.spawner.start(start, stdio.given)
        except NotStarted:
            stdio.abandon()
            raise
        finally:
            stdio.release()
        self.stdio = stdio
        finishing = asyncio.create_task(stdio.finish(process), name="log end")
        process.exit.add_done_callback(lambda _: finishing.done())
        return process

    async def _care(self, process: Process, since: str) -> None:
        """Hook and probes of one run; cancelled at its end."""
        hook = self.container.lifecycle.post_start
        if hook is not None:
            failure = await self._handle(hook)
            if failure:
                message = f"postStart hook failed: {failure}"
                self._tell("FailedPostStartHook", message, is_warning=True)
                self._tell("Killing", f"{message}; container {self.container.name} is restarted")
                await self._terminate(process, self._grace)
                return
        self._set(state=Running(since))
        prober = probes.Prober(self._ip(), self._machine.session)
        self._health = Health(
            self.container,
            lambda probe: prober.ask(probe, self.container, self.command),
            started=self._has_started,
            ready=lambda good: self._set(is_ready=good),
            failed=self._probe_failed,
            now=self._machine.clock.monotonic,
        )
        illness = await self._health.watch()
        message = f"Container {self.container.name} failed {illness.probe.lower()} probe"
        self._tell("Killing", f"{message}, will be restarted")
        await self._terminate(process, self._grace if illness.grace is None else illness.grace)

    @property
    def _grace(self) -> float:
        return float(self._pod.spec.termination_grace_period_seconds)

    def _has_started(self) -> None:
        self._set(is_started=True)
        self.started.set()

    def _probe_failed(self, which: str, answer: str) -> None:
        self._tell("Unhealthy", f"{which} probe failed: {answer}", is_warning=True)

    async def _terminate(self, process: Process, grace: float) -> None:
        """preStop hook, SIGTERM, SIGKILL; returns when the process has ended."""
        deadline = self._machine.clock.monotonic() + grace
        hook = self.container.lifecycle.pre_stop
        if hook is not None and not process.exit.done():
            failure = "it took longer than the grace period"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    failure = await self._handle(hook)
            if failure:
                self._tell("FailedPreStopHook", f"preStop hook failed: {failure}", is_warning=True)
        process.kill(signal.SIGTERM)
        left = max(deadline - self._machine.clock.monotonic(), _LEAST_GRACE if hook else 0.0)
        try:
            async with asyncio.timeout(left):
                await process.wait()
        except TimeoutError:
            process.kill(signal.SIGKILL)
            await process.wait()

    async def _handle(self, hook: Handler) -> str:
        """Run a lifecycle hook; what went wrong, or nothing."""
        if hook.sleep is not None:
            await asyncio.sleep(hook.sleep.seconds)
            return ""
        probe = Probe(
            http_get=hook.http_get,
            tcp_socket=hook.tcp_socket,
            exec=hook.exec,
            timeout_seconds=_HOOK_LIMIT,
        )
        prober = probes.Prober(self._ip(), self._machine.session)
        verdict = await prober.ask(probe, self.container, self.command)
        return "" if verdict.is_good else verdict.reason or "it answered badly"

    def _refused(self, error: Exception) -> None:
        """It could not be prepared: say why, in the terms that `kubectl get pods` shows."""
        message = str(error)
        reason = "CreateContainerError"
        if isinstance(error, ImageMissing):
            self._tell("Failed", f"Failed to pull image: {message}", is_warning=True)
            is_never = self.container.image_pull_policy == "Never"
            reason = "ErrImageNeverPull" if is_never else "ErrImagePull"
        elif isinstance(error, VolumeMissing | BadPod):
            reason = "CreateContainerConfigError"
        if isinstance(error, KubeError):
            log.warning("%s: %s; trying again", self._name, error)
        elif self.state.state != Waiting(reason, message):
            shown = reason if isinstance(error, ImageMissing) else message
            self._tell("Failed", f"Error: {shown}", is_warning=True)
        self._set(state=Waiting(reason, message), is_ready=False, is_started=False)

    async def _wait_for_objects(self, failure: Exception) -> None:
        """What is missing may appear with any change of the objects."""
        limit = _API_PAUSE if isinstance(failure, KubeError) else _FIRST_PAUSE
        await self._pause(limit, self._machine.objects.changed)

    def _end_run(self, ended: Exited, since: str, *, reason: str = "", message: str = "") -> None:
        is_killed = ended.code == _KILLED and self._machine.cgroups.ran_out_of_memory(
            self._pod.metadata.uid, self.container.name
        )
        reason = reason or ("OOMKilled" if is_killed else "Error" if ended.code else "Completed")
        if is_killed:
            limit = self.container.resources.limits.get("memory", "")
            self._tell(
                "OOMKilled",
                f"Container {self.container.name} used more memory than resources.limits.memory, "
                f"{limit}, and was killed; raise the limit, or let it use less",
                is_warning=True,
            )
        terminated = Terminated(
            code=ended.code,
            reason=reason,
            signal=ended.signal,
            since=since,
            until=self._machine.stamp(),
            message=message or self._last_words(ended.code),
        )
        self._process = self._health = None
        self.started.clear()
        is_init = self.container in self._pod.spec.init_containers
        is_done = is_init and not self.container.is_sidecar and ended.code == 0
        self._set(state=terminated, last=terminated, is_ready=is_done, is_started=False)

    def _last_words(self, code: int) -> str:
        """The termination message: the container's file, or the end of its log."""
        with contextlib.suppress(OSError), self._paths.message.open("rb") as file:
            said = file.read(_MOST_SAID)
            if said:
                return said.decode(errors="replace")
        if code and self.container.termination_message_policy == "FallbackToLogsOnError":
            return tail(self.log_path(), lines=80, most=2048)
        return ""

    def _wants_restart(self, code: int) -> bool:
        return self._policy == "Always" or (self._policy == "OnFailure" and code != 0)

    async def _back_off(self, pause: float, failure: Exception | None) -> None:
        name, pod = self.container.name, self._pod.metadata
        if isinstance(failure, ImageMissing):
            message = f'Back-off pulling image "{self.container.image}": {failure}'
            self._set(state=Waiting("ImagePullBackOff", message))
            self._tell("BackOff", f'Back-off pulling image "{self.container.image}"')
            await self._pause(pause, self._machine.images.changed)
            return
        if failure is None:
            message = (
                f"back-off {pause:g}s restarting failed container={name} "
                f"pod={pod.name}_{pod.namespace}({pod.uid})"
            )
            self._set(state=Waiting("CrashLoopBackOff", message))
            said = f"Back-off restarting failed container {name} in pod {pod.name}"
            self._tell("BackOff", said, is_warning=True)
        await self._pause(pause)

    async def _pause(self, seconds: float, earlier: asyncio.Event | None = None) -> None:
        """Wait; not longer than until the container is to stop, or an event."""
        await first_of(self._stopping, earlier or self._stopping, seconds)

    def _set(self, **changes: object) -> None:
        state = msgspec.structs.replace(self.state, **changes)
        if state != self.state:
            self.state = state
            self._changed()

    def _tell(self, reason: str, message: str, *, is_warning: bool = False) -> None:
        self._machine.events.tell(
            self._pod, reason, message, container=self.container.name, is_warning=is_warning
        )


async def first_of(one: asyncio.Event, other: asyncio.Event, seconds: float | None = None) -> None:
    """Wait for either event, so long at most."""
    waits = [asyncio.create_task(event.wait(), name="wait") for event in (one, other)]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()

"""One pod: its network and volumes, its containers in their order, its status, its end."""

import asyncio
import contextlib
import datetime
import logging
import shutil
from collections.abc import Sequence

from meltemi.base.keys import ObjectKey
from meltemi.kube.errors import Conflict, KubeError, NotFound
from meltemi.kube.writer import patch_status
from meltemi.local.node.container import Paths, Runner, first_of
from meltemi.local.node.errors import BadPod, ImageMissing, NetworkFailed, NodeError, VolumeMissing
from meltemi.local.node.facts import environment_of, not_served
from meltemi.local.node.launch import Place, app_start, pod_owner
from meltemi.local.node.machine import Machine
from meltemi.local.node.network import Link
from meltemi.local.node.podspec import Container, Pod, WasContainer
from meltemi.local.node.process import Start
from meltemi.local.node.sidecar import Sidecar
from meltemi.local.node.status import (
    ContainerState,
    PodFacts,
    Terminated,
    Waiting,
    phase_of,
    pod_status,
    remembered,
)
from meltemi.local.node.tokens import Tokens
from meltemi.local.node.volume_files import Sources
from meltemi.local.node.volumes import Volumes

log = logging.getLogger(__name__)

_RETRY = 2.0
"""Seconds between attempts at what a pod waits for, when no event tells that it is there."""
_LONGEST_RETRY = 30.0
_SIZE_CHECK = 10.0
"""Seconds between two looks at how full emptyDirs are."""
_FORCED = 1.0
_WITHDRAWN = 1.0
"""Seconds at most that a pod goes on until no Service leads to it any more."""


class Worker:
    """Runs one pod from its binding to its deletion."""

    def __init__(self, machine: Machine, pod: Pod) -> None:
        self._machine = machine
        self.pod = pod
        meta = pod.metadata
        self.key = ObjectKey("Pod", meta.namespace, meta.name)
        self._directory = machine.home.root / "pods" / meta.uid
        self._logs = machine.home.logs / "pods" / f"{meta.namespace}_{meta.name}_{meta.uid}"
        self._link: Link | None = None
        self.ips: tuple[str, ...] = ()
        """Its addresses, IPv4 first; none before it has a network."""
        self._started = pod.status.start_time or machine.stamp()
        self._is_stopped = False
        self._writing = asyncio.Lock()
        """Statuses reach the API in their order."""
        self._dirty = asyncio.Event()
        self._deleted = asyncio.Event()
        self._refresh = asyncio.Event()
        """Replaced and set when the object has changed; take it before looking at the object."""
        self._failure: tuple[str, str] | None = None
        if pod.status.phase == "Failed" and pod.status.reason:
            self._failure = (pod.status.reason, pod.status.message)
        self._tokens = Tokens(machine.client, machine.clock, pod)
        self._volumes: Volumes | None = None
        self._sidecar: Sidecar | None = None
        self.runners: dict[str, Runner] = {}
        before = (*pod.status.init_container_statuses, *pod.status.container_statuses)
        was = {status.name: status for status in before}
        for container in (*pod.spec.init_containers, *pod.spec.containers):
            self.runners[container.name] = self._runner(container, was.get(container.name))

    @property
    def network_path(self) -> str:
        """The pod's network namespace; empty before it has one, and on the machine's network."""
        return self._link.path if self._link is not None else ""

    @property
    def has_network(self) -> bool:
        return self._link is not None

    @property
    def _place(self) -> Place:
        return Place(self._link or Link("", ()), self._directory)

    @property
    def phase(self) -> str:
        return phase_of(self.pod, self._states(), self._failure)

    def update(self, pod: Pod) -> None:
        """A newer version of the object: its deletion, its metadata, conditions of others."""
        before, self.pod = self.pod, pod
        if pod.metadata.deletion_timestamp is not None:
            self._deleted.set()
        if before.metadata != pod.metadata or before.spec != pod.spec:
            done, self._refresh = self._refresh, asyncio.Event()
            done.set()
        if pod.spec.readiness_gates and before.status.conditions != pod.status.conditions:
            self._dirty.set()

    def gone(self) -> None:
        """The object was removed without waiting for us."""
        self._deleted.set()

    async def run(self) -> None:
        """Run the pod until it is deleted; then clean up and release the object.

        Cancellation (the node ends) kills the pod and leaves the object as it is.
        """
        try:
            async with asyncio.TaskGroup() as group:
                status = group.create_task(self._keep_status(), name=f"status of {self.key}")
                main = group.create_task(self._main(), name=f"containers of {self.key}")
                await self._deleted.wait()
                await self._stop_containers()
                main.cancel()
                self._is_stopped = True
                await self._write_last_status()
                status.cancel()
            await self._release()
        finally:
            for runner in self.runners.values():
                runner.kill()
            await asyncio.shield(self._clean_up())

    async def _main(self) -> None:
        """Everything in its order; what is missing is waited for."""
        if self.pod.status.is_over or self.phase in ("Succeeded", "Failed"):
            self._dirty.set()
            return
        for message in not_served(self.pod):
            self._warn("NotServed", message)
        await self._connect()
        await self._prepare_volumes()
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(self._refresh_volumes(), name=f"volumes of {self.key}"),
                group.create_task(self._watch_sizes(), name=f"sizes of {self.key}"),
                group.create_task(self._deadline(), name=f"deadline of {self.key}"),
                group.create_task(self._debuggers(group), name=f"debuggers of {self.key}"),
            ]
            if await self._initialize(group):
                await self._run_containers(group)
            await self._stop(self._grace, self.pod.spec.sidecars)
            await self._stop(0.0, self.pod.spec.ephemeral_containers)
            for helper in helpers:
                helper.cancel()
        self._dirty.set()
        await self._free()

    async def _initialize(self, group: asyncio.TaskGroup) -> bool:
        """Init containers one after the other; sidecars among them stay. Whether all did well."""
        for container in self.pod.spec.init_containers:
            runner = self.runners[container.name]
            runner.restart_anew()
            group.create_task(runner.run(), name=f"init container {container.name}")
            await (runner.has_started() if container.is_sidecar else runner.ended.wait())
            state = runner.state.state
            if runner.ended.is_set() and not (isinstance(state, Terminated) and state.code == 0):
                return False
        return True

    async def _run_containers(self, group: asyncio.TaskGroup) -> None:
        """The application's containers, to their end."""
        runners = [self.runners[c.name] for c in self.pod.spec.containers]
        for runner in runners:
            runner.awaits_creation()
            group.create_task(runner.run(), name=f"container {runner.container.name}")
        for runner in runners:
            await runner.ended.wait()

    def _runner(self, container: Container, was: WasContainer | None) -> Runner:
        policy = self.pod.spec.restart_policy
        if container.is_sidecar:
            policy = "Always"
        elif container in self.pod.spec.ephemeral_containers:
            policy = "Never"
        elif container in self.pod.spec.init_containers and policy == "Always":
            policy = "OnFailure"
        waits = "PodInitializing" if self.pod.spec.init_containers else "ContainerCreating"
        state = ContainerState(state=Waiting(waits))

        async def prepare() -> Start:
            return await self._start_of(container)

        return Runner(
            self._machine,
            self.pod,
            container,
            paths=Paths(self._logs / container.name, self._place.message(container.name)),
            prepare=prepare,
            changed=self._dirty.set,
            policy=policy,
            before=remembered(was, self._machine.stamp()) if was is not None else state,
            ip=lambda: next(iter(self.ips), ""),
        )

    def _states(self) -> dict[str, ContainerState]:
        return {name: runner.state for name, runner in self.runners.items()}

    async def _debuggers(self, group: asyncio.TaskGroup) -> None:
        """Ephemeral containers, which `kubectl debug` adds to a pod that runs."""
        while True:
            refresh = self._refresh
            for container in self.pod.spec.ephemeral_containers:
                if container.name not in self.runners:
                    runner = self._runner(container, None)
                    self.runners[container.name] = runner
                    group.create_task(runner.run(), name=f"debugger {container.name}")
            await refresh.wait()

    async def _connect(self) -> None:
        if self.pod.spec.host_network:
            self._link = Link("", tuple(self._machine.host_ips))
        while self._link is None:
            try:
                self._link = await self._machine.network.connect()
            except NetworkFailed as error:
                self._warn("FailedCreatePodSandBox", str(error))
                await asyncio.sleep(_RETRY)
        self.ips = self._link.ips
        self._dirty.set()

    async def _prepare_volumes(self) -> None:
        self._volumes = Volumes(
            self._directory / "volumes",
            sources=Sources(self._machine.objects, self._tokens.get),
            environment=environment_of(self._machine, self.pod, self.ips),
            owner=pod_owner(self._machine, self.pod),
            tmpfs=self._machine.spawner.tmpfs,
            claims=self._machine.claims.directory,
        )
        said, pause = "", _RETRY
        while True:
            changed = self._machine.objects.changed
            try:
                await self._volumes.prepare(self.pod)
                return
            except (VolumeMissing, BadPod, KubeError, OSError) as error:
                if str(error) != said or not changed.is_set():
                    self._warn("FailedMount", f"MountVolume.SetUp failed: {error}")
                said = str(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await changed.wait()
            pause = min(pause * 2, _LONGEST_RETRY)

    async def _refresh_volumes(self) -> None:
        """Follow changes of objects and of the pod, and renew tokens before they expire."""
        assert self._volumes is not None
        changed, refresh = self._machine.objects.changed, self._refresh
        while True:
            due = self._tokens.next_renewal()
            wait = (due - self._machine.clock.now()).total_seconds() if due is not None else None
            await first_of(changed, refresh, max(wait, 1.0) if wait is not None else None)
            changed, refresh = self._machine.objects.changed, self._refresh
            try:
                await self._volumes.prepare(self.pod)
                if self._sidecar is not None:
                    await self._sidecar.renew(self._tokens)
            except (NodeError, KubeError, OSError) as error:
                self._warn("FailedMount", f"MountVolume.SetUp failed: {error}")
                await asyncio.sleep(_RETRY)

    async def _watch_sizes(self) -> None:
        assert self._volumes is not None
        limited = any(v.empty_dir and v.empty_dir.size_limit for v in self.pod.spec.volumes)
        while limited:
            await asyncio.sleep(_SIZE_CHECK)
            found = await asyncio.to_thread(self._volumes.overfull, self.pod)
            if found is not None:
                name, limit = found
                message = f'Usage of EmptyDir volume "{name}" exceeds the limit "{limit}".'
                self._warn("Evicted", message)
                await self._fail("Evicted", message)

    async def _deadline(self) -> None:
        seconds = self.pod.spec.active_deadline_seconds
        if seconds is None:
            return
        started = datetime.datetime.fromisoformat(self._started)
        await asyncio.sleep(seconds - (self._machine.clock.now() - started).total_seconds())
        await self._fail("DeadlineExceeded", "Pod was active on the node longer than its deadline")

    async def _fail(self, reason: str, message: str) -> None:
        """End the pod as a whole."""
        self._failure = (reason, message)
        await self._stop_containers()
        self._dirty.set()

    async def _start_of(self, container: Container) -> Start:
        """What to start for a container. Raises NodeError, KubeError."""
        assert self._link is not None
        assert self._volumes is not None
        image = self._machine.images.find(container.image)
        if image is None:
            raise ImageMissing(
                f'no program stands in for image "{container.image}" on this machine: name one '
                f"with `meltemi image add {container.image} -- COMMAND` (`meltemi image list` "
                "shows those there are)"
            )
        what = image.program or " ".join((*image.command, *image.arguments)[:1]) or "the proxy"
        where = f"unpacked in {image.root}" if image.root else f"{what} of this machine"
        message = f'Container image "{container.image}" is {where}'
        self._machine.events.tell(self.pod, "Pulled", message, container=container.name)
        env = environment_of(self._machine, self.pod, self.ips).of(container, image.env)
        if image.is_proxy:
            self._sidecar = Sidecar(
                self._machine, self.pod, self._place, self._tokens, self._volumes
            )
            return await self._sidecar.start(container, env)
        return app_start(
            self._machine,
            self.pod,
            container,
            image,
            env=env,
            volumes=self._volumes,
            place=self._place,
        )

    @property
    def _grace(self) -> float:
        """Seconds for the containers to end: what the deletion says, else what the pod says."""
        grace = self.pod.metadata.deletion_grace_period_seconds
        if grace is None:
            grace = self.pod.spec.termination_grace_period_seconds
        return float(grace) if grace else _FORCED

    async def _stop_containers(self) -> None:
        """Once nobody is sent here: applications first, then sidecars, the last started first.

        A proxy among the applications stays until they have ended, and drains meanwhile.
        """
        grace, spec = self._grace, self.pod.spec
        deadline = self._machine.clock.monotonic() + grace
        for container in spec.containers:
            message = f"Stopping container {container.name}"
            self._machine.events.tell(self.pod, "Killing", message, container=container.name)
        if self.ips and grace > _FORCED:
            await self._machine.services.withdrawn(self.ips, _WITHDRAWN)
        if self._sidecar is not None:
            await self._sidecar.drain(is_alone=not spec.containers[1:], limit=grace)
        inits = [c for c in spec.init_containers if not c.is_sidecar]
        proxies = [c for c in spec.containers if self._is_proxy(c)]
        others = [c for c in spec.containers if c not in proxies]
        await self._stop(grace, (*inits, *others, *spec.ephemeral_containers))
        await self._stop(max(deadline - self._machine.clock.monotonic(), _FORCED), proxies)
        for container in reversed(spec.sidecars):
            await self._stop(max(deadline - self._machine.clock.monotonic(), _FORCED), [container])

    async def _stop(self, grace: float, containers: Sequence[Container]) -> None:
        found = [self.runners[c.name] for c in containers if c.name in self.runners]
        await asyncio.gather(*(runner.stop(grace) for runner in found))

    def _is_proxy(self, container: Container) -> bool:
        image = self._machine.images.find(container.image)
        return image is not None and image.is_proxy

    async def _keep_status(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._write_status()
            except KubeError as error:
                log.warning("status of %s: %s; trying again", self.key, error)
                self._dirty.set()
                await asyncio.sleep(0.2)

    async def _write_last_status(self) -> None:
        """Say how it ended: others may keep the object, and want to know."""
        while True:
            try:
                await self._write_status()
                return
            except KubeError as error:
                log.warning("last status of %s: %s; trying again", self.key, error)
                await asyncio.sleep(_RETRY)

    async def _write_status(self) -> None:
        async with self._writing:
            await self._write_present_status()

    async def _write_present_status(self) -> None:
        facts = PodFacts(
            ips=self.ips,
            host_ips=self._machine.host_ips,
            started=self._started,
            failure=self._failure,
            is_stopped=self._is_stopped,
        )
        status = pod_status(self.pod, self._states(), facts, now=self._machine.stamp())
        await patch_status(self._machine.client, self.key, status)

    async def _release(self) -> None:
        """Tell the API that nothing of the pod is left. It is no failure if it knows already."""
        meta = self.pod.metadata
        while True:
            try:
                await self._machine.client.delete(self.key, grace_seconds=0, uid=meta.uid)
                return
            except (NotFound, Conflict):
                return
            except KubeError as error:
                log.warning("releasing %s: %s; trying again", self.key, error)
                await asyncio.sleep(_RETRY)

    async def _free(self) -> None:
        """Give back what the machine lent: no process of the pod is left."""
        if self._sidecar is not None:
            await self._sidecar.remove()
        await asyncio.gather(
            *(_ended(runner) for runner in self.runners.values()), return_exceptions=True
        )
        if self._link is not None and self._link.namespace:
            with contextlib.suppress(NetworkFailed):
                await self._machine.network.disconnect(self._link)
        self._link = None
        if self._volumes is not None:
            await self._volumes.remove()
        self._machine.cgroups.remove(self.pod.metadata.uid, list(self.runners))

    async def _clean_up(self) -> None:
        await self._free()
        if self._deleted.is_set():
            for directory in (self._directory, self._logs):
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    def _warn(self, reason: str, message: str) -> None:
        self._machine.events.tell(self.pod, reason, message, is_warning=True)


async def _ended(runner: Runner) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5.0):
            await runner.gone()

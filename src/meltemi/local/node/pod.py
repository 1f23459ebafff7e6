"""One pod: its network and volumes, its containers in their order, its status, its end."""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Mapping, Sequence

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import JsonObject
from meltemi.kube.errors import Conflict, KubeError, NotFound
from meltemi.kube.writer import patch_status
from meltemi.local.node.container import Runner
from meltemi.local.node.environment import Environment
from meltemi.local.node.errors import BadPod, NetworkFailed, NodeError, VolumeMissing
from meltemi.local.node.launch import Place, app_start
from meltemi.local.node.machine import Machine
from meltemi.local.node.network import Link
from meltemi.local.node.podspec import Container, Pod
from meltemi.local.node.process import Start
from meltemi.local.node.sidecar import Sidecar
from meltemi.local.node.status import PodFacts, Terminated, phase_of, pod_status
from meltemi.local.node.volumes import Tokens, Volumes

log = logging.getLogger(__name__)

_RETRY = 2.0
"""Seconds between attempts at what a pod waits for, when no event tells that it is there."""
_FORCED = 1.0


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
        self._started = machine.stamp()
        self._dirty = asyncio.Event()
        self._deleted = asyncio.Event()
        self._failure: tuple[str, str] | None = None
        self.runners: dict[str, Runner] = {}
        self._volumes: Volumes | None = None
        self._sidecar: Sidecar | None = None
        self._conditions: Sequence[JsonObject] = pod.status.conditions
        for container in (*pod.spec.init_containers, *pod.spec.containers):
            self.runners[container.name] = self._runner(container)

    @property
    def ip(self) -> str:
        return self._link.ip if self._link is not None else ""

    @property
    def network_path(self) -> str:
        """The pod's network namespace; empty before it has one."""
        return self._link.path if self._link is not None else ""

    def update(self, pod: Pod) -> None:
        """A newer version of the object; only its deletion and its metadata matter here."""
        self.pod = pod
        if pod.metadata.deletion_timestamp is not None:
            self._deleted.set()

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
                await self._write_status()
                status.cancel()
            await self._release()
        finally:
            for runner in self.runners.values():
                runner.kill()
            await asyncio.shield(self._clean_up())

    async def _main(self) -> None:
        """Everything in its order; what is missing is waited for."""
        await self._connect()
        await self._prepare_volumes()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._refresh_volumes(), name=f"volumes of {self.key}")
            if self.pod.spec.active_deadline_seconds is not None:
                group.create_task(self._deadline(), name=f"deadline of {self.key}")
            for container in self.pod.spec.init_containers:
                runner = self.runners[container.name]
                group.create_task(runner.run(), name=f"init container {container.name}")
                if container.restart_policy == "Always":
                    await runner.started.wait()
                    continue
                await runner.ended.wait()
                state = runner.state.state
                if not isinstance(state, Terminated) or state.code != 0:
                    await self._all_ended()
                    return
            for container in self.pod.spec.containers:
                runner = self.runners[container.name]
                group.create_task(runner.run(), name=f"container {container.name}")

    async def _all_ended(self) -> None:
        """Nothing more to do for this pod but to wait for its deletion."""
        self._dirty.set()
        await self._deleted.wait()

    def _runner(self, container: Container) -> Runner:
        is_init = container in self.pod.spec.init_containers
        policy = self.pod.spec.restart_policy
        if is_init:
            always = container.restart_policy == "Always"
            policy = "Always" if always else "Never" if policy == "Never" else "OnFailure"

        async def prepare() -> Start:
            return await self._start_of(container)

        return Runner(
            self._machine,
            self.pod,
            container,
            ip=lambda: self.ip,
            logs=self._logs / container.name,
            prepare=prepare,
            changed=self._dirty.set,
            policy=policy,
        )

    async def _connect(self) -> None:
        while self._link is None:
            try:
                self._link = await self._machine.network.connect()
            except NetworkFailed as error:
                self._warn("FailedCreatePodSandBox", str(error))
                await asyncio.sleep(_RETRY)
        self._dirty.set()

    async def _prepare_volumes(self) -> None:
        facts = self._facts()
        environment = self._environment(facts)
        self._volumes = Volumes(
            self.pod,
            self._directory / "volumes",
            objects=self._machine.objects,
            tokens=Tokens(self._machine.client, self._machine.clock, self.pod),
            environment=environment,
            facts=facts,
        )
        while True:
            changed = self._machine.objects.changed
            try:
                await self._volumes.prepare()
                return
            except (VolumeMissing, BadPod, KubeError, OSError) as error:
                self._warn("FailedMount", f"MountVolume.SetUp failed: {error}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETRY):
                    await changed.wait()

    async def _refresh_volumes(self) -> None:
        """Follow changes of objects, and renew tokens before they expire."""
        assert self._volumes is not None
        while True:
            changed = self._machine.objects.changed
            due = self._volumes.next_renewal()
            wait = (due - self._machine.clock.now()).total_seconds() if due is not None else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(wait, 1.0) if wait is not None else None):
                    await changed.wait()
            try:
                await self._volumes.prepare()
                if self._sidecar is not None:
                    await self._sidecar.renew(self._volumes)
            except (NodeError, KubeError, OSError) as error:
                log.warning("volumes of %s: %s", self.key, error)
                await asyncio.sleep(_RETRY)

    async def _deadline(self) -> None:
        seconds = self.pod.spec.active_deadline_seconds
        assert seconds is not None
        await asyncio.sleep(seconds)
        self._failure = ("DeadlineExceeded", "Pod was active on the node longer than its deadline")
        await self._stop_containers()
        self._dirty.set()

    async def _start_of(self, container: Container) -> Start:
        """What to start for a container. Raises NodeError, KubeError."""
        assert self._link is not None
        assert self._volumes is not None
        image = self._machine.images.find(container.image)
        if image is None:
            raise BadPod(
                f'no image "{container.image}" on this machine: add it to the table given by '
                "`meltemi up --images FILE`"
            )
        hostname = self.pod.spec.hostname or self.pod.metadata.name[:63].rstrip("-.")
        place = Place(self._link, hostname, self._directory)
        facts = self._facts()
        env = self._environment(facts).of(container, image.env)
        if image.is_proxy:
            self._sidecar = Sidecar(self._machine, self.pod, place, self._volumes)
            return await self._sidecar.start(container, env)
        return app_start(
            self._machine, self.pod, container, image, env=env, volumes=self._volumes, place=place
        )

    def _environment(self, facts: Mapping[str, str]) -> Environment:
        objects, meta = self._machine.objects, self.pod.metadata
        links = []
        if self.pod.spec.enable_service_links:
            links = [s for s in self._machine.services if s.namespace == meta.namespace]
        api = self._machine.services.get("default", "kubernetes")
        if api is not None and api not in links:
            links.append(api)
        return Environment(
            self.pod,
            facts,
            config_map=lambda namespace, name: _text(objects.config_map(namespace, name)),
            secret=lambda namespace, name: _text(objects.secret(namespace, name)),
            services=links,
        )

    def _facts(self) -> Mapping[str, str]:
        return {
            "status.podIP": self.ip,
            "status.podIPs": self.ip,
            "status.hostIP": self._machine.host_ip,
            "status.hostIPs": self._machine.host_ip,
            "hostname": self.pod.spec.hostname or self.pod.metadata.name[:63].rstrip("-."),
        }

    async def _stop_containers(self) -> None:
        """Applications first; the proxy stays until they have ended, and drains meanwhile."""
        meta = self.pod.metadata
        grace = meta.deletion_grace_period_seconds
        if grace is None:
            grace = self.pod.spec.termination_grace_period_seconds
        seconds = float(grace) if grace else _FORCED
        proxies = [r for r in self.runners.values() if self._is_proxy(r.container)]
        others = [r for r in self.runners.values() if r not in proxies]
        for name in (c.name for c in self.pod.spec.containers):
            self._machine.events.tell(self.pod, "Killing", f"Stopping container {name}")
        if self._sidecar is not None:
            await self._sidecar.drain(is_alone=not self.pod.spec.containers[1:], limit=seconds)
        await asyncio.gather(*(runner.stop(seconds) for runner in others))
        await asyncio.gather(*(runner.stop(seconds) for runner in proxies))

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

    async def _write_status(self) -> None:
        status = pod_status(
            self.pod,
            {name: runner.state for name, runner in self.runners.items()},
            PodFacts(
                ip=self.ip,
                host_ip=self._machine.host_ip,
                started=self._started,
                failure=self._failure,
            ),
            now=self._machine.stamp(),
            before=self._conditions,
        )
        self._conditions = status["conditions"]
        await patch_status(self._machine.client, self.key, status)

    @property
    def phase(self) -> str:
        states = {name: runner.state for name, runner in self.runners.items()}
        return phase_of(self.pod, states, self._failure)

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

    async def _clean_up(self) -> None:
        if self._sidecar is not None:
            await self._sidecar.remove()
        await asyncio.gather(
            *(_ended(runner) for runner in self.runners.values()), return_exceptions=True
        )
        if self._link is not None:
            with contextlib.suppress(NetworkFailed):
                await self._machine.network.disconnect(self._link)
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    def _warn(self, reason: str, message: str) -> None:
        self._machine.events.tell(self.pod, reason, message, is_warning=True)


async def _ended(runner: Runner) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5.0):
            await runner.gone()


def _text(data: Mapping[str, bytes] | None) -> Mapping[str, str] | None:
    return None if data is None else {k: v.decode(errors="replace") for k, v in data.items()}

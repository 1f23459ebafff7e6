"""Runs one command as a workload of the mesh, from its network to its registration and back."""

import asyncio
import contextlib
import datetime
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO

import aiohttp
import msgspec

from meltemi.api.decode import decode
from meltemi.api.meta import Json
from meltemi.api.workload_entry import WorkloadGroup
from meltemi.base.clock import SystemClock
from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client
from meltemi.kube.errors import KubeError, NotFound
from meltemi.kube.kubeconfig import access_from_file
from meltemi.kube.writer import ensure
from meltemi.local.home import SECRETS, Home
from meltemi.local.node.machine import PROXY_USER
from meltemi.local.node.members import Member
from meltemi.local.workload import network
from meltemi.local.workload.entry import entry_name, entry_of_group
from meltemi.local.workload.health import Health
from meltemi.proxy.agent import Agent
from meltemi.proxy.spec import Launch, ProxySpec

_LIFETIME = datetime.timedelta(hours=12)
_RENEW_AT = 0.8
_READY_LIMIT = 60.0
_TELL_EVERY = 10.0
_DIES = "--pdeathsig=KILL"
"""Whatever ends us ends the workload, too."""
_ENTER = """
mount --bind "$1" /etc/resolv.conf
mount --bind "$2" "$3"
mount --bind "$4" "$5"
shift 5
exec "$@"
"""
"""What Envoy, another user, must see of directories that are closed to it."""


class Refused(Exception):
    """The workload cannot be run; the text says why."""


class Wanted(msgspec.Struct, frozen=True):
    """What the command line asks for."""

    group: str
    namespace: str
    command: Sequence[str]
    ports: Mapping[str, int]
    name: str = ""


async def group_of(client: Client, namespace: str, name: str) -> WorkloadGroup:
    """Raises Refused when there is none."""
    key = ObjectKey("WorkloadGroup", namespace, name)
    try:
        found = decode("WorkloadGroup", await client.get_raw(key)).value
    except NotFound as error:
        raise Refused(f"there is no WorkloadGroup {name} in namespace {namespace}") from error
    if not isinstance(found, WorkloadGroup):
        raise Refused(f"WorkloadGroup {name}.{namespace} cannot be read")
    return found


async def run(home: Home, wanted: Wanted) -> int:
    """The command's exit status. Raises Refused, NetworkFailed, KubeError."""
    network.check_machine()
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            Client(access_from_file(home.kubeconfig), user_agent="meltemi-workload")
        )
        group = await group_of(client, wanted.namespace, wanted.group)
        if group.spec.probe is not None and group.spec.probe.grpc is not None:
            raise Refused(
                f"WorkloadGroup {wanted.group}: spec.probe.grpc cannot be asked here; use httpGet, "
                "tcpSocket or exec"
            )
        place = await network.connect()
        stack.push_async_callback(network.disconnect, place)
        agent = await stack.enter_async_context(
            Agent(ca_target=f"unix:{home.xds_socket}", clock=clock, secrets_target=SECRETS)
        )
        name = wanted.name or entry_name(wanted.group, place.address)
        joined = _Joined(home, client, agent, group, place, name)
        member = Member(
            place.name, wanted.namespace, name, str(joined.directory), address=place.address
        )
        await stack.enter_async_context(_told(home.node_socket, member))
        await stack.enter_async_context(joined.proxy())
        entry = entry_of_group(group, place.address, name=name, ports=wanted.ports)
        await stack.enter_async_context(_registered(client, entry))
        tasks = [asyncio.create_task(joined.renew_tokens(), name="token")]
        if group.spec.probe is not None:
            key = ObjectKey("WorkloadEntry", wanted.namespace, name)
            health = Health(client, clock, key, group.spec.probe, str(place.path))
            tasks.append(asyncio.create_task(health.run(), name="health"))
        sys.stderr.write(f"{name}.{wanted.namespace} joined the mesh: {place.address}\n")
        try:
            return await _command(place, wanted, joined.directory)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _told(node: Path, member: Member) -> AsyncIterator[None]:
    """Tell the node of this workload, so that it cleans up should we be killed."""

    async def tell() -> None:
        url, body = "http://node/workloads", msgspec.json.encode(member)
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(node))) as session:
            while True:
                # A node that is not there is told later; one that starts anew is told again.
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.post(url, data=body):
                        pass
                await asyncio.sleep(_TELL_EVERY)

    telling = asyncio.create_task(tell(), name="tell the node")
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


@asynccontextmanager
async def _registered(client: Client, entry: dict[str, Json]) -> AsyncIterator[None]:
    meta = entry["metadata"]
    await ensure(client, entry)
    try:
        yield
    finally:
        with contextlib.suppress(KubeError):
            await client.delete(ObjectKey("WorkloadEntry", meta["namespace"], meta["name"]))


class _Joined:
    """The proxy beside the command."""

    def __init__(
        self,
        home: Home,
        client: Client,
        agent: Agent,
        group: WorkloadGroup,
        place: network.Place,
        name: str,
    ) -> None:
        self._home = home
        self._client = client
        self._agent = agent
        self._group = group
        self._place = place
        self._name = name
        self.directory = Path("/run") / f"meltemi-{place.name}"

    @property
    def _account(self) -> str:
        return self._group.spec.template.service_account or "default"

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[None]:
        """Envoy, from its bootstrap until it is ready, and to its end."""
        namespace = self._group.metadata.namespace
        await asyncio.to_thread(self._prepare, namespace)
        try:
            launch = await self._agent.add(await self._spec(namespace))
            await network.capture(self._place)
            process = await self._envoy(launch)
            try:
                await self._ready(process, namespace)
                yield
            finally:
                if process.returncode is None:
                    process.terminate()
                await process.wait()
                await self._agent.remove(namespace, self._name)
        finally:
            await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)

    def _prepare(self, namespace: str) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(mode=0o711)
        os.chown(self.directory, PROXY_USER, PROXY_USER)
        (self.directory / "xds").mkdir()
        (self.directory / "envoy").touch()
        (self.directory / "resolv.conf").write_text(network.resolv_conf(namespace))

    async def _spec(self, namespace: str) -> ProxySpec:
        token = await self._client.create_token(
            namespace, self._account, audiences=("istio-ca",), lifetime=_LIFETIME
        )
        group, template = self._group.metadata, self._group.spec.template
        labels = {**self._group.spec.metadata.labels, **template.labels}
        return ProxySpec(
            kind="sidecar",
            namespace=namespace,
            name=self._name,
            uid=group.uid,
            ip=self._place.address,
            node_name=os.uname().nodename,
            service_account=self._account,
            labels=labels,
            annotations={},
            workload=group.name,
            env={"ISTIO_META_AUTO_REGISTER_GROUP": group.name},
            directory=str(self.directory),
            xds_target=f"unix:{self.directory}/xds/{self._home.xds_socket.name}",
            token=token.secret,
        )

    async def _envoy(self, launch: Launch) -> asyncio.subprocess.Process:
        """Its output goes to a log of its own."""
        log = self._home.log_file(f"workload-{self._name}")
        with await asyncio.to_thread(log.open, "wb") as said:
            return await self._start(launch, said)

    async def _start(self, launch: Launch, said: IO[bytes]) -> asyncio.subprocess.Process:
        binary, *options = launch.argv
        own = self.directory
        user = ("setpriv", f"--reuid={PROXY_USER}", f"--regid={PROXY_USER}", "--clear-groups")
        return await asyncio.create_subprocess_exec(
            *_inside(self._place),
            *("sh", "-e", "-c", _ENTER, "sh", str(own / "resolv.conf")),
            *(str(self._home.xds_socket.parent), str(own / "xds")),
            *(binary, str(own / "envoy")),
            *(*user, _DIES, "--no-new-privs", "--bounding-set=-all", str(own / "envoy"), *options),
            env=dict(launch.env) | {"PATH": os.environ.get("PATH", "")},
            stdout=said,
            stderr=said,
        )

    async def _ready(self, process: asyncio.subprocess.Process, namespace: str) -> None:
        reason = ""
        try:
            async with asyncio.timeout(_READY_LIMIT):
                while process.returncode is None:
                    reason = await self._agent.not_ready_because(namespace, self._name)
                    if not reason:
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pass
        raise Refused(f"its Envoy did not become ready: {reason or 'it ended'}")

    async def renew_tokens(self) -> None:
        """Until cancelled."""
        namespace = self._group.metadata.namespace
        while True:
            await asyncio.sleep(_LIFETIME.total_seconds() * _RENEW_AT)
            token = await self._client.create_token(
                namespace, self._account, audiences=("istio-ca",), lifetime=_LIFETIME
            )
            self._agent.update_token(namespace, self._name, token.secret)


def _inside(place: network.Place) -> tuple[str, ...]:
    """In the workload's network, with mounts of its own."""
    return ("nsenter", f"--net={place.path}", "unshare", "--mount", "--propagation", "private")


async def _command(place: network.Place, wanted: Wanted, directory: Path) -> int:
    """Run the command; what ends us ends it."""
    script = 'mount --bind "$1" /etc/resolv.conf; shift; exec "$@"'
    process = await asyncio.create_subprocess_exec(
        *_inside(place),
        *("sh", "-e", "-c", script, "sh", str(directory / "resolv.conf")),
        *("setpriv", _DIES, *wanted.command),
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _end, process, number)
    return await process.wait()


def _end(process: asyncio.subprocess.Process, number: int) -> None:
    if process.returncode is None:
        process.send_signal(number)

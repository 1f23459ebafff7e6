"""Workloads that are not pods: what is left of one that was killed is removed at once.

`meltemi workload run` cleans up after itself, unless it is killed. So it tells the node now and
then that it is there, and the node watches its process.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from pathlib import Path

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client
from meltemi.kube.errors import KubeError, NotFound
from meltemi.local.node.errors import NetworkFailed
from meltemi.local.node.network import NAMESPACES, WORKLOAD, run

log = logging.getLogger(__name__)

_GRACE = 10.0
"""Seconds that processes of a workload may outlive it."""
_LOOK = 0.05


class Member(msgspec.Struct, frozen=True):
    """What a workload tells of itself."""

    place: str
    """The name of its network namespace."""
    namespace: str
    entry: str
    """Its WorkloadEntry."""
    directory: str
    address: str = ""
    """Where its questions for names come from."""


class Members:
    """The workloads of this machine that have told of themselves."""

    def __init__(self, client: Client, group: asyncio.TaskGroup) -> None:
        self._client = client
        self._group = group
        self._watched: set[int] = set()
        self._by_address: dict[str, str] = {}

    def namespace_of(self, address: str) -> str:
        """The namespace of the workload that has an address; empty: there is none."""
        return self._by_address.get(address, "")

    def take(self, member: Member, pid: int) -> None:
        """Watch the process behind a member; once. Raises ValueError for what is no workload."""
        if not member.place.removeprefix(WORKLOAD).isdecimal():
            raise ValueError(f"{member.place} is no place of a workload")
        if pid in self._watched:
            return
        try:
            process, place = os.pidfd_open(pid), _identity(member.place)
        except OSError as error:
            raise ValueError(f"workload {member.entry}: {error.strerror}") from error
        self._watched.add(pid)
        self._by_address[member.address] = member.namespace
        name = f"workload {member.entry}"
        self._group.create_task(self._watch(member, pid, process, place), name=name)

    async def _watch(self, member: Member, pid: int, process: int, place: int) -> None:
        try:
            await _readable(process)
        finally:
            os.close(process)
            self._watched.discard(pid)
            self._by_address.pop(member.address, None)
        if _identity_now(member.place) != place:
            return
        try:
            await _empty(member.place, place)
            if _identity_now(member.place) == place:
                await run("ip", "netns", "del", member.place, text="")
                await asyncio.to_thread(shutil.rmtree, member.directory, ignore_errors=True)
        except NetworkFailed as error:
            log.warning("workload %s was killed: %s", member.entry, error)
        await self._remove(ObjectKey("WorkloadEntry", member.namespace, member.entry))

    async def _remove(self, key: ObjectKey) -> None:
        """Without us the control plane does it, when its proxy has been away for long enough."""
        try:
            await self._client.delete(key)
            log.info("%s: its workload was killed; removed", key)
        except NotFound:
            return
        except KubeError as error:
            log.warning("%s: its workload was killed, but it cannot be removed: %s", key, error)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


async def _empty(place: str, identity: int) -> None:
    """Return when nobody is left in a namespace; who stays too long is killed."""
    deadline = asyncio.get_running_loop().time() + _GRACE
    while _identity_now(place) == identity:
        pids = (await run("ip", "netns", "pids", place, text="")).split()
        if not pids:
            return
        if asyncio.get_running_loop().time() > deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        await asyncio.sleep(_LOOK)


def _identity(place: str) -> int:
    """What tells a namespace from a later one of the same name. Raises OSError."""
    return os.stat(Path(NAMESPACES) / place).st_ino


def _identity_now(place: str) -> int:
    """0 when it is gone."""
    try:
        return _identity(place)
    except OSError:
        return 0

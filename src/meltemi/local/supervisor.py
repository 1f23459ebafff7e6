"""Starts the three processes of a local mesh, restarts what dies, and ends all of it together.

The published sockets are open already when this runs, inside the mesh's namespaces when there is
no root. Components are ordinary commands; each inherits only the sockets it serves.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from meltemi.local.home import Home

log = logging.getLogger(__name__)

_RESTART_AFTER = 0.2
_GRACE = 20.0
"""Seconds a component may take to end by itself: the node stops pods in this time."""


class Component(msgspec.Struct, frozen=True):
    """One process: what to run, and which inherited sockets it needs."""

    name: str
    argv: tuple[str, ...]
    fds: tuple[int, ...] = ()


class Supervisor:
    """Runs components until told to stop; one that dies is started again."""

    def __init__(self, home: Home, environment: Mapping[str, str]) -> None:
        self._home = home
        self._environment = environment
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def run(self, components: Sequence[Component]) -> None:
        """Keep every component running until `stop`; then end them, the last started first."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        async with asyncio.TaskGroup() as group:
            watches = [
                (c, group.create_task(self._keep(c), name=f"keep {c.name}")) for c in components
            ]
            await self._stopping.wait()
            for component, task in reversed(watches):
                log.info("stopping %s", component.name)
                await _end(self._home.pid(component.name))
                task.cancel()

    async def _keep(self, component: Component) -> None:
        while not self._stopping.is_set():
            code = await self._once(component)
            if self._stopping.is_set():
                return
            log.warning("%s ended with code %s; starting it again", component.name, code)
            await asyncio.sleep(_RESTART_AFTER)

    async def _once(self, component: Component) -> int:
        with self._home.log_file(component.name).open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *component.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=component.fds,
                env=dict(self._environment),
                start_new_session=True,
            )
        self._home.pid_file(component.name).write_text(str(process.pid))
        try:
            return await process.wait()
        finally:
            self._home.pid_file(component.name).unlink(missing_ok=True)


async def _end(pid: int | None) -> None:
    """Ask a process to end, then make it; returns when it is gone."""
    if pid is None:
        return
    for number, patience in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, 5.0)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        deadline = asyncio.get_running_loop().time() + patience
        while Path(f"/proc/{pid}").exists():
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.02)
        else:
            return


def python_module(module: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs one of our modules with this interpreter, and ends with its parent."""
    return ("setpriv", "--pdeathsig", "TERM", sys.executable, "-m", module, *arguments)

"""What `meltemi up` does once the ports are open: starts the supervisor and waits for traffic."""

import asyncio
import subprocess
import sys
from collections.abc import Callable

from meltemi.local.home import Home

_START_LIMIT = 60.0
_COMPONENTS = ("apiserver", "control-plane", "node")


class DidNotStart(Exception):
    """The mesh is not up; the message says which part, in its own last words."""


def supervise(
    home: Home, fds: list[int], options: list[str], lifetime: float
) -> subprocess.Popen[bytes]:
    """Start the supervisor, apart from this terminal; it inherits the published sockets."""
    argv = [sys.executable, "-m", "meltemi.local.supervise", "--data", str(home.root)]
    argv += ["--fds", ",".join(map(str, fds)), "--cert-lifetime", str(lifetime), *options]
    with home.log_file("supervisor").open("ab") as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=fds,
            start_new_session=True,
        )


def bring_up(home: Home, process: subprocess.Popen[bytes], demo: str | None) -> None:
    """Wait for the components, deploy what the mesh itself needs and the demo, wait for traffic.

    Raises DidNotStart.
    """
    try:
        asyncio.run(_bring_up(home, process, demo))
    except TimeoutError as error:
        raise DidNotStart(_late(home)) from error


async def _bring_up(home: Home, process: subprocess.Popen[bytes], demo: str | None) -> None:
    from meltemi.local import demo as manifests

    async with asyncio.timeout(_START_LIMIT):
        await _until(home, process, home.kubeconfig.exists)
        await _until_ready(home, process)
        async with manifests.deployer(home.kubeconfig) as deployer:
            await deployer.deploy("gateway/ingressgateway.yaml")
            if demo:
                await deployer.deploy_demo(demo)
                await deployer.available()
            await deployer.gateway_answers(home.ports())
            if demo:
                await deployer.deploy_traffic()


async def _until(
    home: Home, process: subprocess.Popen[bytes], condition: Callable[[], bool]
) -> None:
    while not condition():
        if process.poll() is not None:
            raise DidNotStart(_last_line(home, "supervisor") or f"see {home.logs}")
        await asyncio.sleep(0.02)


async def _until_ready(home: Home, process: subprocess.Popen[bytes]) -> None:
    import aiohttp

    connector = aiohttp.UnixConnector(str(home.control_socket))
    async with aiohttp.ClientSession(connector=connector) as session:
        while True:
            await _until(home, process, home.control_socket.exists)
            try:
                async with session.get("http://control-plane/ready") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.02)


def _late(home: Home) -> str:
    """Which component is missing, and what it said last."""
    dead = [name for name in _COMPONENTS if home.pid(name) is None]
    name = (dead or ["node"])[0]
    said = _last_line(home, name)
    reason = f"{name} said last: {said}" if said else f"see {home.logs}"
    return f"the mesh did not start within {_START_LIMIT:g} s; {reason} ({home.log_file(name)})"


def _last_line(home: Home, component: str) -> str:
    """A component that cannot start ends its log with one clear sentence."""
    try:
        lines = home.log_file(component).read_text(errors="replace").strip().splitlines()
    except FileNotFoundError:
        return ""
    return lines[-1] if lines else ""

"""Finding the running mesh: its data directory, its kubeconfig, its control socket."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from meltemi.cli.output import fail
from meltemi.local.home import Home

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="The mesh's data directory.", show_default=False),
]


def home_of(data: Path | None) -> Home:
    """The chosen directory, or the default one under XDG_DATA_HOME."""
    if data is not None:
        return Home(data.absolute())
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Home(Path(base) / "meltemi")


def running_home(data: Path | None) -> Home:
    """The directory of a mesh that runs; ends the command where none does."""
    home = home_of(data)
    if home.pid("supervisor") is None:
        fail(f"no mesh runs in {home.root}: start one with `meltemi up`, or name its --data DIR")
    return home


def ask(home: Home, path: str, *, timeout: float = 30.0) -> Any:
    """GET a JSON answer from the control plane over its socket."""
    import asyncio

    return asyncio.run(_ask(home, path, timeout))


async def _ask(home: Home, path: str, timeout: float) -> Any:
    import aiohttp

    connector = aiohttp.UnixConnector(str(home.control_socket))
    limit = aiohttp.ClientTimeout(total=timeout)
    async with aiohttp.ClientSession(connector=connector, timeout=limit) as session:
        try:
            async with session.get(f"http://control-plane{path}") as reply:
                body = await reply.read()
        except (aiohttp.ClientError, FileNotFoundError) as error:
            fail(
                f"the control plane does not answer ({error}): see {home.log_file('control-plane')}"
            )
        except TimeoutError:
            fail(f"the control plane did not answer within {timeout:g} s")
    answer = json.loads(body) if body else {}
    if reply.status >= 400:
        fail(answer.get("message", f"the control plane answered {reply.status}"))
    return answer


def kubeconfig(data: DataOption = None) -> None:
    """Print the path of the mesh's kubeconfig.

    Example: kubectl --kubeconfig "$(meltemi kubeconfig)" get pods
    """
    typer.echo(running_home(data).kubeconfig)

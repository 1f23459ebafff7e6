"""Finding the running mesh: its data directory, its kubeconfig, its control socket."""

import json
import os
import socket
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
    """The chosen directory; else the one whose mesh $KUBECONFIG leads to; else the default one
    under XDG_DATA_HOME."""
    if data is not None:
        return Home(data.absolute())
    beside = Home(Path(os.environ.get("KUBECONFIG", "")).absolute().parent)
    if beside.kubeconfig.exists() and beside.pid("supervisor") is not None:
        return beside
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Home(Path(base) / "meltemi")


def running_home(data: Path | None) -> Home:
    """The directory of a mesh that runs; ends the command where none does."""
    home = home_of(data)
    if home.pid("supervisor") is None:
        fail(f"no mesh runs in {home.root}: start one with `meltemi up`, or name its --data DIR")
    return home


def ask(home: Home, path: str, *, timeout: float = 30.0, body: bytes | None = None) -> Any:
    """GET a JSON answer from the control plane over its socket; with a body, POST it.

    Ends the command on an error: with 2 where the control plane calls the question wrong.
    """
    try:
        status, said = _exchange(str(home.control_socket), path, timeout, body)
    except TimeoutError:
        fail(f"the control plane did not answer within {timeout:g} s")
    except OSError as error:
        fail(f"the control plane does not answer ({error}): see {home.log_file('control-plane')}")
    answer = json.loads(said) if said else {}
    if status >= 400:
        wrong = answer.get("message", f"the control plane answered {status}")
        fail(wrong, 2 if status == 422 else 1)
    return answer


def _exchange(address: str, path: str, timeout: float, body: bytes | None) -> tuple[int, bytes]:
    """One HTTP/1.0 exchange: an HTTP library would take longer to load than all the rest."""
    method = "GET" if body is None else "POST"
    lines = f"{method} {path} HTTP/1.0\r\nHost: localhost\r\n"
    if body is not None:
        lines += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout)
        sock.connect(address)
        sock.sendall(f"{lines}\r\n".encode() + (body or b""))
        parts = []
        while part := sock.recv(1 << 16):
            parts.append(part)
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2:
        raise OSError("it closed the connection")
    return int(words[1]), body


def kubeconfig(data: DataOption = None) -> None:
    """Print the path of the mesh's kubeconfig.

    Example: kubectl --kubeconfig "$(meltemi kubeconfig)" get pods
    """
    typer.echo(running_home(data).kubeconfig)

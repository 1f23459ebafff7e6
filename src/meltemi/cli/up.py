"""up and down: the whole mesh on this machine."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from meltemi.cli.mesh import DataOption, home_of
from meltemi.cli.output import fail
from meltemi.local.home import Home, Ports

_STOP_LIMIT = 40.0


def up(
    detach: Annotated[bool, typer.Option("--detach", help="Return once it runs.")] = False,
    data: DataOption = None,
    demo: Annotated[
        str | None, typer.Option(help="Also deploy a demo application: bookinfo.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="TOML: image pattern to command, env, directory.")
    ] = None,
    console_port: Annotated[int, typer.Option(help="Console, on 127.0.0.1.")] = 20001,
    ingress_port: Annotated[int, typer.Option(help="Ingress gateway, on 127.0.0.1.")] = 8080,
    ingress_https_port: Annotated[
        int, typer.Option(help="Ingress gateway's TLS, on 127.0.0.1.")
    ] = 8443,
    api_port: Annotated[int, typer.Option(help="Kubernetes API, on 127.0.0.1.")] = 6443,
    cert_lifetime: Annotated[
        float, typer.Option(help="Hours a workload's certificate is good for.")
    ] = 24.0,
) -> None:
    """Start the mesh on this machine: API, control plane, node, ingress gateway.

    Example: meltemi up --demo bookinfo
    """
    from meltemi.cli.bring_up import DidNotStart, bring_up, supervise
    from meltemi.local.ports import PortBusy, open_port, port_of
    from meltemi.local.sandbox import SandboxError, check_machine

    if demo not in (None, "bookinfo"):
        fail(f"--demo {demo}: the demo there is: bookinfo", 2)
    home = home_of(data)
    if home.pid("supervisor") is not None:
        fail(f"a mesh already runs in {home.root}: `meltemi status` shows it")
    started = time.monotonic()
    try:
        check_machine()
        sockets = [
            open_port(console_port, "console", "--console-port"),
            open_port(ingress_port, "ingress", "--ingress-port"),
            open_port(api_port, "Kubernetes API", "--api-port"),
            open_port(ingress_https_port, "ingress, TLS", "--ingress-https-port"),
        ]
    except (PortBusy, SandboxError) as error:
        fail(str(error))
    home.prepare()
    home.kubeconfig.unlink(missing_ok=True)
    ports = Ports(*(port_of(s) for s in sockets))
    home.write_ports(ports)
    options = ["--images", str(images.absolute())] if images else []
    process = supervise(home, [s.fileno() for s in sockets], options, cert_lifetime)
    for sock in sockets:
        sock.close()
    try:
        bring_up(home, process, demo)
    except KeyboardInterrupt:
        _stop(home)
        fail("interrupted: the mesh is down", 130)
    except DidNotStart as error:
        _stop(home)
        fail(str(error))
    _greet(home, ports, demo, time.monotonic() - started)
    if not detach:
        _stay(home, process.wait)


def _greet(home: Home, ports: Ports, demo: str | None, seconds: float) -> None:
    typer.echo(f"The mesh is up, after {seconds:.1f} s.")
    if demo:
        typer.echo(f"  Bookinfo   http://127.0.0.1:{ports.ingress}/productpage")
    typer.echo(f"  Console    http://127.0.0.1:{ports.console}")
    typer.echo(f"  kubectl    export KUBECONFIG={home.kubeconfig}")


def _stay(home: Home, wait: Callable[[], int]) -> None:
    """In the foreground: Ctrl-C takes the mesh down."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = wait()
    except KeyboardInterrupt:
        typer.echo("Taking the mesh down.")
        _stop(home)
    else:
        fail(f"the mesh ended with code {code}: see {home.log_file('supervisor')}")


def down(data: DataOption = None) -> None:
    """Stop the mesh; its state stays, and `meltemi up` continues from it.

    Example: meltemi down
    """
    home = home_of(data)
    if home.pid("supervisor") is None:
        typer.echo(f"no mesh runs in {home.root}")
        return
    _stop(home)
    typer.echo("The mesh is down.")


def _stop(home: Home) -> None:
    pid = home.pid("supervisor")
    if pid is None:
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_LIMIT
    while home.pid("supervisor") is not None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            fail(f"the mesh did not stop within {_STOP_LIMIT:g} s and was killed: see {home.logs}")
        time.sleep(0.05)

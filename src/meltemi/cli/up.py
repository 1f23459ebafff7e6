"""up and down: the whole mesh on this machine."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from meltemi.cli.mesh import DataOption, home_of
from meltemi.cli.output import fail
from meltemi.local.home import Home, Ports

_START_LIMIT = 60.0
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
    process = _supervise(home, [s.fileno() for s in sockets], options, cert_lifetime)
    for sock in sockets:
        sock.close()
    try:
        asyncio.run(_bring_up(home, process, demo))
    except (KeyboardInterrupt, TimeoutError, RuntimeError) as error:
        _stop(home)
        fail(str(error) or "interrupted")
    _greet(home, ports, demo, time.monotonic() - started)
    if not detach:
        _stay(home, process)


def _supervise(
    home: Home, fds: list[int], options: list[str], lifetime: float
) -> subprocess.Popen[bytes]:
    with home.log_file("supervisor").open("ab") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "meltemi.local.supervise",
                "--data",
                str(home.root),
                "--fds",
                ",".join(map(str, fds)),
                "--cert-lifetime",
                str(lifetime),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=fds,
            start_new_session=True,
        )


async def _bring_up(home: Home, process: subprocess.Popen[bytes], demo: str | None) -> None:
    """Wait for the components, deploy what the mesh itself needs and the demo, wait for traffic."""
    from meltemi.local import demo as manifests

    async with asyncio.timeout(_START_LIMIT):
        await _until(home, process, home.kubeconfig.exists)
        await _until_ready(home, process)
        async with manifests.deployer(home.kubeconfig) as deployer:
            await deployer.deploy("gateway/ingressgateway.yaml")
            if demo:
                await deployer.deploy_demo(demo)
            await deployer.gateway_answers(home.ports())


async def _until(home: Home, process: subprocess.Popen[bytes], condition: Any) -> None:
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(_last_words(home))
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


def _last_words(home: Home) -> str:
    """The supervisor's final line: it ends with one clear sentence when it cannot start."""
    lines = home.log_file("supervisor").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"the mesh did not start: see {home.logs}"


def _greet(home: Home, ports: Ports, demo: str | None, seconds: float) -> None:
    typer.echo(f"The mesh is up, after {seconds:.1f} s.")
    if demo:
        typer.echo(f"  Bookinfo   http://127.0.0.1:{ports.ingress}/productpage")
    typer.echo(f"  Console    http://127.0.0.1:{ports.console}")
    typer.echo(f"  kubectl    export KUBECONFIG={home.kubeconfig}")


def _stay(home: Home, process: subprocess.Popen[bytes]) -> None:
    """In the foreground: Ctrl-C takes the mesh down."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        typer.echo("Taking the mesh down.")
        _stop(home)
    else:
        fail(f"the mesh ended with code {code}: {_last_words(home)}")


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

"""`python -m meltemi.local.supervise`: the root process of a local mesh.

Enters the mesh's namespaces when not root, then runs the components. A reason not to start is
one sentence, the last line of its log, which `meltemi up` repeats.
"""

import argparse
import asyncio
import datetime
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from meltemi.local import ipv6
from meltemi.local.home import Home
from meltemi.local.sandbox import SandboxError, enter
from meltemi.local.supervisor import Component, Supervisor, python_module

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_INGRESS = "istio-system/istio-ingressgateway"


def components(
    home: Home,
    fds: Sequence[int],
    *,
    images: str | None,
    cert_lifetime: float,
    porter: int | None = None,
    has_ipv6: bool = False,
) -> tuple[Component, ...]:
    """The three processes of the mesh, with the published sockets each one serves.

    `porter`: the socket of the one who opens further ports outside, where there is one.
    """
    console, ingress, api, ingress_tls = fds[:4]
    api_fds = (api, *fds[4:])
    node = _node_options(home, ingress, ingress_tls, images)
    node_fds = [ingress, ingress_tls]
    if porter is not None:
        node += ["--porter", str(porter)]
        node_fds.append(porter)
    api_options = [part for fd in api_fds for part in ("--fd", str(fd))]
    control = _control_options(home, console, cert_lifetime)
    data = ("--data", str(home.root), *(("--ipv6",) if has_ipv6 else ()))
    return (
        Component(
            "apiserver", python_module("meltemi.local.apiserver", *data, *api_options), api_fds
        ),
        Component("control-plane", python_module("meltemi.app", control), (console,)),
        Component("node", python_module("meltemi.local.node", *data, *node), tuple(node_fds)),
    )


def _control_options(home: Home, console: int, cert_lifetime: float) -> str:
    options = {
        "kubeconfig": str(home.kubeconfig),
        "run_dir": str(home.run),
        "xds_socket": str(home.xds_socket),
        "webhook_url": "https://127.0.0.1:15017",
        "console_fd": console,
        "certificate_lifetime": datetime.timedelta(hours=cert_lifetime),
    }
    return msgspec.json.encode(options).decode()


def _node_options(home: Home, ingress: int, ingress_tls: int, images: str | None) -> list[str]:
    ports = home.ports()
    plain, tls = (ports.ingress, ports.ingress_https) if ports else (0, 0)
    options = [
        *("--publish", f"{plain}={ingress}:{_INGRESS}:80"),
        *("--publish", f"{tls}={ingress_tls}:{_INGRESS}:443"),
    ]
    return [*options, "--images", images] if images else options


def _enter(api_fd: int) -> socket.socket:
    """Enter the mesh's namespaces, and open there the port that the API has outside."""
    outside = socket.socket(fileno=os.dup(api_fd))
    port = outside.getsockname()[1]
    outside.close()
    enter()
    inside = socket.create_server(("127.0.0.1", port), backlog=1024)
    inside.set_inheritable(True)
    return inside


def _start_porter() -> socket.socket:
    """The one who stays outside the namespaces that this process is about to enter."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = python_module("meltemi.local.porter", str(theirs.fileno()))
    subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    return ours


def main(argv: Sequence[str] | None = None) -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="meltemi-supervise")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fds", required=True)
    parser.add_argument("--images")
    parser.add_argument("--cert-lifetime", type=float, default=24.0)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    home = Home(options.data)
    fds = [int(fd) for fd in options.fds.split(",")]
    home.supervisor_pid.write_text(str(os.getpid()))
    try:
        environment = dict(os.environ)
        environment["PATH"] = f"{environment.get('PATH', '')}:{_SBIN}"
        porter: socket.socket | None = None
        if os.geteuid() != 0:
            porter = _start_porter()
            inside = _enter(fds[2])
            fds.append(inside.fileno())
            environment["MELTEMI_ROOTLESS"] = "1"
        parts = components(
            home,
            fds,
            images=options.images,
            cert_lifetime=options.cert_lifetime,
            porter=porter.fileno() if porter is not None else None,
            has_ipv6=ipv6.is_available(environment),
        )
        asyncio.run(Supervisor(home, environment).run(parts))
    except SandboxError as error:
        sys.exit(str(error))
    finally:
        home.supervisor_pid.unlink(missing_ok=True)


if __name__ == "__main__":
    main()

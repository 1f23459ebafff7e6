"""workload: processes of this machine, or elsewhere, as members of a WorkloadGroup."""

import asyncio
from typing import Annotated

import typer

from meltemi.cli.mesh import DataOption, running_home
from meltemi.cli.output import fail

app = typer.Typer(help="Workloads that are not pods.", no_args_is_help=True)

_Group = Annotated[str, typer.Option("--group", help="The WorkloadGroup it belongs to.")]
_Namespace = Annotated[str, typer.Option("--namespace", "-n", help="The group's namespace.")]
_Ports = Annotated[
    list[str] | None, typer.Option("--port", help="NAME=NUMBER: where a port is; repeatable.")
]
_Name = Annotated[str, typer.Option("--name", help="The WorkloadEntry's name.")]


@app.command("run", context_settings={"ignore_unknown_options": True})
def run(
    command: Annotated[list[str], typer.Argument(help="The command, after --.")],
    group: _Group,
    namespace: _Namespace = "default",
    port: _Ports = None,
    name: _Name = "",
    data: DataOption = None,
) -> None:
    """Run a command that joins the mesh: with an Envoy, an identity and a network of its own.

    It is registered as a WorkloadEntry while it runs. Needs root.

    Example: meltemi workload run --group vm -n shop -- python3 -m http.server 8000
    """
    from meltemi.kube.errors import KubeError
    from meltemi.local.node.errors import NodeError
    from meltemi.local.workload.run import Refused, Wanted
    from meltemi.local.workload.run import run as run_workload
    from meltemi.proxy.errors import ProxyError

    wanted = Wanted(group, namespace, command, _numbers(port), name)
    try:
        code = asyncio.run(run_workload(running_home(data), wanted))
    except (Refused, NodeError, KubeError, ProxyError, OSError) as error:
        fail(str(error))
    raise SystemExit(code if code >= 0 else 128 - code)


@app.command("entry")
def entry(
    address: Annotated[str, typer.Argument(help="Where it is reached.")],
    group: _Group,
    namespace: _Namespace = "default",
    port: _Ports = None,
    name: _Name = "",
    data: DataOption = None,
) -> None:
    """Register an address without a proxy as a member of a group; it is spoken to in plaintext.

    Example: meltemi workload entry 192.168.1.7 --group legacy -n shop --port http=8080
    """
    from meltemi.kube.errors import KubeError
    from meltemi.local.workload.register import register
    from meltemi.local.workload.run import Refused, Wanted

    wanted = Wanted(group, namespace, (), _numbers(port), name)
    try:
        made = asyncio.run(register(running_home(data), wanted, address))
    except (Refused, KubeError) as error:
        fail(str(error))
    typer.echo(f"workloadentry/{made} registered")


def _numbers(ports: list[str] | None) -> dict[str, int]:
    found = {}
    for text in ports or ():
        name, _, number = text.partition("=")
        if not name or not number.isdecimal() or not 0 < int(number) < 65536:
            fail(f"--port {text}: write it as NAME=NUMBER", 2)
        found[name] = int(number)
    return found

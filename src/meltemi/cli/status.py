"""status: what runs, how it is, and what it costs."""

from typing import Any

import typer

from meltemi.cli.mesh import DataOption, ask, running_home
from meltemi.cli.output import Format, print_data, print_table
from meltemi.cli.proxies import FormatOption
from meltemi.local.home import Home
from meltemi.local.memory import descendants, pss_mib

COMPONENTS = ("apiserver", "control-plane", "node")


def status(output: FormatOption = Format.TABLE, data: DataOption = None) -> None:
    """Show components, pods, proxies in sync, and memory.

    Example: meltemi status -o json
    """
    home = running_home(data)
    state = gather(home)
    if output is not Format.TABLE:
        print_data(state, output)
        return
    rows = [
        [c["name"], str(c["pid"] or "-"), "yes" if c["ready"] else "no", f"{c['pssMiB']:.0f}"]
        for c in state["components"]
    ]
    print_table(["COMPONENT", "PID", "READY", "MEMORY (MiB)"], rows)
    pods, proxies = state["pods"], state["proxies"]
    typer.echo(f"\npods: {pods['ready']} of {pods['total']} ready")
    typer.echo(f"proxies: {proxies['synced']} of {proxies['total']} in sync")
    if state["problems"]:
        typer.echo(f"problems: {state['problems']}, which `meltemi analyze` shows")
    typer.echo(f"memory: {state['memory']['pssMiB']:.0f} MiB, all of the above and every pod")
    ports = home.ports()
    if ports:
        typer.echo(f"console: http://127.0.0.1:{ports.console}")


def gather(home: Home) -> dict[str, Any]:
    """The state of the mesh in one value."""
    ready = ask(home, "/debug/ready") if home.control_socket.exists() else {}
    components = []
    for name in COMPONENTS:
        pid = home.pid(name)
        components.append(
            {
                "name": name,
                "pid": pid,
                "ready": pid is not None and bool(ready.get(name, False)),
                "pssMiB": round(pss_mib([pid]), 1) if pid else 0.0,
            }
        )
    supervisor = home.pid("supervisor")
    total = pss_mib(descendants(supervisor)) if supervisor else 0.0
    return {
        "components": components,
        "pods": ready.get("pods", {"total": 0, "ready": 0}),
        "proxies": ready.get("proxies", {"total": 0, "synced": 0}),
        "problems": ready.get("problems", 0),
        "memory": {"pssMiB": round(total, 1)},
    }

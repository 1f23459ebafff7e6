"""scope: what proxies need to know, from what they were seen to use."""

from typing import Annotated
from urllib.parse import urlencode

import typer

from meltemi.cli.mesh import DataOption, ask, running_home
from meltemi.cli.output import fail

app = typer.Typer(help="What proxies need to know.", no_args_is_help=True)


@app.callback()
def _scope() -> None:
    """A sidecar's memory follows what it may reach: say less, and it costs less."""


@app.command("suggest")
def suggest(
    namespace: Annotated[str, typer.Argument(help="The namespace whose workloads are looked at.")],
    duration: Annotated[float, typer.Option(help="Seconds to look back.")] = 3600.0,
    data: DataOption = None,
) -> None:
    """Write Sidecar objects that allow what was seen, as YAML.

    Read them before you apply them: what was not called lately is cut off.

    Example: meltemi scope suggest default > sidecars.yaml
    """
    query = urlencode({"namespace": namespace, "duration": duration})
    found = ask(running_home(data), f"/debug/scopes?{query}")
    if not found:
        fail(f"no workload of {namespace} was seen to call anything in {duration:g} s")
    import yaml

    typer.echo(yaml.safe_dump_all(found, sort_keys=False), nl=False)

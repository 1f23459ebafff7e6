"""wait: returns when a change has reached every proxy it concerns."""

from typing import Annotated
from urllib.parse import urlencode

import typer

from meltemi.cli.mesh import DataOption, ask, running_home
from meltemi.cli.output import fail


def wait(
    target: Annotated[str, typer.Argument(help="KIND/NAME or KIND/NAME.NAMESPACE")],
    what: Annotated[
        str, typer.Option("--for", help="distribution: every proxy has acknowledged it.")
    ] = "distribution",
    timeout: Annotated[float, typer.Option(help="Seconds.")] = 30.0,
    data: DataOption = None,
) -> None:
    """Wait until every proxy that an object reaches has acknowledged its newest version.

    Example: meltemi wait --for=distribution virtualservice/reviews.default
    """
    if what != "distribution":
        fail(f"--for={what}: only --for=distribution is known", 2)
    kind, slash, rest = target.partition("/")
    if not slash or not rest:
        fail(f"{target!r}: expected KIND/NAME or KIND/NAME.NAMESPACE", 2)
    name, _, namespace = rest.partition(".")
    home = running_home(data)
    query = urlencode(
        {"kind": kind, "name": name, "namespace": namespace or "default", "timeout": timeout}
    )
    answer = ask(home, f"/debug/wait?{query}", timeout=timeout + 5)
    typer.echo(f"{answer['object']}: acknowledged by {answer['proxies']} proxies")

"""graph: the live traffic graph in a terminal."""

import sys
from typing import Annotated
from urllib.parse import urlencode

import typer

from meltemi.cli.mesh import DataOption, ask, running_home
from meltemi.cli.output import Format, print_data
from meltemi.cli.proxies import FormatOption

_PIPE_WIDTH = 240


def graph(
    namespace: Annotated[
        list[str] | None, typer.Option("-n", "--namespace", help="Only this one; repeatable.")
    ] = None,
    duration: Annotated[float, typer.Option(help="Seconds that rates average over.")] = 60.0,
    output: FormatOption = Format.TABLE,
    data: DataOption = None,
) -> None:
    """Show who calls whom: requests a second, error share, mutual TLS.

    Example: meltemi graph -n default
    """
    query = urlencode({"namespaces": ",".join(namespace or []), "duration": duration})
    answer = ask(running_home(data), f"/api/graph?{query}")
    if output is not Format.TABLE:
        print_data(answer, output)
        return
    import msgspec
    from rich.console import Console

    from meltemi.console.text import render
    from meltemi.console.types import Graph

    # Into a pipe lines go as they are: there is no width they had to fit.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width).print(render(msgspec.convert(answer, Graph)))

"""graph: the live traffic graph in a terminal."""

from typing import Annotated
from urllib.parse import urlencode

import typer

from meltemi.cli.mesh import DataOption, ask, running_home
from meltemi.cli.output import Format, print_data, print_table
from meltemi.cli.proxies import FormatOption


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

    from meltemi.console.text import HEADER, rows
    from meltemi.console.types import Graph

    print_table(HEADER, rows(msgspec.convert(answer, Graph)))

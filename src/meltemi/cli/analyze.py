"""analyze: what is wrong with the mesh's objects, or would be with these files applied."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from meltemi.cli.mesh import DataOption, ask, home_of
from meltemi.cli.output import Format, fail, print_data
from meltemi.cli.proxies import FormatOption
from meltemi.local.home import Home

FOUND = 79
"""Exit code when something is at least as grave as asked: istioctl's, for scripts that know it."""
_GRAVITY = ("error", "warning", "info")


def analyze(
    file: Annotated[
        list[Path] | None, typer.Argument(help="Objects to apply first; files or directories.")
    ] = None,
    namespace: Annotated[
        str, typer.Option("-n", "--namespace", help="Only this one; default: all.")
    ] = "",
    offline: Annotated[
        bool, typer.Option("--offline", help="Only the files, whatever mesh runs.")
    ] = False,
    threshold: Annotated[
        str,
        typer.Option(
            "--failure-threshold", help="error, warning or info: what exit code 79 means."
        ),
    ] = "error",
    output: FormatOption = Format.TABLE,
    data: DataOption = None,
) -> None:
    """Show every configuration problem: the object, the field, the reason and the fix.

    With files, the problems there would be if they were applied. Nothing is changed. Exit code 79:
    there are errors (or whatever --failure-threshold names).

    Example: meltemi analyze samples/bookinfo/networking/virtual-service-all-v1.yaml
    """
    if threshold not in _GRAVITY:
        fail(f"--failure-threshold {threshold}: expected error, warning or info", 2)
    from meltemi.cli.documents import BadFile, Positions, read

    try:
        documents = read(file or ())
    except BadFile as error:
        fail(str(error), 2)
    objects = [document.data for document in documents]
    home = home_of(data)
    live = not offline and home.pid("supervisor") is not None
    found = _live(home, objects) if live else _offline(home, objects)
    found = [p for p in found if namespace in ("", p["namespace"] or namespace)]
    found = Positions(documents).annotated(found)
    if output is Format.TABLE:
        _show(found)
    else:
        print_data(found, output)
    grave = _GRAVITY[: _GRAVITY.index(threshold) + 1]
    raise SystemExit(FOUND if any(p["severity"] in grave for p in found) else 0)


def _live(home: Home, objects: list[dict[str, Any]]) -> Any:
    import msgspec

    return ask(home, "/debug/analyze", body=msgspec.json.encode({"change": objects}))


def _offline(home: Home, objects: list[dict[str, Any]]) -> Any:
    import msgspec

    from meltemi.simulate.analyze import analyze as analyze_objects
    from meltemi.simulate.standins import completed
    from meltemi.simulate.world import raw_objects

    if not objects:
        fail(f"no mesh runs in {home.root}: start one with `meltemi up`, or name files", 2)
    return msgspec.to_builtins(analyze_objects(raw_objects(completed(objects))))


def _show(found: Sequence[dict[str, Any]]) -> None:
    for p in found:
        about = f"{p['kind']}/{p['name']}" + (f".{p['namespace']}" if p["namespace"] else "")
        place = f" {p['file']}:{p['line']}" if "file" in p else ""
        field = f" {p['path']}" if p["path"] else ""
        typer.echo(
            f"{p['severity'].capitalize()} [{p['code']}] ({about}{field}{place}) {p['message']}"
        )
    if not found:
        typer.echo("No problems found.")

"""explain: which rule sends a request where, and why."""

from pathlib import Path
from typing import Annotated, Any

import typer

from meltemi.cli.mesh import DataOption, ask, home_of
from meltemi.cli.output import Format, fail, print_data
from meltemi.local.home import Home

FAILS, DIFFERS = 4, 3
"""Exit codes: the request surely fails; with --diff, it takes another way than before."""


def explain(
    url: Annotated[str, typer.Argument(help="http, https, grpc, tls or tcp://HOST[:PORT]/PATH")],
    origin: Annotated[
        str,
        typer.Option("--from", help="POD[.NS], deploy/NAME[.NS], gateway/NAME[.NS], or gateway."),
    ],
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="NAME: VALUE; may repeat.")
    ] = None,
    method: Annotated[str, typer.Option("--request", "-X", help="The method.")] = "GET",
    tls_sni: Annotated[str, typer.Option(help="The SNI, instead of the URL's host.")] = "",
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="Objects to apply first; a file or directory."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only the files of -f, whatever mesh runs.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Also the way before -f; exit code 3 if it differs.")
    ] = False,
    output: Annotated[Format, typer.Option("-o", "--output", help="table, json or yaml.")] = (
        Format.TABLE
    ),
    data: DataOption = None,
) -> None:
    """Show the way of a request through the mesh, with the rule behind every step.

    With -f, the way it would take if these objects were applied. Without a running mesh, or with
    --offline, the files are all there is. Nothing is changed and nothing is sent.
    Exit codes: 0 it gets through, 4 it surely fails, 3 --diff found another way, 2 bad question.

    Example: meltemi explain --from productpage-v1 http://reviews:9080/ -H 'end-user: jason'
    """
    import msgspec

    from meltemi.cli.documents import BadFile, Positions, read
    from meltemi.simulate.ask import Question
    from meltemi.simulate.explain import Explanation, fails, same_way

    try:
        documents = read(file or ())
    except BadFile as error:
        fail(str(error), 2)
    question = Question(
        url=url, origin=origin, method=method, headers=_headers(header or []), sni=tls_sni
    )
    home = home_of(data)
    live = not offline and home.pid("supervisor") is not None
    objects = [document.data for document in documents]
    answer = _live(home, question, objects) if live else _offline(home, question, objects)
    answer = Positions(documents).annotated(answer)
    explanation = msgspec.convert(answer, Explanation, strict=False)
    if output is Format.TABLE:
        from meltemi.cli.explain_text import show

        show(explanation, with_before=diff)
    else:
        print_data(answer, output)
    if diff and explanation.before is not None:
        raise SystemExit(0 if same_way(explanation.before, explanation.trace) else DIFFERS)
    surely = fails(explanation.trace) and not explanation.uncertain
    raise SystemExit(FAILS if surely else 0)


def _headers(given: list[str]) -> tuple[tuple[str, str], ...]:
    found = []
    for text in given:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            fail(f"-H {text!r}: expected 'NAME: VALUE'", 2)
        found.append((name.strip().lower(), value.strip()))
    return tuple(found)


def _live(home: Home, question: Any, change: list[dict[str, Any]]) -> Any:
    """Ask the control plane, about its objects with these laid over them."""
    import msgspec

    body = msgspec.json.encode({"question": question, "change": change})
    return ask(home, "/debug/explain", body=body)


def _offline(home: Home, question: Any, objects: list[dict[str, Any]]) -> Any:
    """Files alone: pods, addresses and endpoints that a cluster would add are made up."""
    import msgspec

    from meltemi.simulate.ask import BadQuestion
    from meltemi.simulate.explain import explain as explain_files
    from meltemi.simulate.standins import completed
    from meltemi.simulate.world import raw_objects

    if not objects:
        fail(f"no mesh runs in {home.root}: start one with `meltemi up`, or give files with -f", 2)
    try:
        answer = explain_files(raw_objects(completed(objects)), question)
    except BadQuestion as error:
        fail(str(error), 2)
    return msgspec.to_builtins(answer)

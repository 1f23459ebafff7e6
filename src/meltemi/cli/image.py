"""image: which program stands in for a container image on the local platform."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meltemi.cli.mesh import DataOption, home_of
from meltemi.cli.output import fail, print_table
from meltemi.local.home import Home

if TYPE_CHECKING:
    from meltemi.local.images.table import Entry

app = typer.Typer(
    help="Which program of this machine stands in for a container image.", no_args_is_help=True
)


@app.command("list")
def list_images(data: DataOption = None) -> None:
    """Show the images that pods can name, and what runs for them.

    Example: meltemi image list
    """
    from meltemi.local.images.builtin import images
    from meltemi.local.images.table import BadTable, read_entries

    home = home_of(data)
    rows = []
    try:
        added = read_entries(home.images) if home.images.exists() else {}
    except BadTable as error:
        fail(str(error))
    for pattern, entry in added.items():
        command = entry.command if isinstance(entry.command, str) else " ".join(entry.command)
        what = " ".join((*entry.entrypoint, command)) if entry.root else entry.program or command
        rows.append([pattern, what, "unpacked" if entry.root else "added"])
    for pattern, image in images().items():
        if not pattern.startswith("*/"):
            command = " ".join((*image.command, *image.arguments)) or "envoy"
            what = image.program or command
            rows.append([pattern, what, "built in"])
    print_table(["IMAGE", "RUNS", "FROM"], rows)


@app.command("add", context_settings={"ignore_unknown_options": True})
def add(
    image: Annotated[str, typer.Argument(help="Name or pattern: redis, myorg/*, app:1.2.")],
    command: Annotated[
        list[str] | None, typer.Argument(help="Command of this machine, after --.")
    ] = None,
    program: Annotated[str, typer.Option(help="A built-in program instead of a command.")] = "",
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; repeatable.")] = None,
    directory: Annotated[Path | None, typer.Option(help="Where the command starts.")] = None,
    user: Annotated[int, typer.Option(help="User of pods that must not run as root.")] = 0,
    oci: Annotated[
        Path | None, typer.Option(help="An OCI layout, a directory or tar, to unpack and run.")
    ] = None,
    data: DataOption = None,
) -> None:
    """Let a command of this machine stand in for an image; pods that wait for it start.

    With --oci the image itself is unpacked, and its containers have it as their root.

    Example: meltemi image add redis -- redis-server --protected-mode no
    """
    from meltemi.local.images.table import BadTable, Entry, image_of, read_entries, write_entries

    home = home_of(data)
    home.prepare()
    entry = (
        _unpacked(home, oci)
        if oci is not None
        else Entry(
            command=tuple(command or ()),
            program=program,
            env=dict(_pair(text) for text in env or ()),
            directory=str(directory.absolute()) if directory else "",
            user=user,
        )
    )
    try:
        image_of(home.images, image, entry)
        entries = read_entries(home.images) if home.images.exists() else {}
    except BadTable as error:
        fail(str(error))
    write_entries(home.images, {**entries, image: entry})
    _tell(home)
    typer.echo(f"{image} runs {entry.program or entry.root or ' '.join(command or ())}")


def _unpacked(home: Home, layout: Path) -> "Entry":
    from meltemi.local.images.oci import add as unpack
    from meltemi.local.images.table import Entry
    from meltemi.local.images.unpack import BadImage

    try:
        found = unpack(layout, home.rootfs)
    except BadImage as error:
        fail(str(error))
    return Entry(
        root=str(found.root.relative_to(home.root)),
        entrypoint=found.entrypoint,
        command=found.command,
        env=dict(found.env),
        directory=found.directory,
        uid=found.uid,
        gid=found.gid,
    )


@app.command("remove")
def remove(
    image: Annotated[str, typer.Argument(help="As it was added.")], data: DataOption = None
) -> None:
    """Take an image out of the table; containers that run go on.

    Example: meltemi image remove redis
    """
    from meltemi.local.images.table import BadTable, read_entries, write_entries

    home = home_of(data)
    try:
        entries = read_entries(home.images) if home.images.exists() else {}
    except BadTable as error:
        fail(str(error))
    if image not in entries:
        known = ", ".join(entries) or "none"
        fail(f"image {image} was not added; added are: {known}")
    write_entries(home.images, {k: v for k, v in entries.items() if k != image})
    _tell(home)
    typer.echo(f"{image} removed")


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        fail(f"--env {text}: expected NAME=VALUE", 2)
    return name, value


def _tell(home: Home) -> None:
    """A running node looks at the table now; without one it does at its start."""
    import asyncio

    if home.node_socket.exists():
        asyncio.run(_reload(home.node_socket))


async def _reload(socket: Path) -> None:
    import contextlib

    import aiohttp

    connector = aiohttp.UnixConnector(str(socket))
    async with aiohttp.ClientSession(connector=connector) as session:
        with contextlib.suppress(aiohttp.ClientConnectorError):
            await session.post("http://node/images/reload")

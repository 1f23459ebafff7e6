"""Which program stands in for a container image.

Built-in images run a program of ours in a forked process; a user's own tables (`meltemi image add`,
`--images FILE`) map patterns to commands of the machine, or to built-in programs. The registry and
the tag of an image do not matter unless a pattern names them.
"""

import fnmatch
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from meltemi.local.images.image import Image
from meltemi.local.images.programs import NAMES


class BadTable(ValueError):
    """A user's table cannot be used; the text names the file, the entry and the fix."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One image of a user's table, as the file has it."""

    command: tuple[str, ...] | str = ()
    program: str = ""
    env: dict[str, str] = {}
    directory: str = ""
    user: int = 0
    root: str = ""
    """Of an unpacked image; `command` is then its CMD."""
    entrypoint: tuple[str, ...] = ()
    uid: int = 0
    gid: int = 0


class Table:
    """Looks images up by pattern; the first one that matches counts."""

    def __init__(self, entries: Mapping[str, Image] | None = None) -> None:
        self.entries = {**(entries or {})}

    def find(self, image: str) -> Image | None:
        forms = _forms(image)
        for pattern, found in self.entries.items():
            if any(fnmatch.fnmatchcase(form, pattern) for form in forms):
                return found
        return None


def read_entries(path: Path) -> dict[str, Entry]:
    """Read `["pattern"] command = [...], env = {...}, directory = "..."`. Raises BadTable."""
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise BadTable(f"{path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadTable(f"{path}: {error}") from error
    entries = {}
    for pattern, value in raw.items():
        try:
            entries[pattern] = msgspec.convert(value, Entry)
        except msgspec.ValidationError as error:
            raise BadTable(f'{path}: image "{pattern}": {error}') from error
        image_of(path, pattern, entries[pattern])
    return entries


def table_of(path: Path) -> Table:
    """Raises BadTable."""
    return Table({p: image_of(path, p, entry) for p, entry in read_entries(path).items()})


def write_entries(path: Path, entries: Mapping[str, Entry]) -> None:
    """Replace the file in one step."""
    lines = ["# Written by `meltemi image`; you may edit it, the running mesh follows."]
    for pattern, entry in entries.items():
        lines += ["", f"[{json.dumps(pattern)}]"]
        lines += [f"{k} = {_toml(v)}" for k, v in msgspec.to_builtins(entry).items()]
    temporary = path.with_suffix(".new")
    temporary.write_text("\n".join(lines) + "\n")
    temporary.replace(path)


def _toml(value: object) -> str:
    """JSON's strings, numbers and arrays are TOML's, too; its objects are not."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def image_of(path: Path, pattern: str, entry: Entry) -> Image:
    """An entry of the table at `path`. Raises BadTable."""
    if entry.root:
        return _unpacked(path, pattern, entry)
    command = ("/bin/sh", "-c", entry.command) if isinstance(entry.command, str) else entry.command
    has_command = bool(command and command[-1])
    if has_command == bool(entry.program):
        raise BadTable(
            f'{path}: image "{pattern}": give one of command (a list or a string) and program'
        )
    if entry.program and entry.program not in NAMES:
        known = ", ".join(sorted(NAMES))
        raise BadTable(f'{path}: image "{pattern}": program {entry.program} is not one of: {known}')
    directory = os.path.join(path.parent.absolute(), entry.directory) if entry.directory else ""
    if directory and not os.path.isdir(directory):
        raise BadTable(f'{path}: image "{pattern}": directory {directory} does not exist')
    return Image(
        command=command[:1] if has_command else (),
        arguments=command[1:] if has_command else (),
        program=entry.program,
        env=entry.env,
        directory=directory,
        user=entry.user,
    )


def _unpacked(path: Path, pattern: str, entry: Entry) -> Image:
    root = path.parent.absolute() / entry.root
    if not root.is_dir():
        raise BadTable(f'{path}: image "{pattern}": root {root} does not exist; add it again')
    return Image(
        root=str(root),
        command=entry.entrypoint,
        arguments=(entry.command,) if isinstance(entry.command, str) else entry.command,
        env=entry.env,
        directory=entry.directory,
        uid=entry.uid,
        gid=entry.gid,
        user=entry.uid,
    )


def _forms(image: str) -> Sequence[str]:
    """The whole reference, without tag and digest, and without the registry as well."""
    untagged = image.partition("@")[0]
    head, slash, tail = untagged.rpartition("/")
    bare = head + slash + tail.partition(":")[0]
    first, _, rest = bare.partition("/")
    without_registry = rest if rest and ("." in first or ":" in first) else bare
    return (image, bare, without_registry)

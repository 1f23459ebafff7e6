"""Every field of a kind, from its Struct, and the tables of docs/fields.

`python -m tests.unit.docs.fields VirtualService` prints a table to fill in.

A field stands in a table by its path under `spec`: `http[].match[].uri`. What is a leaf: anything
but a message; maps; the small messages below; and a message that was spelled out further up in the
same table (`subsets[].trafficPolicy` stands for what `trafficPolicy` already lists).
"""

import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from meltemi.api.kinds import KINDS
from meltemi.api.mesh_config import MeshConfig

DOCS = Path(__file__).parents[3] / "docs" / "fields"
_SMALL = frozenset({"StringMatch", "Percent", "PortSelector", "LabelSelector"})
_MOST = 12


class Row(NamedTuple):
    field: str
    does: str
    test: str


def message_of(kind: str) -> type[msgspec.Struct] | None:
    """What a table of this name is about: a kind's spec, or MeshConfig."""
    if kind == "MeshConfig":
        return MeshConfig
    struct = KINDS[kind].struct if kind in KINDS else None
    if struct is None:
        return None
    hints = typing.get_type_hints(struct)
    spec = hints.get("spec")
    return spec if isinstance(spec, type) and issubclass(spec, msgspec.Struct) else None


def leaves(message: type[msgspec.Struct]) -> list[str]:
    """The paths of all leaf fields, in the API's order."""
    return list(_leaves(message, "", set(), 0))


def _leaves(
    message: type[msgspec.Struct], prefix: str, spelled: set[type], depth: int
) -> Iterator[str]:
    spelled.add(message)
    hints = typing.get_type_hints(message)
    for field in msgspec.structs.fields(message):
        inner, many = _message_in(hints[field.name])
        path = f"{prefix}{field.encode_name}{'[]' if many else ''}"
        is_leaf = inner is None or inner.__name__ in _SMALL or inner in spelled or depth > _MOST
        if is_leaf or inner is None:
            yield f"{prefix}{field.encode_name}"
        else:
            yield from _leaves(inner, f"{path}.", spelled, depth + 1)


def _message_in(hint: object) -> tuple[type[msgspec.Struct] | None, bool]:
    """The message a field holds, alone or in a list; maps are leaves."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint, False
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for argument in arguments:
            found, many = _message_in(argument)
            if found is not None:
                return found, many
    if origin is tuple and arguments:
        return _message_in(arguments[0])[0], True
    return None, False


def tables() -> dict[str, Path]:
    """The tables there are, by kind."""
    names = {_plain(name): name for name in (*KINDS, "MeshConfig")}
    return {names.get(_plain(path.stem), path.stem): path for path in sorted(DOCS.glob("*.md"))}


def rows(path: Path) -> list[Row]:
    """The rows of a file's first table whose header begins with `field`."""
    found: list[Row] = []
    for line in path.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if not line.startswith("|") or len(cells) != 3:
            continue
        if cells[0].lower() == "field" or set(cells[0]) <= set(":- "):
            continue
        found.append(Row(cells[0].strip("`"), cells[1], cells[2]))
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_]", "", name).lower()


def main(kind: str) -> None:
    message = message_of(kind)
    if message is None:
        sys.exit(f"{kind} has no Struct with a spec")
    print(f"# {kind}\n\n| field | what it does here | test |\n| --- | --- | --- |")
    for field in leaves(message):
        print(f"| `{field}` |  |  |")


if __name__ == "__main__":
    main(sys.argv[1])

"""`python -m meltemi.console.typescript`: the console's TypeScript types, from the Structs."""

import types as python_types
import typing
from collections.abc import Mapping
from typing import Any

import msgspec

from meltemi.console import types

_PLAIN = {str: "string", float: "number", int: "number", bool: "boolean", type(None): "null"}


def typescript() -> str:
    """One exported type for each name of `console.types`."""
    lines = ["// Made by `python -m meltemi.console.typescript`; do not edit.", ""]
    literals: dict[object, str] = {}
    for name, value in vars(types).items():
        if typing.get_origin(value) is typing.Literal:
            literals[value] = name
            words = " | ".join(f'"{word}"' for word in typing.get_args(value))
            lines += [f"export type {name} = {words};", ""]
    for name, value in vars(types).items():
        if isinstance(value, type) and issubclass(value, types.View) and value is not types.View:
            lines.append(f"export interface {name} {{")
            for field in msgspec.structs.fields(value):
                lines.append(f"  {field.encode_name}: {_type(field.type, literals)};")
            lines += ["}", ""]
    return "\n".join(lines)


def _type(hint: Any, literals: dict[object, str]) -> str:
    if hint in literals:
        return literals[hint]
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " | ".join(f'"{word}"' for word in arguments)
    if origin in (typing.Union, python_types.UnionType):
        return " | ".join(_type(part, literals) for part in arguments)
    if origin is tuple:
        inner = _type(arguments[0], literals)
        return f"({inner})[]" if "|" in inner else f"{inner}[]"
    if origin is Mapping:
        return f"Record<string, {_type(arguments[1], literals)}>"
    return str(hint.__name__)


if __name__ == "__main__":
    print(typescript(), end="")

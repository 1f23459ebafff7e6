"""Bodies brought into shape: a clean copy of what a client sent, and what was wrong with it.

Nulls mean unset and are left out. Fields nobody knows are left out and named; a value of the
wrong type is named. Mesh objects are proto3 JSON, so that snake_case names count as known there
and unknown fields stay: the control plane reads what it knows.
"""

import math
import re
from typing import Any

import msgspec

from meltemi.local.apiserver.schema.node import Node

Json = dict[str, Any]
_QUANTITY = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?")
_DEEPEST = 64
_WORDS = {
    "object": "an object", "map": "an object", "list": "a list", "string": "a string",
    "int": "an integer", "number": "a number", "bool": "true or false",
    "bytes": "a base64 string", "time": "a timestamp", "microtime": "a timestamp",
    "quantity": "a quantity such as 500m or 1Gi", "intorstring": "an integer or a string",
}  # fmt: skip


class Shaped(msgspec.Struct):
    """The outcome. `wrong`: (path, what was expected and what was found)."""

    value: Json
    unknown: list[str] = []
    wrong: list[tuple[str, str]] = []


def shape(node: Node | None, value: Json, *, keeps_unknown: bool = False) -> Shaped:
    """A copy of `value` as `node` describes it; without a node, only a copy."""
    shaper = _Shaper(keeps_unknown)
    copied = shaper.any(value, "") if node is None else shaper.at(node, value, "")
    return Shaped(copied, shaper.unknown, shaper.wrong)


class _Shaper:
    def __init__(self, keeps_unknown: bool) -> None:
        self.unknown: list[str] = []
        self.wrong: list[tuple[str, str]] = []
        self._keeps_unknown = keeps_unknown

    def at(self, node: Node, value: Any, path: str) -> Any:
        word = node.word
        if word == "string":
            return value if isinstance(value, str) else self._refuse(node, value, path)
        if word == "object":
            return self._object(node, value, path)
        if word == "any":
            return self.any(value, path)
        if word == "list" and isinstance(value, list):
            item = node.item
            assert item is not None
            return [self.at(item, v, f"{path}[{i}]") for i, v in enumerate(value) if v is not None]
        if word == "map" and isinstance(value, dict):
            item = node.item
            assert item is not None
            keep = item.is_nullable
            return {
                k: None if v is None else self.at(item, v, f"{path}[{k}]")
                for k, v in value.items()
                if v is not None or keep
            }
        return self._scalar(node, value, path)

    def _object(self, node: Node, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            return self._refuse(node, value, path)
        if path.count(".") > _DEEPEST:
            self.wrong.append((path, "nested too deeply"))
            return {}
        copied = {}
        for name, inner in value.items():
            field = node.fields.get(name)
            below = f"{path}.{name}" if path else name
            if field is not None:
                if inner is not None:
                    copied[name] = self.at(field, inner, below)
                elif field.is_nullable:
                    copied[name] = None
            elif node.keeps_unknown:
                copied[name] = self.any(inner, below)
            else:
                if not self._keeps_unknown:
                    self.unknown.append(below)
                    continue
                if camel(name) not in node.fields:
                    self.unknown.append(below)
                copied[name] = self.any(inner, below)
        return copied

    def any(self, value: Any, path: str, depth: int = 0) -> Any:
        """A copy of what nothing is known about."""
        if depth > _DEEPEST:
            self.wrong.append((path, "nested too deeply"))
            return None
        if isinstance(value, dict):
            return {k: self.any(v, path, depth + 1) for k, v in value.items()}
        if isinstance(value, list):
            return [self.any(v, path, depth + 1) for v in value]
        return value

    def _scalar(self, node: Node, value: Any, path: str) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        match node.word:
            case "int" if is_number and float(value).is_integer():
                if -(1 << 63) <= value < 1 << 63:
                    return int(value)
            case "number" if is_number and math.isfinite(value):
                return value
            case "bool" if isinstance(value, bool):
                return value
            case "bytes" | "time" | "microtime" if isinstance(value, str):
                return value
            case "intorstring" if isinstance(value, str) or (is_number and int(value) == value):
                return value
            case "quantity" if is_number and math.isfinite(value):
                return f"{value:g}"
            case "quantity" if isinstance(value, str) and _QUANTITY.fullmatch(value):
                return value
        return self._refuse(node, value, path)

    def _refuse(self, node: Node, value: Any, path: str) -> Any:
        self.wrong.append((path, f"expected {_WORDS.get(node.word, node.word)}, {_found(value)}"))
        return value


def _found(value: Any) -> str:
    match value:
        case bool():
            return f"got {str(value).lower()}"
        case str():
            return f'got "{value[:64]}"'
        case int() | float():
            return f"got {value}"
        case list():
            return "got a list"
        case dict():
            return "got an object"
    return "got null"


def camel(name: str) -> str:
    """`port_level_mtls` as `portLevelMtls`."""
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def fill_defaults(node: Node | None, value: Any) -> None:
    """Put the defaults of a schema into an object, in place."""
    if node is None:
        return
    if node.word == "object" and isinstance(value, dict):
        for name, field in node.fields.items():
            if name not in value and field.default is not msgspec.UNSET:
                value[name] = _copy(field.default)
            if name in value:
                fill_defaults(field, value[name])
    elif node.word == "map" and isinstance(value, dict):
        for inner in value.values():
            fill_defaults(node.item, inner)
    elif node.word == "list" and isinstance(value, list):
        for inner in value:
            fill_defaults(node.item, inner)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value

"""The part of JSONPath that printer columns use: fields, indexes, `[*]` and simple filters.

https://kubernetes.io/docs/reference/kubectl/jsonpath/
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec


class Field(msgspec.Struct, frozen=True):
    name: str


class Index(msgspec.Struct, frozen=True):
    number: int | None
    """None: every item."""


class Filter(msgspec.Struct, frozen=True):
    """`[?(@.type=="Ready")]`"""

    path: tuple[str, ...]
    operator: str
    value: Any


Path = tuple[Field | Index | Filter, ...]
_STEP = re.compile(
    r"""\.?(?:
      (?P<field>[A-Za-z0-9_$-][A-Za-z0-9_$/-]*(?:\\\.[A-Za-z0-9_$/-]+)*)
    | \[(?P<quote>['"])(?P<quoted>[^'"]*)(?P=quote)\]
    | \[(?P<index>\*|-?\d+)\]
    | \[\?\(\s*@(?P<path>(?:\.[A-Za-z0-9_-]+)+)\s*(?P<op>==|!=)\s*
        (?P<value>"[^"]*"|'[^']*'|true|false|-?\d+)\s*\)\]
    )""",
    re.VERBOSE,
)


def parse(text: str) -> Path:
    """Steps of a path such as `.status.conditions[?(@.type=="Ready")].status`; stops at what it
    does not know."""
    text = text.strip().strip("{}")
    steps: list[Field | Index | Filter] = []
    position = 0
    while position < len(text):
        found = _STEP.match(text, position)
        if not found or found.end() == position:
            break
        steps.append(_step(found))
        position = found.end()
    return tuple(steps)


def _step(found: re.Match[str]) -> Field | Index | Filter:
    if found["field"] is not None:
        return Field(found["field"].replace("\\.", "."))
    if found["quoted"] is not None:
        return Field(found["quoted"])
    if found["index"] is not None:
        return Index(None if found["index"] == "*" else int(found["index"]))
    written = found["value"]
    value: Any = written[1:-1] if written[0] in "\"'" else msgspec.json.decode(written)
    return Filter(tuple(found["path"].strip(".").split(".")), found["op"], value)


def find(path: Path, data: Any) -> Sequence[Any]:
    """All values at a path."""
    values = [data]
    for step in path:
        values = [inner for value in values for inner in _at(step, value)]
    return values


def _at(step: Field | Index | Filter, value: Any) -> Sequence[Any]:
    match step:
        case Field(name):
            return [value[name]] if isinstance(value, dict) and name in value else []
        case Index(number) if isinstance(value, list):
            if number is None:
                return value
            return [value[number]] if -len(value) <= number < len(value) else []
        case Filter() if isinstance(value, list):
            return [item for item in value if _holds(step, item)]
    return []


def _holds(test: Filter, item: Any) -> bool:
    for name in test.path:
        item = item.get(name) if isinstance(item, dict) else None
    return bool((item == test.value) == (test.operator == "=="))

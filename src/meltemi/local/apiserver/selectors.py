"""Label and field selectors, as query strings carry them."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from meltemi.local.apiserver.errors import bad_request

Json = dict[str, Any]
Test = Callable[[Json], bool]

_SET = re.compile(r"\s*([^\s=!,()]+)\s+(in|notin)\s*\(([^)]*)\)\s*")
_EQUAL = re.compile(r"\s*([^\s=!,()]+)\s*(==|!=|=)\s*([^,()]*?)\s*")
_EXISTS = re.compile(r"\s*(!?)\s*([^\s=!,()]+)\s*")


def _split(text: str) -> list[str]:
    """Split at commas outside parentheses."""
    return re.split(r",(?![^(]*\))", text)


def label_test(selector: str) -> Callable[[Mapping[str, str]], bool]:
    """A test for the form `a=b,c in (d,e),!f`; raises a 400 for anything else."""
    tests: list[Callable[[Mapping[str, str]], bool]] = []
    for part in _split(selector) if selector.strip() else []:
        if found := _SET.fullmatch(part):
            name, operator, listed = found.groups()
            values = frozenset(v.strip() for v in listed.split(","))
            tests.append(_in(name, values, wanted=operator == "in"))
        elif found := _EQUAL.fullmatch(part):
            name, operator, value = found.groups()
            tests.append(_in(name, frozenset((value,)), wanted=operator != "!="))
        elif found := _EXISTS.fullmatch(part):
            tests.append(_has(found.group(2), wanted=not found.group(1)))
        else:
            raise bad_request(f"unable to parse requirement in labelSelector: {part!r}")
    return lambda labels: all(test(labels) for test in tests)


def _in(name: str, values: frozenset[str], *, wanted: bool) -> Callable[[Mapping[str, str]], bool]:
    if wanted:
        return lambda labels: labels.get(name) in values
    return lambda labels: labels.get(name) not in values


def _has(name: str, *, wanted: bool) -> Callable[[Mapping[str, str]], bool]:
    return lambda labels: (name in labels) is wanted


def field_test(selector: str) -> Test:
    """A test for the form `metadata.name=x,status.phase!=Running`; absent fields are empty."""
    tests: list[Test] = []
    for part in selector.split(",") if selector.strip() else []:
        found = re.fullmatch(r"\s*([^=!]+?)\s*(==|!=|=)\s*(.*?)\s*", part)
        if not found:
            raise bad_request(f"invalid field selector: {part!r}")
        path, operator, value = found.groups()
        tests.append(_field(path.split("."), value, wanted=operator != "!="))
    return lambda data: all(test(data) for test in tests)


def _field(path: list[str], value: str, *, wanted: bool) -> Test:
    def test(data: Json) -> bool:
        found: Any = data
        for step in path:
            found = found.get(step) if isinstance(found, dict) else None
        text = "" if found is None else str(found)
        if isinstance(found, bool):
            text = str(found).lower()
        return (text == value) is wanted

    return test


def object_test(labels: str, fields: str) -> Test:
    """Both selectors together."""
    by_label, by_field = label_test(labels), field_test(fields)

    def test(data: Json) -> bool:
        meta = data.get("metadata", {})
        return by_label(meta.get("labels") or {}) and by_field(data)

    return test


def matches_selector(selector: Json | None, labels: Mapping[str, str]) -> bool:
    """A LabelSelector object; empty or absent selects everything."""
    selector = selector or {}
    wanted: Mapping[str, str] = selector.get("matchLabels") or {}
    if not wanted.items() <= labels.items():
        return False
    for expression in selector.get("matchExpressions") or []:
        name, values = expression["key"], expression.get("values") or []
        holds = {
            "In": labels.get(name) in values,
            "NotIn": labels.get(name) not in values,
            "Exists": name in labels,
            "DoesNotExist": name not in labels,
        }.get(expression["operator"], False)
        if not holds:
            return False
    return True

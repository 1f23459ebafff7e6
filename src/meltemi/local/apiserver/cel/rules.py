"""The rules of a definition's schema, `x-kubernetes-validations`.

https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-rules
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from meltemi.local.apiserver.cel.expressions import CelError, Expression

Json = dict[str, Any]
_KNOWN = ("self", "oldSelf")


class Rule:
    """One of a schema's `x-kubernetes-validations`."""

    def __init__(self, data: Json) -> None:
        self.expression = Expression(str(data.get("rule", "")), _KNOWN)
        self.message = str(data.get("message") or f"failed rule: {self.expression.text}")
        written = data.get("messageExpression")
        self._said = Expression(written, _KNOWN) if written else None
        self.reason = str(data.get("reason") or "FieldValueInvalid")
        self.field_path = str(data.get("fieldPath") or "")
        self.is_transition = "oldSelf" in self.expression.variables
        self.sees_absence = bool(data.get("optionalOldSelf"))

    def failure(self, value: Any, before: Any) -> str | None:
        """Why a value breaks the rule; None when it holds."""
        variables = {"self": value, "oldSelf": before}
        try:
            if self.expression.value(variables) is True:
                return None
            return str(self._said.value(variables)) if self._said else self.message
        except CelError as error:
            return f"{self.message} ({error})"


class Rules:
    """All rules of one schema; compiled when they are first needed."""

    def __init__(self, schema: Json) -> None:
        self._schema = schema

    @cached_property
    def _by_schema(self) -> dict[int, list[Rule]]:
        return {
            id(node): [Rule(rule) for rule in node["x-kubernetes-validations"]]
            for _, node in _schemas(self._schema, "")
            if node.get("x-kubernetes-validations")
        }

    def problems(self) -> list[tuple[str, str]]:
        """(path in the schema, why) for each rule that cannot be compiled."""
        found = []
        for path, node in _schemas(self._schema, ""):
            for i, rule in enumerate(node.get("x-kubernetes-validations") or ()):
                try:
                    Rule(rule)
                except CelError as error:
                    where = f"{path}.x-kubernetes-validations[{i}].rule".lstrip(".")
                    found.append((where, f"compilation failed: {error}"))
        return found

    def failures(self, value: Any, before: Any) -> Iterator[tuple[str, str]]:
        """(path, message) for each rule that an object breaks."""
        if any(True for _, n in _schemas(self._schema, "") if "x-kubernetes-validations" in n):
            yield from self._check(self._schema, value, before, "")

    def _check(self, schema: Json, value: Any, before: Any, path: str) -> Iterator[tuple[str, str]]:
        for rule in self._by_schema.get(id(schema), ()):
            if rule.is_transition and before is None and not rule.sees_absence:
                continue
            failed = rule.failure(value, before)
            if failed is not None:
                yield f"{path}{rule.field_path}".lstrip("."), failed
        if isinstance(value, dict):
            fields, extra = schema.get("properties") or {}, schema.get("additionalProperties")
            for name, inner in value.items():
                found = fields.get(name, extra)
                if isinstance(found, dict):
                    old = before.get(name) if isinstance(before, dict) else None
                    below = f"{path}.{name}" if path else name
                    yield from self._check(found, inner, old, below)
        elif isinstance(value, list) and isinstance(schema.get("items"), dict):
            older = _matched(schema, value, before)
            for i, inner in enumerate(value):
                yield from self._check(schema["items"], inner, older[i], f"{path}[{i}]")


def _matched(schema: Json, value: list[Any], before: Any) -> list[Any]:
    """What each item was before: known only where lists are keyed."""
    keys = schema.get("x-kubernetes-list-map-keys")
    if not keys or not isinstance(before, list):
        return [None] * len(value)
    old = {tuple(map(str, map(i.get, keys))): i for i in before if isinstance(i, dict)}
    return [
        old.get(tuple(map(str, map(i.get, keys)))) if isinstance(i, dict) else None for i in value
    ]


def _schemas(schema: Any, path: str) -> Iterator[tuple[str, Json]]:
    if not isinstance(schema, dict):
        return
    yield path, schema
    for name, inner in (schema.get("properties") or {}).items():
        yield from _schemas(inner, f"{path}.properties[{name}]")
    for word in ("items", "additionalProperties"):
        yield from _schemas(schema.get(word), f"{path}.{word}")

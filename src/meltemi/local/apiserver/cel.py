"""CEL, the language of rules in definitions and of match conditions in webhooks.

The only module that knows the library. An expression that names a function nobody has is refused
when it is made, not when it first runs. `find` and `findAll` are not offered: they would run
users' patterns on an engine that backtracks.
https://kubernetes.io/docs/reference/using-api/cel/
"""

import ipaddress
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]
_LONGEST = 8192


class CelError(ValueError):
    """An expression that cannot be compiled, or that failed."""


class Expression:
    """One expression, compiled when it is made."""

    def __init__(self, text: str) -> None:
        import cel

        if len(text) > _LONGEST:
            raise CelError(f"an expression may have {_LONGEST} characters at most")
        try:
            self._program = cel.compile(text)
        except (ValueError, RuntimeError) as error:
            raise CelError(str(error).splitlines()[0]) from error
        self.text = text
        unknown = sorted(set(self._program.functions()) - _BUILT_IN - _FUNCTIONS.keys())
        if unknown:
            raise CelError(f"undeclared reference to {', '.join(map(repr, unknown))}")
        self._functions = [n for n in self._program.functions() if n in _FUNCTIONS]
        self.variables = frozenset(self._program.variables())

    def value(self, variables: Mapping[str, Any]) -> Any:
        """The expression's value. Raises CelError."""
        import cel

        context = cel.Context()
        for name in self.variables:
            if name in variables:
                context.add_variable(name, variables[name])
        for name in self._functions:
            context.add_function(name, _FUNCTIONS[name])
        try:
            return self._program.execute(context)
        except Exception as error:
            raise CelError(str(error).splitlines()[0] if str(error) else "failed") from error


class Rule:
    """One of a schema's `x-kubernetes-validations`."""

    def __init__(self, data: Json) -> None:
        self.expression = Expression(str(data.get("rule", "")))
        self.message = str(data.get("message") or f"failed rule: {self.expression.text}")
        written = data.get("messageExpression")
        self._said = Expression(written) if written else None
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


_WORDS = (
    "size has all exists exists_one map filter startsWith endsWith contains matches dyn type int "
    "uint double string bytes bool duration timestamp getFullYear getMonth getDayOfMonth getDate "
    "getDayOfWeek getDayOfYear getHours getMinutes getSeconds getMilliseconds "
    "_+_ _-_ _*_ _/_ _%_ _==_ _!=_ _<_ _<=_ _>_ _>=_ _&&_ _||_ !_ -_ _[_] _?_:_ @in "
    "@not_strictly_false"
)
_BUILT_IN = frozenset(_WORDS.split())


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme and (parts.netloc or parts.path)) or text.startswith("/")


def _url(text: str) -> Json:
    if not _is_url(text):
        raise ValueError(f"URL parse error: {text}")
    parts = urlsplit(text)
    return {
        "scheme": parts.scheme, "host": parts.netloc, "hostname": parts.hostname or "",
        "port": str(parts.port or ""), "path": parts.path,
    }  # fmt: skip


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_cidr(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return "/" in text


def _substring(text: str, start: int, end: int | None = None) -> str:
    stop = len(text) if end is None else int(end)
    if not 0 <= int(start) <= stop <= len(text):
        raise ValueError("substring: index out of range")
    return text[int(start) : stop]


def _index_of(found: Any, wanted: Any, start: int = 0) -> int:
    if isinstance(found, str):
        return found.find(wanted, int(start))
    return found.index(wanted) if wanted in found else -1


def _last_index_of(found: Any, wanted: Any) -> int:
    if isinstance(found, str):
        return found.rfind(wanted)
    return max((i for i, v in enumerate(found) if v == wanted), default=-1)


def _split(text: str, separator: str, limit: int = -1) -> list[str]:
    if limit == 0:
        return []
    parts = text.split(separator) if separator else list(text)
    if 0 < limit < len(parts):
        parts = [*parts[: limit - 1], separator.join(parts[limit - 1 :])]
    return parts


_UNITS = {
    "": 1, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
    "E": 1e18, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
}  # fmt: skip
_QUANTITY = re.compile(r"([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)([numkMGTPE]?|[KMGTPE]i)")


def quantity(text: str) -> float:
    """A Kubernetes quantity as a number. Raises ValueError."""
    found = _QUANTITY.fullmatch(str(text))
    if not found:
        raise ValueError(f"{text!r} is not a quantity")
    return float(found.group(1)) * _UNITS[found.group(2)]


def _is_quantity(text: str) -> bool:
    return _QUANTITY.fullmatch(text) is not None


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "isURL": _is_url,
    "url": _url,
    "getScheme": lambda url: url["scheme"],
    "getHost": lambda url: url["host"],
    "getHostname": lambda url: url["hostname"],
    "getPort": lambda url: url["port"],
    "getEscapedPath": lambda url: url["path"],
    "isIP": _is_ip,
    "isCIDR": _is_cidr,
    "quantity": quantity,
    "isQuantity": _is_quantity,
    "isGreaterThan": lambda a, b: a > b,
    "isLessThan": lambda a, b: a < b,
    "compareTo": lambda a, b: (a > b) - (a < b),
    "asInteger": int,
    "asApproximateFloat": float,
    "sign": lambda a: (a > 0) - (a < 0),
    "lowerAscii": lambda text: text.lower(),
    "upperAscii": lambda text: text.upper(),
    "trim": lambda text: text.strip(),
    "split": _split,
    "join": lambda items, separator="": separator.join(items),
    "replace": lambda text, old, new, limit=-1: text.replace(old, new, int(limit)),
    "substring": _substring,
    "charAt": lambda text, index: text[int(index) : int(index) + 1],
    "indexOf": _index_of,
    "lastIndexOf": _last_index_of,
    "sum": sum,
    "min": lambda *found: min(found[0] if len(found) == 1 else found),
    "max": lambda *found: max(found[0] if len(found) == 1 else found),
    "isSorted": lambda items: all(a <= b for a, b in itertools.pairwise(items)),
}

"""What Kubernetes adds to CEL: texts, lists, sets, patterns, URLs, quantities and versions.

Values that CEL has no type for are maps with one key that begins with `$`, so that they compare by
value. https://kubernetes.io/docs/reference/using-api/cel/#cel-options-language-features-and-libraries
"""

import itertools
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, urlsplit

import re2

from meltemi.local.apiserver.cel import formats, network

Json = dict[str, Any]
NAMESPACES = frozenset(("cidr", "format", "ip", "semver", "sets", "strings"))
"""Words before a function that are no variables, as in `sets.contains(a, b)`."""
AUTHORIZER = frozenset(
    ("allowed", "check", "error", "errored", "group", "name", "namespace", "path", "reason",
     "resource", "serviceAccount", "subresource")
)  # fmt: skip
"""Functions of `authorizer`, which whoever evaluates has to give (`access`)."""
_QUIET = re2.Options()
_QUIET.log_errors = False


@lru_cache(256)
def _pattern(text: str) -> "re2._Regexp[str]":
    """RE2: its running time is linear whatever the pattern."""
    return re2.compile(text, _QUIET)


def _find(text: str, pattern: str) -> str:
    found = _pattern(pattern).search(text)
    return found.group(0) if found else ""


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    found = (match.group(0) for match in _pattern(pattern).finditer(text))
    return list(found if limit < 0 else itertools.islice(found, int(limit)))


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
        "$url": text, "scheme": parts.scheme, "host": parts.netloc.rpartition("@")[2],
        "hostname": parts.hostname or "", "port": str(parts.port or ""), "path": parts.path,
        "query": parse_qs(parts.query, keep_blank_values=True),
    }  # fmt: skip


def _substring(text: str, start: int, end: int | None = None) -> str:
    stop = len(text) if end is None else int(end)
    if not 0 <= int(start) <= stop <= len(text):
        raise ValueError("substring: index out of range")
    return text[int(start) : stop]


def _char_at(text: str, index: int) -> str:
    if not 0 <= int(index) <= len(text):
        raise ValueError("charAt: index out of range")
    return text[int(index) : int(index) + 1]


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


_QUOTES = str.maketrans({
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
    "\\": "\\\\", '"': '\\"',
})  # fmt: skip


def _quote(_space: Any, text: str) -> str:
    return f'"{text.translate(_QUOTES)}"'


def _contains(_space: Any, whole: list[Any], part: list[Any]) -> bool:
    return all(item in whole for item in part)


def _equivalent(_space: Any, one: list[Any], other: list[Any]) -> bool:
    return all(item in other for item in one) and all(item in one for item in other)


def _intersects(_space: Any, one: list[Any], other: list[Any]) -> bool:
    return any(item in other for item in one)


_QUANTITY = re.compile(
    r"([+-]?(?:\d{1,64}(?:\.\d{0,64})?|\.\d{1,64}))([numkMGTPE]?|[KMGTPE]i|[eE][+-]?\d{1,2})"
)
_UNITS = {
    "": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"),
    **{unit: Decimal(1000) ** (i + 1) for i, unit in enumerate("kMGTPE")},
    **{f"{unit}i": Decimal(1024) ** (i + 1) for i, unit in enumerate("KMGTPE")},
}  # fmt: skip


def _quantity(text: str) -> Json:
    found = _QUANTITY.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a quantity")
    number, unit = found.groups()
    exponent = unit[:1] in ("e", "E") and len(unit) > 1 and unit != "Ei"
    return _of_decimal(Decimal(number + unit) if exponent else Decimal(number) * _UNITS[unit])


def _of_decimal(value: Decimal) -> Json:
    return {
        "$quantity": f"{value:f}".rstrip("0").rstrip(".") if "." in f"{value:f}" else f"{value:f}"
    }


def _decimal(value: Any) -> Decimal:
    return Decimal(value["$quantity"]) if isinstance(value, dict) else Decimal(value)


def _is_quantity(text: str) -> bool:
    return _QUANTITY.fullmatch(text) is not None


def _as_integer(value: Json) -> int:
    number = _decimal(value)
    if number != int(number) or not -(1 << 63) <= number < 1 << 63:
        raise ValueError("cannot convert value to integer")
    return int(number)


def _is_integer(value: Json) -> bool:
    number = _decimal(value)
    return number == int(number) and -(1 << 63) <= number < 1 << 63


def _sign(value: Json) -> int:
    number = _decimal(value)
    return (number > 0) - (number < 0)


_VERSION = re.compile(
    r"(0|[1-9]\d{0,18})\.(0|[1-9]\d{0,18})\.(0|[1-9]\d{0,18})"
    r"(?:-([0-9A-Za-z-]{1,64}(?:\.[0-9A-Za-z-]{1,64}){0,16}))?"
    r"(?:\+[0-9A-Za-z-]{1,64}(?:\.[0-9A-Za-z-]{1,64}){0,16})?"
)


def _semver(text: str) -> Json:
    found = _VERSION.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a semantic version")
    major, minor, patch, early = found.groups()
    return {"$semver": [int(major), int(minor), int(patch)], "early": early or ""}


def _is_semver(text: str) -> bool:
    return _VERSION.fullmatch(text) is not None


def _order(value: Json) -> Any:
    """What quantities and versions are compared by (semver.org, section 11)."""
    if "$quantity" in value:
        return _decimal(value)
    early = value["early"]
    words = [
        (0, int(word), "") if word.isdecimal() else (1, 0, word)
        for word in early.split(".")
        if word
    ]
    return (value["$semver"], not early, words)


def _compared(one: Json, other: Json) -> int:
    left, right = _order(one), _order(other)
    return int(left > right) - int(left < right)


def _sum(items: list[Any]) -> Any:
    return sum(items[1:], items[0]) if items else 0


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "find": _find,
    "findAll": _find_all,
    "isURL": _is_url,
    "url": _url,
    "getScheme": lambda url: url["scheme"],
    "getHost": lambda url: url["host"],
    "getHostname": lambda url: url["hostname"],
    "getPort": lambda url: url["port"],
    "getEscapedPath": lambda url: url["path"],
    "getQuery": lambda url: url["query"],
    **network.FUNCTIONS,
    "quantity": _quantity,
    "isQuantity": _is_quantity,
    "isInteger": _is_integer,
    "asInteger": _as_integer,
    "asApproximateFloat": lambda value: float(_decimal(value)),
    "sign": _sign,
    "add": lambda one, other: _of_decimal(_decimal(one) + _decimal(other)),
    "sub": lambda one, other: _of_decimal(_decimal(one) - _decimal(other)),
    "semver": _semver,
    "isSemver": _is_semver,
    "major": lambda version: version["$semver"][0],
    "minor": lambda version: version["$semver"][1],
    "patch": lambda version: version["$semver"][2],
    "isGreaterThan": lambda one, other: _compared(one, other) > 0,
    "isLessThan": lambda one, other: _compared(one, other) < 0,
    "compareTo": _compared,
    "format": formats.written,
    **{name: lambda _space, name=name: {"$format": name} for name in formats.NAMES},
    "named": lambda _space, name: formats.named(name),
    "validate": formats.wrong,
    "quote": _quote,
    "lowerAscii": lambda text: text.lower(),
    "upperAscii": lambda text: text.upper(),
    "trim": lambda text: text.strip(),
    "split": _split,
    "join": lambda items, separator="": separator.join(items),
    "replace": lambda text, old, new, limit=-1: text.replace(old, new, int(limit)),
    "substring": _substring,
    "charAt": _char_at,
    "indexOf": _index_of,
    "lastIndexOf": _last_index_of,
    "contains": _contains,
    "equivalent": _equivalent,
    "intersects": _intersects,
    "sum": _sum,
    "min": lambda *found: min(found[0] if len(found) == 1 else found),
    "max": lambda *found: max(found[0] if len(found) == 1 else found),
    "isSorted": lambda items: all(a <= b for a, b in itertools.pairwise(items)),
}

"""Raw bytes to typed objects: wrong types become Problems that name the field.

Istio's objects are proto3 JSON: snake_case names are accepted beside camelCase, null means unset,
durations are strings. Unknown fields are kept in the raw bytes and ignored here.
"""

import datetime
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec

from meltemi.api.kinds import KINDS
from meltemi.api.meta import Duration, Object
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Outcome, Problem, Severity

S = TypeVar("S", bound=msgspec.Struct)

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|us|µs|ns|m|s)")
_WHOLE = re.compile(rf"-?(?:{_PART.pattern})+|0")
_LONGEST = 64
_PATH = re.compile(r" - at `\$?(.*?)`$")
_SNAKE = re.compile(r'"[a-z0-9]+(?:_[a-z0-9]+)+"\s*:')
_NULL = re.compile(rb":\s*null")


def duration(text: str) -> Duration:
    """Parse Go's form, `1h2m3.5s`; raises ValueError with the form that is expected."""
    if len(text) > _LONGEST or not _WHOLE.fullmatch(text):
        raise ValueError(f"{text[:_LONGEST]!r} is not a duration: write it as 10s, 1.5h or 100ms")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return Duration(seconds=-seconds if text.startswith("-") else seconds)


def _dec_hook(wanted: type, value: Any) -> Any:
    if wanted is Duration:
        if not isinstance(value, str):
            raise ValueError("expected a duration such as 10s")
        return duration(value)
    raise NotImplementedError(f"no decoding for {wanted}")


@cache
def _decoder(kind: str) -> msgspec.json.Decoder[Object]:
    struct = KINDS[kind].struct
    if struct is None:
        raise ValueError(f"kind {kind} has no typed form")
    return msgspec.json.Decoder(struct, dec_hook=_dec_hook, strict=True)


def decode(kind: str, raw: bytes) -> Outcome[Object]:
    """One object of a kind that has a Struct. Its `kind` is filled in when the bytes lack it."""
    try:
        value = _decoder(kind).decode(raw)
    except msgspec.ValidationError:
        return _tolerant(kind, raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _refused(kind, raw, "", f"not JSON: {error}")
    if _is_istio(kind) and _SNAKE.search(raw.decode(errors="replace")):
        return _tolerant(kind, raw)
    return Outcome(_named(kind, value))


def convert(struct: type[S], data: Any, about: ObjectKey, path: str) -> Outcome[S]:
    """Plain data, as YAML gives it, to a Struct of Istio's API; `path` leads to the data."""
    try:
        value = msgspec.convert(
            _camel(_without_nulls(data), free=False), struct, dec_hook=_dec_hook, str_keys=True
        )
    except (msgspec.ValidationError, RecursionError) as error:
        text = str(error)
        found = _PATH.search(text)
        where = found.group(1).lstrip(".") if found else ""
        reason = _plain(text[: found.start()] if found else text)
        whole = f"{path}.{where}" if where else path
        return Outcome(None, (Problem(Code.WRONG_TYPE, Severity.ERROR, about, whole, reason),))
    return Outcome(value)


def _named(kind: str, value: Object) -> Object:
    if value.kind:
        return value
    return msgspec.structs.replace(value, kind=kind, api_version=KINDS[kind].api_version)


def _is_istio(kind: str) -> bool:
    return KINDS[kind].group.endswith(".istio.io")


def _tolerant(kind: str, raw: bytes) -> Outcome[Object]:
    """The second try, for what proto3 JSON allows: nulls, snake_case, numbers as strings."""
    try:
        data = msgspec.json.decode(raw)
        struct = KINDS[kind].struct
        if not isinstance(data, dict) or struct is None:
            return _refused(kind, raw, "", "expected a JSON object")
        tidy = _camel_spec(data) if _is_istio(kind) else _without_nulls(data)
        value = msgspec.convert(tidy, struct, dec_hook=_dec_hook, str_keys=True)
    except msgspec.ValidationError as error:
        text = str(error)
        found = _PATH.search(text)
        path = found.group(1).lstrip(".") if found else ""
        reason = text[: found.start()] if found else text
        return _refused(kind, raw, path, _plain(reason))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _refused(kind, raw, "", f"not JSON: {error}")
    return Outcome(_named(kind, value))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(v) for v in value]
    return value


_FREE_MAPS = frozenset(
    {
        "headers",
        "withoutHeaders",
        "queryParams",
        "sourceLabels",
        "labels",
        "matchLabels",
        "selector",
        "proxyMetadata",
        "environmentVariables",
        "set",
        "add",
        "to",
        "data",
        "annotations",
        "ports",
    }
)
"""Fields whose keys are the user's words, not field names."""


def _camel_spec(data: Mapping[str, Any]) -> dict[str, Any]:
    tidy = {k: _without_nulls(v) for k, v in data.items() if v is not None}
    if "spec" in tidy:
        tidy["spec"] = _camel(tidy["spec"], free=False)
    return tidy


def _camel(value: Any, *, free: bool) -> Any:
    if isinstance(value, list):
        return [_camel(item, free=False) for item in value]
    if not isinstance(value, dict):
        return value
    tidy = {}
    for name, item in value.items():
        head, *rest = name.split("_")
        wire = name if free else head + "".join(part[:1].upper() + part[1:] for part in rest)
        if wire == "value" and isinstance(item, dict):
            tidy[wire] = item  # Envoy's own configuration, in Envoy's own words.
            continue
        opens = not free and wire in _FREE_MAPS and not _is_operations(wire, item)
        tidy[wire] = _camel(item, free=opens)
    return tidy


def _is_operations(name: str, item: Any) -> bool:
    """`headers` is a map of matches in a match, but a message in a route; so is `selector`."""
    if not isinstance(item, dict):
        return False
    if name == "headers":
        return set(item) <= {"request", "response"}
    return name == "selector" and set(item) <= {"matchLabels", "match_labels"}


def _plain(reason: str) -> str:
    """msgspec's reason in a user's words."""
    found = re.match(r"Expected `(.+?)`, got `(.+?)`", reason)
    if not found:
        return reason[:1].lower() + reason[1:]
    words = {
        "str": "a string",
        "int": "an integer",
        "array": "a list",
        "object": "an object",
        "bool": "true or false",
        "float": "a number",
        "null": "nothing",
    }
    wanted = " or ".join(
        words.get(w.strip(), w.strip()) for w in found.group(1).split("|") if w.strip() != "null"
    )
    return f"expected {wanted}, got {words.get(found.group(2), found.group(2))}"


class _Name(msgspec.Struct):
    name: str = ""
    namespace: str = ""


class _Envelope(msgspec.Struct):
    metadata: _Name = msgspec.field(default_factory=_Name)


def _refused(kind: str, raw: bytes, path: str, reason: str) -> Outcome[Object]:
    try:
        meta = msgspec.json.decode(raw, type=_Envelope).metadata
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        meta = _Name()
    about = ObjectKey(kind, meta.namespace, meta.name)
    return Outcome(None, (Problem(Code.WRONG_TYPE, Severity.ERROR, about, path, reason),))


def format_duration(value: datetime.timedelta) -> str:
    """The shortest Go form of a duration: `1.5s`, `250ms`, `0s`."""
    seconds = value.total_seconds()
    if seconds and abs(seconds) < 1:
        return f"{seconds * 1000:g}ms"
    return f"{seconds:g}s"

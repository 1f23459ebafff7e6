"""Texts of known formats, and texts made from values, in CEL.

https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-format-library
"""

import base64
import datetime
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_OLD_LABEL = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"


def _text(pattern: str, longest: int, *, prefix: bool = False) -> Callable[[str], bool]:
    """Whether a text matches; a prefix may end in a dash, as names are added to it."""
    compiled = re.compile(pattern)

    def is_one(text: str) -> bool:
        if prefix and text.endswith("-"):
            text = text[:-1] + "a"
        return len(text) <= longest and compiled.fullmatch(text) is not None

    return is_one


def _holds(parse: Callable[[str], Any]) -> Callable[[str], bool]:
    def is_one(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return is_one


def _qualified(text: str) -> bool:
    prefix, slash, name = text.rpartition("/")
    good = len(name) <= 63 and re.fullmatch(_NAME, name) is not None
    return good and (not slash or _text(_SUBDOMAIN, 253)(prefix))


def _uri(text: str) -> bool:
    parts = urlsplit(text)
    return bool(parts.scheme and (parts.netloc or parts.path)) or text.startswith("/")


def _date_time(text: str) -> bool:
    return re.match(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d", text) is not None and _holds(
        datetime.datetime.fromisoformat
    )(text)


_FORMATS: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "dns1123Label": (_text(_LABEL, 63), "a lowercase RFC 1123 label"),
    "dns1123Subdomain": (_text(_SUBDOMAIN, 253), "a lowercase RFC 1123 subdomain"),
    "dns1035Label": (_text(_OLD_LABEL, 63), "a DNS-1035 label"),
    "dns1123LabelPrefix": (_text(_LABEL, 63, prefix=True), "the beginning of an RFC 1123 label"),
    "dns1123SubdomainPrefix": (
        _text(_SUBDOMAIN, 253, prefix=True), "the beginning of an RFC 1123 subdomain"
    ),
    "dns1035LabelPrefix": (_text(_OLD_LABEL, 63, prefix=True), "the beginning of a DNS-1035 label"),
    "qualifiedName": (_qualified, "a qualified name such as example.com/name"),
    "labelValue": (_text(f"({_NAME})?", 63), "the value of a label"),
    "uri": (_uri, "a URI"),
    "uuid": (_holds(uuid.UUID), "a UUID"),
    "byte": (_holds(lambda text: base64.b64decode(text, validate=True)), "base64"),
    "date": (_holds(datetime.date.fromisoformat), "a date such as 2026-01-31"),
    "datetime": (_date_time, "a time such as 2026-01-31T08:00:00Z"),
}  # fmt: skip
NAMES = frozenset(_FORMATS)


def named(name: str) -> Any:
    """`format.named(name)`: an optional, empty when no format is called that."""
    from cel import OptionalValue

    return OptionalValue.of({"$format": name}) if name in _FORMATS else OptionalValue.none()


def wrong(found: Json, text: str) -> Any:
    """`FORMAT.validate(text)`: an optional list of what is wrong, empty when nothing is."""
    from cel import OptionalValue

    is_one, words = _FORMATS[found["$format"]]
    return OptionalValue.none() if is_one(text) else OptionalValue.of([f"must be {words}"])


_VERB = re.compile(r"%(?:\.(\d{1,3}))?(.)")


def written(template: str, values: list[Any]) -> str:
    """`template.format(values)`: %s, %d, %f, %e, %b, %x, %X, %o and %%. Raises ValueError."""
    left = iter(values)

    def one(match: re.Match[str]) -> str:
        digits, verb = match.groups()
        if verb == "%":
            return "%"
        try:
            value = next(left)
        except StopIteration:
            raise ValueError("format: there are fewer values than verbs") from None
        return _verb(verb, value, 6 if digits is None else int(digits))

    return _VERB.sub(one, template)


def _verb(verb: str, value: Any, digits: int) -> str:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    match verb:
        case "s":
            return shown(value)
        case "d" if is_whole:
            return str(value)
        case "f" | "e" if is_whole or isinstance(value, float):
            return f"{value:.{digits}{verb}}"
        case "b" if isinstance(value, int):
            return f"{int(value):b}"
        case "o" if is_whole:
            return f"{value:o}"
        case "x" | "X" if is_whole:
            return f"{value:{verb}}"
        case "x" | "X" if isinstance(value, str | bytes):
            text = (value.encode() if isinstance(value, str) else value).hex()
            return text if verb == "x" else text.upper()
    raise ValueError(f"format: %{verb} does not take {shown(value)[:32]}")


def shown(value: Any) -> str:
    """A value as %s writes it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return value
        case bytes():
            return value.decode(errors="replace")
        case float():
            return f"{value:g}" if abs(value) < 1e21 else repr(value)
        case datetime.datetime():
            return value.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
        case datetime.timedelta():
            return f"{value.total_seconds():g}s"
        case list() | tuple():
            return f"[{', '.join(map(shown, value))}]"
        case dict():
            return f"{{{', '.join(f'{shown(k)}: {shown(v)}' for k, v in sorted(value.items()))}}}"
    return str(value)

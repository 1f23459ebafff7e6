"""Checks that every kind shares: host names, ports, percentages, matches, regular expressions."""

import datetime
import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import re2

from meltemi.api import networking as net
from meltemi.base.problems import Code, Severity

LONGEST_REGEX = 1024
LARGEST_PROGRAM = 32768
"""The proxy's own limit, `re2.max_program_size.error_level` of its bootstrap."""
LARGEST_INT = 2**31 - 1
LABEL = r"[a-zA-Z0-9_](?:[-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?"
_HOST = re.compile(rf"(?:\*|(?:\*\.)?{LABEL}(?:\.{LABEL})*)\.?")
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_KEY = re.compile(
    r"(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LEAST = datetime.timedelta(milliseconds=1)
_LONGEST = datetime.timedelta(days=3650)


class Advice(NamedTuple):
    """A finding that does not refuse the object: a warning, or something good to know."""

    path: str
    message: str
    code: Code = Code.NOT_SUPPORTED
    severity: Severity = Severity.WARNING


Finding = tuple[str, str] | Advice
"""(path, message) refuses the object."""


def host(host: str, path: str) -> Iterator[Finding]:
    if not host:
        yield path, "a host must not be empty"
    elif len(host) > 253 or not _HOST.fullmatch(host):
        yield (
            path,
            (
                f"{host[:80]!r} is not a host name: use a DNS name, with a wildcard only as its "
                "whole first label"
            ),
        )


def namespaces(names: Sequence[str], path: str) -> Iterator[Finding]:
    """`exportTo`: namespaces, `.` for the object's own, `*` for all, `~` for none."""
    for i, name in enumerate(names):
        where = f"{path}[{i}]"
        if name in names[:i]:
            yield where, f"{name!r} is there twice: remove one"
        if name == "~" and len(names) > 1:
            yield where, '"~" (nobody) excludes every other entry: keep it alone, or remove it'
        if name not in ("*", ".", "~") and not _NAMESPACE.fullmatch(name):
            yield where, f'{name[:80]!r} is not a namespace, ".", "*" or "~"'


def gateway(name: str, path: str) -> Iterator[Finding]:
    """A reference to a Gateway: `name`, `namespace/name`, the old full name, or `mesh`."""
    namespace, slash, rest = name.rpartition("/")
    if slash and not _NAMESPACE.fullmatch(namespace):
        yield path, f"{namespace[:80]!r} is not a namespace"
    if not _HOST.fullmatch(rest) or rest.startswith("*"):
        yield path, f"{name[:80]!r} is not a gateway: use name, namespace/name, or mesh"


def subnet(text: str, path: str) -> Iterator[Finding]:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        yield path, f"{text[:80]!r} is neither an address nor a CIDR such as 10.0.0.0/8"


def labels(values: Mapping[str, str], path: str) -> Iterator[Finding]:
    for key, value in values.items():
        if not _LABEL_KEY.fullmatch(key):
            yield path, f"{key[:80]!r} is not the key of a label"
        if not _LABEL_VALUE.fullmatch(value):
            yield f"{path}[{key[:80]}]", f"{value[:80]!r} is not the value of a label"


def text(value: str, path: str) -> Iterator[Finding]:
    """What goes into a request or response as it is."""
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
        yield path, "control characters are not allowed here"


def string_match(
    match: net.StringMatch, path: str, *, may_be_present: bool = False
) -> Iterator[Finding]:
    """`may_be_present`: the old regex `*` asks for presence alone."""
    given = [m for m in (match.exact, match.prefix, match.regex) if m is not None]
    if len(given) > 1:
        yield path, "exact, prefix and regex exclude each other: keep one of them"
    for value in given:
        yield from text(value, path)
    if match.regex is not None and not (may_be_present and match.regex == "*"):
        yield from regex(match.regex, f"{path}.regex")


def regex(pattern: str, path: str) -> Iterator[Finding]:
    """Bounded in length and size, and of RE2's syntax, which Envoy uses."""
    if len(pattern) > LONGEST_REGEX:
        yield path, f"a regular expression may have {LONGEST_REGEX} characters at most"
        return
    if not pattern:
        yield path, "a regular expression must not be empty"
        return
    try:
        size = compiled(pattern).programsize
    except re2.error as error:
        reason = error.args[0] if error.args else error
        words = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        yield path, f"not a regular expression of RE2: {words}"
        return
    if size > LARGEST_PROGRAM:
        yield path, "the regular expression is too large: use fewer and shorter repetitions"


def compiled(pattern: str) -> "re2._Regexp":
    """Compile with RE2; raises re2.error. Its running time is linear whatever the pattern."""
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


def percent(value: float, path: str) -> Iterator[Finding]:
    if not 0 <= value <= 100:
        yield path, f"must be from 0 to 100, not {value:g}"


def port(number: int, path: str) -> Iterator[Finding]:
    if not 1 <= number <= 65535:
        yield path, f"must be a port, from 1 to 65535, not {number}"


def count(value: int | None, path: str, *, least: int = 0) -> Iterator[Finding]:
    if value is not None and not least <= value <= LARGEST_INT:
        yield path, f"must be from {least} to {LARGEST_INT}, not {value}"


def duration(
    value: datetime.timedelta | None, path: str, *, zero: bool = False
) -> Iterator[Finding]:
    """At least a millisecond. `zero`: 0s is allowed and means none."""
    if value is None or (zero and not value):
        return
    if value < _LEAST:
        yield path, "must be at least 1ms"
    elif value > _LONGEST:
        yield path, "must not be longer than ten years"


def choice(value: str | None, path: str, among: Sequence[str]) -> Iterator[Finding]:
    if value is not None and value not in among:
        yield path, f"must be one of {', '.join(among)}, not {value[:80]!r}"

"""Checks that every kind shares: host names, ports, percentages, matches, regular expressions."""

import re
from collections.abc import Iterator

from meltemi.api import networking as net

LONGEST_REGEX = 1024
LABEL = r"[a-zA-Z0-9_](?:[-a-zA-Z0-9_]{0,61}[a-zA-Z0-9_])?"
_HOST = re.compile(rf"(?:\*|(?:\*\.)?{LABEL}(?:\.{LABEL})*)\.?")

Finding = tuple[str, str]
"""(path, message)."""


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


def string_match(match: net.StringMatch, path: str) -> Iterator[Finding]:
    given = [m for m in (match.exact, match.prefix, match.regex) if m is not None]
    if len(given) > 1:
        yield path, "exact, prefix and regex exclude each other: keep one of them"
    if match.regex is not None:
        yield from regex(match.regex, f"{path}.regex")


def regex(pattern: str, path: str) -> Iterator[Finding]:
    """Bounded in length, and of RE2's syntax as far as compiling tells; never run here."""
    if len(pattern) > LONGEST_REGEX:
        yield path, f"a regular expression may have {LONGEST_REGEX} characters at most"
        return
    if re.search(r"\\[1-9]|\(\?[=!<](?![A-Za-z])", pattern):
        yield path, "look-around and back-references do not exist in RE2, which Envoy uses"
        return
    try:
        re.compile(pattern.replace(r"\z", r"\Z").replace(r"\pL", "a").replace(r"\C", "."))
    except (re.error, RecursionError, OverflowError) as error:
        if pattern != "*":
            yield path, f"not a regular expression: {error}"


def percent(value: float, path: str) -> Iterator[Finding]:
    if not 0 <= value <= 100:
        yield path, f"must be from 0 to 100, not {value:g}"


def port(number: int, path: str) -> Iterator[Finding]:
    if not 1 <= number <= 65535:
        yield path, f"must be a port, from 1 to 65535, not {number}"

"""String matchers and rewrites, with RE2 for regular expressions: the engine Envoy uses.

RE2 runs in linear time whatever the pattern, so a user's expression can stall nobody.
"""

import re2

from meltemi.model.route import Exact, Matcher, Prefix, Present, Regex

_QUIET = re2.Options()
_QUIET.log_errors = False
_QUIET.never_nl = False


def matches(matcher: Matcher, value: str, *, ignore_case: bool = False) -> bool:
    """Whether a value satisfies a matcher; a regular expression must cover the whole value."""
    match matcher:
        case Present():
            return True
        case Exact(wanted):
            return _fold(value, ignore_case) == _fold(wanted, ignore_case)
        case Prefix(wanted):
            return _fold(value, ignore_case).startswith(_fold(wanted, ignore_case))
        case Regex(pattern):
            return bool(re2.fullmatch(pattern, value, _QUIET))


def describe(matcher: Matcher) -> str:
    """A matcher in a few words: `prefix "/api"`."""
    match matcher:
        case Present():
            return "present"
        case Exact(wanted):
            return f'exact "{wanted}"'
        case Prefix(wanted):
            return f'prefix "{wanted}"'
        case Regex(pattern):
            return f'regex "{pattern}"'


def substitute(pattern: str, replacement: str, text: str) -> str:
    """Replace every match; `\\1` in the replacement is the first group, `\\\\` a backslash."""
    parts: list[str] = []
    end = 0
    for found in re2.finditer(pattern, text, _QUIET):
        parts += [text[end : found.start()], _expand(replacement, found)]
        end = found.end()
    return "".join((*parts, text[end:]))


def _expand(replacement: str, found: "re2._Match[str]") -> str:
    parts: list[str] = []
    escaped = False
    for char in replacement:
        if escaped:
            parts.append(found.group(int(char)) or "" if char.isdecimal() else char)
            escaped = False
        elif char == "\\":
            escaped = True
        else:
            parts.append(char)
    return "".join(parts)


def _fold(text: str, ignore_case: bool) -> str:
    return text.lower() if ignore_case else text

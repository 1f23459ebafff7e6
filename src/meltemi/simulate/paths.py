"""What a connection manager does to a path before any route sees it."""

from meltemi.compile.settings import Paths

_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~")


def split(path: str) -> tuple[str, str]:
    """A path without its query and fragment, and the rest."""
    cut = min((path.find(mark) for mark in "?#" if mark in path), default=len(path))
    return path[:cut], path[cut:]


def normalized(path: str) -> str:
    """Escapes that need not be are undone, backslashes are slashes, dot segments are resolved
    (`normalize_path`). The query stays as it is."""
    path, rest = split(path)
    return _without_dots(_unescaped(path)) + rest


def merged_slashes(path: str) -> str:
    """Runs of slashes become one (`merge_slashes`), in the path only."""
    path, rest = split(path)
    while "//" in path:
        path = path.replace("//", "/")
    return path + rest


def _unescaped(path: str) -> str:
    parts: list[str] = []
    at = 0
    while at < len(path):
        code = path[at + 1 : at + 3]
        if path[at] == "%" and len(code) == 2 and all(c in "0123456789abcdefABCDEF" for c in code):
            char = chr(int(code, 16))
            is_dot = char == "."
            parts.append(char if char in _UNRESERVED or is_dot else path[at : at + 3])
            at += 3
        else:
            parts.append("/" if path[at] == "\\" else path[at])
            at += 1
    return "".join(parts)


def _without_dots(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")[1:]
    for position, segment in enumerate(segments):
        last = position == len(segments) - 1
        if segment == "..":
            if kept:
                kept.pop()
            if last:
                kept.append("")
        elif segment == ".":
            if last:
                kept.append("")
        else:
            kept.append(segment)
    return "/" + "/".join(kept)


def as_routed(path: str, rules: Paths, *, edge: bool) -> tuple[str, bool]:
    """A path as routes see it; True: the client is redirected to it first.

    An edge merges slashes, and redirects clients whose path hides them in escapes.
    """
    if rules is Paths.NONE:
        return path, False
    plain = path
    if edge or rules is Paths.DECODE_AND_MERGE_SLASHES:
        plain = _with_slashes(path)
    if plain != path and rules is not Paths.DECODE_AND_MERGE_SLASHES:
        return plain, True
    found = normalized(plain)
    merges = edge or rules is not Paths.BASE
    return (merged_slashes(found) if merges else found), False


def _with_slashes(path: str) -> str:
    """Slashes and backslashes for their escapes, in the path only."""
    before, rest = split(path)
    for code, char in (("%2f", "/"), ("%2F", "/"), ("%5c", "\\"), ("%5C", "\\")):
        before = before.replace(code, char)
    return before + rest

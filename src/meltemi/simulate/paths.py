"""What a connection manager does to a path before any route sees it."""

from meltemi.simulate.request import Request

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


def at_edge(request: Request) -> str | None:
    """Where a gateway sends a client whose path hides slashes in escapes; None: nowhere."""
    path, rest = split(request.path)
    plain = path
    for code, char in (("%2f", "/"), ("%2F", "/"), ("%5c", "\\"), ("%5C", "\\")):
        plain = plain.replace(code, char)
    return None if plain == path else plain + rest

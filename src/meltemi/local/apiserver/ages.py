"""Times and lists as kubectl writes them in tables."""

import datetime
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Json = dict[str, Any]
Now = datetime.datetime
Row = Callable[[Json, Now], Sequence[Any]]


def age(stamp: str | None, now: Now) -> str:
    """kubectl's short form of the time since: 45s, 12m, 3h5m, 2d."""
    if not stamp:
        return "<unknown>"
    try:
        seconds = int((now - datetime.datetime.fromisoformat(stamp)).total_seconds())
    except (ValueError, TypeError):
        return "<invalid>"
    return short(seconds)


def born(data: Json, now: Now) -> str:
    """The age of an object."""
    return age(data["metadata"].get("creationTimestamp"), now)


def duration(start: str | None, end: str | None, now: Now) -> str:
    """How long something took, or has taken until now."""
    if not start:
        return ""
    until = datetime.datetime.fromisoformat(end) if end else now
    return age(start, until)


def short(seconds: int) -> str:
    if seconds < 0:
        return "0s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d" if days < 730 else f"{days // 365}y{days % 365}d"


def joined(words: Iterable[str], otherwise: str = "<none>") -> str:
    return ",".join(words) or otherwise

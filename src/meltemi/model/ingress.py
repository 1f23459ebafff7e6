"""Ingress: what one object says about one host, before the objects of a host are merged."""

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.model.route import HttpRule


class PathRule(msgspec.Struct, frozen=True):
    rank: tuple[int, int]
    """Sorts the longest path first, and of equal ones the exact before the prefix."""
    rule: HttpRule


class HostRules(msgspec.Struct, frozen=True):
    """One Ingress's rules for one host; `*` where it names none."""

    host: str
    source: ObjectKey
    created: tuple[str, str, str]
    paths: tuple[PathRule, ...]
    fallback: HttpRule | None
    """The default backend: for what no path takes."""

"""Ingress: what one object says about one host, before the objects of a host are merged."""

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.model.route import HttpRule


class IngressSettings(msgspec.Struct, frozen=True):
    """Which Ingress objects are ours, and which gateway serves them; from MeshConfig."""

    class_name: str = "istio"
    mode: str = "STRICT"
    """STRICT: those of our class; DEFAULT: those of no class too; OFF: none."""
    selector: str = "ingressgateway"
    """The gateway's pods have it as their label `istio`."""


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

"""The cases under cases/, read: each is one request to one mesh, and what must become of it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from meltemi.base.keys import ObjectKey
from meltemi.simulate.ask import Question
from meltemi.simulate.world import raw_objects

from .given import HERE, Given

Json = dict[str, Any]

KNOWN = {
    "to", "status", "closed", "flags", "location", "body", "response-headers", "path",
    "authority", "headers", "cluster", "route", "host", "listener", "security", "sni", "mirrors",
    "timeout", "policies", "refused",
}  # fmt: skip
"""What `expect` may hold: see README.md."""


class Setting(NamedTuple):
    """A mesh that cases share."""

    id: str
    raw: Mapping[ObjectKey, bytes]
    problems: tuple[str, ...] | None
    """The codes of problems that the objects must cause; None: not asked."""
    server: str
    """The pod that the matrix gives a real sidecar, where the other end matters."""


class Case(NamedTuple):
    id: str
    setting: Setting
    question: Question
    expect: Mapping[str, Any]
    simulated_only: str
    """Why a real Envoy is not asked; empty: it is."""


def cases() -> list[Case]:
    """Every case of every file, in order."""
    found = [c for path in sorted((HERE / "cases").rglob("*.yaml")) for c in _file(path)]
    seen: set[str] = set()
    for case in found:
        if case.id in seen:
            raise ValueError(f"two cases are called {case.id}")
        seen.add(case.id)
    return found


def _file(path: Path) -> Iterator[Case]:
    topic = str(path.relative_to(HERE / "cases").with_suffix(""))
    whole = yaml.safe_load(path.read_text())
    groups = [{"requests": whole["requests"]}] if "requests" in whole else []
    for group in [*groups, *whole.get("cases", ())]:
        given = Given()
        for part in (whole, group):
            given.add(part.get("given") or {})
        name = "/".join(part for part in (topic, group.get("name", "")) if part)
        problems = group.get("problems", whole.get("problems"))
        setting = Setting(
            id=name,
            raw=raw_objects(given.documents()),
            problems=None if problems is None else tuple(problems),
            server=group.get("server", whole.get("server", "")),
        )
        yield from _requests(setting, name, group["requests"])


def _requests(setting: Setting, name: str, requests: Sequence[Json]) -> Iterator[Case]:
    for i, asked in enumerate(requests):
        unknown = asked["expect"].keys() - KNOWN
        if unknown or not asked["expect"]:
            raise ValueError(f"{name}: expect holds {sorted(unknown)}; known: {sorted(KNOWN)}")
        yield Case(
            id=f"{name}/{asked.get('name', i)}",
            setting=setting,
            question=_question(asked),
            expect=asked["expect"],
            simulated_only=asked.get("simulated-only", ""),
        )


def _question(asked: Json) -> Question:
    headers = [
        (name, str(value))
        for name, values in (asked.get("headers") or {}).items()
        for value in (values if isinstance(values, list) else [values])
    ]
    return Question(
        url=asked["url"],
        origin=asked.get("from", "client"),
        method=asked.get("method", "GET"),
        headers=tuple(headers),
        sni=asked.get("sni", ""),
        alpn=tuple(asked.get("alpn", ())),
        outside=asked.get("outside", {}),
    )

"""Tells every object of the mesh what is wrong with it, in its status, as Istio's analysis does.

An object without a problem is left alone, unless it once had one.
"""

import datetime
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from meltemi.api.kinds import KINDS
from meltemi.app.engine import Engine
from meltemi.app.status_writer import Status, StatusWriter
from meltemi.base.clock import Clock
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Problem, Severity, gravest_first
from meltemi.kube.client import Client

CONDITION = "PassedAnalysis"
_LEVELS = {Severity.ERROR: "ERROR", Severity.WARNING: "WARNING", Severity.INFO: "INFO"}
_TOLD = frozenset(k.name for k in KINDS.values() if k.group.endswith(".istio.io"))
Json = dict[str, Any]


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    conditions: tuple[Json, ...] = ()
    validation_messages: tuple[Json, ...] = ()
    observed_generation: int | str = 0
    """Istio writes 64-bit numbers as text."""


class _Meta(msgspec.Struct, frozen=True):
    generation: int = 0


class _Seen(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()
    status: _Status | None = None


class AnalysisStatus(StatusWriter):
    """Keeps `status.conditions` and `status.validationMessages` as the problems are."""

    what = "problems"
    settle = 0.5
    """What is right again by then is not worth a word."""

    def __init__(self, engine: Engine, client: Client, clock: Clock) -> None:
        super().__init__(engine, client)
        self._clock = clock

    def outdated(self) -> Iterator[tuple[ObjectKey, Status]]:
        """Objects whose status says something else than is true, with what it should say."""
        found: defaultdict[ObjectKey, list[Problem]] = defaultdict(list)
        for problem in self._engine.problems():
            if problem.about.kind in _TOLD:
                found[problem.about].append(problem)
        for kind in _TOLD & self._engine.objects.raw.keys():
            for key, raw in self._engine.objects.raw[kind].items().items():
                if key in found or CONDITION.encode() in raw:
                    wanted = self._wanted(raw, found.get(key, ()))
                    if wanted is not None:
                        yield key, wanted

    def _wanted(self, raw: bytes, problems: Sequence[Problem]) -> Status | None:
        """None: the status is right as it is."""
        try:
            seen = msgspec.json.decode(raw, type=_Seen)
        except msgspec.DecodeError:
            return None  # Somebody else's idea of a status.
        status = seen.status or _Status()
        ordered = gravest_first(problems)
        messages = [_message(problem) for problem in ordered]
        condition = _condition(ordered)
        before = next((c for c in status.conditions if c.get("type") == CONDITION), {})
        told = {name: before.get(name) for name in condition} == condition
        if (
            told
            and list(status.validation_messages) == messages
            and int(status.observed_generation) == seen.metadata.generation
        ):
            return None
        if before.get("status") == condition["status"]:
            since = before.get("lastTransitionTime")
        else:
            now = self._clock.now().astimezone(datetime.UTC)
            since = now.isoformat(timespec="seconds").replace("+00:00", "Z")
        others = [c for c in status.conditions if c.get("type") != CONDITION]
        return {
            "conditions": [*others, {**condition, "lastTransitionTime": since}],
            "validationMessages": messages or None,
            "observedGeneration": seen.metadata.generation,
        }


def _message(problem: Problem) -> Json:
    name = _camel(problem.code.name)
    return {"type": {"name": name, "code": problem.code.value}, "level": _LEVELS[problem.severity]}


def _condition(problems: Sequence[Problem]) -> Json:
    """False from the first warning on: an information changes nothing about the object."""
    passed = all(p.severity is Severity.INFO for p in problems)
    return {
        "type": CONDITION,
        "status": "True" if passed else "False",
        "reason": _camel(problems[0].code.name) if problems else "NoProblems",
        "message": "; ".join(f"{p.path}: {p.message}" if p.path else p.message for p in problems),
    }


def _camel(name: str) -> str:
    """UNKNOWN_HOST as UnknownHost."""
    return "".join(part.capitalize() for part in name.split("_"))

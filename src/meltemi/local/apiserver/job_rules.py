"""Which fields of a Job go together (batch/v1, validation of JobSpec)."""

import itertools
from collections.abc import Iterator
from typing import Any

from meltemi.local.controllers.job_policy import numbers

Json = dict[str, Any]
Cause = tuple[str, str]


def job_causes(spec: Json, path: str) -> Iterator[Cause]:
    """What is wrong with the spec of a Job at `path`."""
    restart = ((spec.get("template") or {}).get("spec") or {}).get("restartPolicy", "Always")
    if restart not in ("OnFailure", "Never"):
        yield (
            f"{path}.template.spec.restartPolicy",
            f'Unsupported value: "{restart}": supported values: "OnFailure", "Never"',
        )
    is_indexed = spec.get("completionMode") == "Indexed"
    if is_indexed and spec.get("completions") is None:
        yield f"{path}.completions", "Required value: completionMode is Indexed"
    for field, holds, needs in (
        ("backoffLimitPerIndex", is_indexed, "completionMode Indexed"),
        ("successPolicy", is_indexed, "completionMode Indexed"),
        ("maxFailedIndexes", "backoffLimitPerIndex" in spec, "backoffLimitPerIndex"),
        ("podFailurePolicy", restart == "Never", "restartPolicy Never in the template"),
    ):
        if spec.get(field) is not None and not holds:
            yield f"{path}.{field}", f"Invalid value: needs {needs}"
    most = spec.get("maxFailedIndexes")
    if most is not None and is_indexed and most > (spec.get("completions") or 0):
        yield f"{path}.maxFailedIndexes", f"Invalid value: {most}: exceeds completions"
    if spec.get("podFailurePolicy") and spec.get("podReplacementPolicy", "Failed") != "Failed":
        yield (
            f"{path}.podReplacementPolicy",
            f'Unsupported value: "{spec["podReplacementPolicy"]}": supported values: "Failed" '
            "beside podFailurePolicy",
        )
    yield from _failure_rules(spec, f"{path}.podFailurePolicy")
    yield from _success_rules(spec, f"{path}.successPolicy")


def _failure_rules(spec: Json, path: str) -> Iterator[Cause]:
    template = (spec.get("template") or {}).get("spec") or {}
    names = {c.get("name") for f in ("containers", "initContainers") for c in template.get(f) or ()}
    for number, rule in enumerate((spec.get("podFailurePolicy") or {}).get("rules") or ()):
        where = f"{path}.rules[{number}]"
        if rule.get("action") == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
            yield f"{where}.action", 'Invalid value: "FailIndex": needs backoffLimitPerIndex'
        codes = rule.get("onExitCodes")
        if bool(codes) == bool(rule.get("onPodConditions")):
            yield where, "Invalid value: exactly one of onExitCodes and onPodConditions is needed"
        name = (codes or {}).get("containerName")
        if name and name not in names:
            yield f"{where}.onExitCodes.containerName", f'Invalid value: "{name}": no container'
        if codes and codes.get("operator") == "In" and 0 in (codes.get("values") or ()):
            yield f"{where}.onExitCodes.values", "Invalid value: 0: no failure ends so"


def _success_rules(spec: Json, path: str) -> Iterator[Cause]:
    completions = spec.get("completions") or 0
    for number, rule in enumerate((spec.get("successPolicy") or {}).get("rules") or ()):
        where, text = f"{path}.rules[{number}]", rule.get("succeededIndexes")
        count, listed = rule.get("succeededCount"), completions
        if text is None and count is None:
            yield where, "Required value: at least one of succeededCount and succeededIndexes"
        if text is not None:
            try:
                found = list(itertools.islice(numbers(text), completions + 1))
            except ValueError:
                found = []
            if not found or found != sorted(set(found)) or found[-1] >= completions:
                yield (
                    f"{where}.succeededIndexes",
                    f'Invalid value: "{text}": rising numbers below completions, as in 0-2,5',
                )
            listed = len(found)
        if count is not None and not 0 < count <= listed:
            yield f"{where}.succeededCount", f"Invalid value: {count}: must be from 1 to {listed}"

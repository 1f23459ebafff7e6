"""What a Job's policies say of the end of its pods: pure.

https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy
"""

from collections.abc import Container as Contains
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from meltemi.kube.client import JsonObject
from meltemi.local.controllers.cache import is_leaving
from meltemi.local.controllers.pods import is_finished, phase

Action = Literal["FailJob", "FailIndex", "Ignore", "Count"]


class Verdict(msgspec.Struct, frozen=True):
    """What becomes of a failure."""

    action: Action = "Count"
    why: str = ""
    """Which rule says so, and for what; empty where none does."""


def has_failed(job: JsonObject, pod: JsonObject) -> bool:
    """A pod that is on its way out counts at once, unless only what has ended is replaced."""
    if phase(pod) == "Failed":
        return True
    if replaces_only_failed(job):
        return is_lost(pod)
    return is_leaving(pod) and not is_finished(pod)


def is_lost(pod: JsonObject) -> bool:
    """On its way out before any node had it: nobody will ever say how it ended."""
    return is_leaving(pod) and not is_finished(pod) and not pod["spec"].get("nodeName")


def replaces_only_failed(job: JsonObject) -> bool:
    """Whether a pod has to have ended before another takes its place."""
    spec = job["spec"]
    default = "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed"
    return bool(spec.get("podReplacementPolicy", default) == "Failed")


def verdict_of(job: JsonObject, pod: JsonObject) -> Verdict:
    """By the first rule of `podFailurePolicy` that matches a pod that has failed."""
    rules = (job["spec"].get("podFailurePolicy") or {}).get("rules") or ()
    for number, rule in enumerate(rules):
        what = _matched(rule, pod)
        if what:
            meta = pod["metadata"]
            place = f"spec.podFailurePolicy.rules[{number}]"
            why = f"{place} ({rule['action']}) matched: pod {meta['namespace']}/{meta['name']} "
            return Verdict(rule["action"], why + what)
    return Verdict()


def _matched(rule: JsonObject, pod: JsonObject) -> str:
    """What of a pod matches a rule, in words; empty when nothing does."""
    codes = rule.get("onExitCodes")
    if codes:
        for name, code in _exit_codes(pod):
            is_meant = codes.get("containerName") in (None, "", name)
            is_listed = code in codes["values"]
            if is_meant and code and is_listed == (codes["operator"] == "In"):
                return f"has container {name}, which ended with code {code}"
        return ""
    for pattern in rule.get("onPodConditions") or ():
        for condition in (pod.get("status") or {}).get("conditions") or ():
            wanted = (pattern["type"], pattern.get("status") or "True")
            if wanted == (condition["type"], condition["status"]):
                return f"has the condition {condition['type']}"
    return ""


def _exit_codes(pod: JsonObject) -> Iterator[tuple[str, int]]:
    status = pod.get("status") or {}
    for field in ("containerStatuses", "initContainerStatuses"):
        for container in status.get(field) or ():
            ended = (container.get("state") or {}).get("terminated")
            if ended:
                yield container["name"], int(ended.get("exitCode", 0))


def met_success_rule(job: JsonObject, succeeded: Contains[int], count: int) -> int | None:
    """The number of the first rule of `successPolicy` that holds. `count`: how many succeeded."""
    rules = (job["spec"].get("successPolicy") or {}).get("rules") or ()
    for number, rule in enumerate(rules):
        needed = rule.get("succeededCount")
        if rule.get("succeededIndexes"):
            listed = list(numbers(rule["succeededIndexes"]))
            done = sum(index in succeeded for index in listed)
            if done >= (len(listed) if needed is None else needed):
                return number
        elif needed is not None and count >= needed:
            return number
    return None


def spans(indexes: Iterable[int]) -> str:
    """Numbers as the API writes them: three or more in a row as a span, such as 0-2,5,7,8."""
    found: list[list[int]] = []
    for index in sorted(indexes):
        if found and index == found[-1][-1] + 1:
            found[-1].append(index)
        else:
            found.append([index])
    return ",".join(
        f"{row[0]}-{row[-1]}" if len(row) > 2 else ",".join(map(str, row)) for row in found
    )


def numbers(text: str) -> Iterator[int]:
    """What `spans` has written, or a user in the same way; ValueError for anything else."""
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)

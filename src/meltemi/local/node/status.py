"""A pod's status from what its containers do: pure."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from meltemi.kube.client import JsonObject
from meltemi.local.node.podspec import Container, Pod


class Waiting(msgspec.Struct, frozen=True):
    reason: str
    message: str = ""


class Running(msgspec.Struct, frozen=True):
    since: str
    """RFC 3339."""


class Terminated(msgspec.Struct, frozen=True):
    code: int
    reason: str
    since: str
    until: str
    signal: int = 0
    message: str = ""
    log: str = ""


State = Waiting | Running | Terminated


class ContainerState(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one container at a moment."""

    state: State = Waiting("ContainerCreating")
    last: Terminated | None = None
    restarts: int = 0
    is_ready: bool = False
    is_started: bool = False


Phase = Literal["Pending", "Running", "Succeeded", "Failed"]


class PodFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What of a status does not come from containers."""

    ip: str
    host_ip: str
    started: str
    failure: tuple[str, str] | None = None
    """(reason, message) of a pod that ended as a whole, such as one whose deadline passed."""


def phase_of(
    pod: Pod, states: Mapping[str, ContainerState], failure: tuple[str, str] | None
) -> Phase:
    """The phase by the rules of the Kubernetes API."""
    if failure is not None:
        return "Failed"
    policy = pod.spec.restart_policy
    inits = [states[c.name] for c in pod.spec.init_containers if c.restart_policy != "Always"]
    mains = [states[c.name] for c in pod.spec.containers]
    for state in inits:
        if isinstance(state.state, Terminated) and state.state.code != 0 and policy == "Never":
            return "Failed"
        if not isinstance(state.state, Terminated) or state.state.code != 0:
            return "Pending"
    if any(isinstance(s.state, Waiting) and s.last is None for s in mains):
        return "Pending"
    if mains and all(isinstance(s.state, Terminated) for s in mains) and policy != "Always":
        codes = [s.state.code for s in mains if isinstance(s.state, Terminated)]
        if not any(codes):
            return "Succeeded"
        return "Failed" if policy == "Never" else "Running"
    return "Running"


def pod_status(
    pod: Pod,
    states: Mapping[str, ContainerState],
    facts: PodFacts,
    *,
    now: str,
    before: Sequence[JsonObject] = (),
) -> JsonObject:
    """The whole status. `before`: the conditions as they are, whose times stay where nothing
    changed."""
    phase = phase_of(pod, states, facts.failure)
    status: JsonObject = {
        "phase": phase,
        "hostIP": facts.host_ip,
        "hostIPs": [{"ip": facts.host_ip}],
        "startTime": facts.started,
        "qosClass": _quality(pod),
        "conditions": _conditions(pod, states, facts, phase, now, before),
        "containerStatuses": [_container(c, states[c.name]) for c in pod.spec.containers],
    }
    if pod.spec.init_containers:
        inits = [_container(c, states[c.name]) for c in pod.spec.init_containers]
        status["initContainerStatuses"] = inits
    if facts.ip:
        status["podIP"] = facts.ip
        status["podIPs"] = [{"ip": facts.ip}]
    if facts.failure is not None:
        status["reason"], status["message"] = facts.failure
    return status


def is_ready(pod: Pod, states: Mapping[str, ContainerState]) -> bool:
    """Whether every container is ready; sidecars among the init containers count."""
    names = [c.name for c in pod.spec.containers]
    names += [c.name for c in pod.spec.init_containers if c.restart_policy == "Always"]
    return all(states[name].is_ready for name in names)


def _conditions(
    pod: Pod,
    states: Mapping[str, ContainerState],
    facts: PodFacts,
    phase: Phase,
    now: str,
    before: Sequence[JsonObject],
) -> list[JsonObject]:
    unready = [c.name for c in pod.spec.containers if not states[c.name].is_ready]
    waiting = [c.name for c in pod.spec.init_containers if not _is_done(c, states[c.name])]
    ready: tuple[bool, str, str]
    if phase in ("Succeeded", "Failed"):
        ready = (False, "PodCompleted" if phase == "Succeeded" else "PodFailed", "")
    elif unready:
        ready = (
            False,
            "ContainersNotReady",
            f"containers with unready status: [{' '.join(unready)}]",
        )
    else:
        ready = (is_ready(pod, states), "", "")
    incomplete = f"containers with incomplete status: [{' '.join(waiting)}]" if waiting else ""
    wanted = [
        ("PodReadyToStartContainers", (bool(facts.ip), "", "")),
        ("Initialized", (not waiting, "ContainersNotInitialized" if waiting else "", incomplete)),
        ("Ready", ready),
        ("ContainersReady", ready),
        ("PodScheduled", (True, "", "")),
    ]
    times = {(c["type"], c["status"]): c.get("lastTransitionTime") for c in before}
    conditions = []
    for kind, (holds, reason, message) in wanted:
        value = "True" if holds else "False"
        condition = {
            "type": kind,
            "status": value,
            "lastProbeTime": None,
            "lastTransitionTime": times.get((kind, value)) or now,
        }
        if reason:
            condition["reason"] = reason
        if message:
            condition["message"] = message
        conditions.append(condition)
    return conditions


def _is_done(container: Container, state: ContainerState) -> bool:
    if container.restart_policy == "Always":
        return state.is_started
    return isinstance(state.state, Terminated) and state.state.code == 0


def _container(container: Container, state: ContainerState) -> JsonObject:
    found: JsonObject = {
        "name": container.name,
        "image": container.image,
        "imageID": f"program://{container.image}",
        "restartCount": state.restarts,
        "ready": state.is_ready,
        "started": state.is_started,
        "state": _state(state.state),
        "lastState": _state(state.last) if state.last is not None else {},
    }
    return found


def _state(state: State) -> JsonObject:
    match state:
        case Waiting(reason=reason, message=message):
            return {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        case Running(since=since):
            return {"running": {"startedAt": since}}
        case Terminated():
            found: JsonObject = {
                "exitCode": state.code,
                "reason": state.reason,
                "startedAt": state.since,
                "finishedAt": state.until,
            }
            if state.signal:
                found["signal"] = state.signal
            if state.message:
                found["message"] = state.message
            return {"terminated": found}


def _quality(pod: Pod) -> str:
    """The quality of service class, from requests and limits."""
    containers = (*pod.spec.containers, *pod.spec.init_containers)
    if not any(c.resources.limits or c.resources.requests for c in containers):
        return "BestEffort"
    for c in containers:
        for name in ("cpu", "memory"):
            limit = c.resources.limits.get(name)
            if limit is None or c.resources.requests.get(name, limit) != limit:
                return "Burstable"
    return "Guaranteed"

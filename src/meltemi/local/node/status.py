"""A pod's status from what its containers do: pure."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from meltemi.kube.client import JsonObject
from meltemi.local.node.podspec import Container, Pod, WasContainer, WasTerminated


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


State = Waiting | Running | Terminated


class ContainerState(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one container at a moment."""

    state: State = Waiting("ContainerCreating")
    last: Terminated | None = None
    restarts: int = 0
    process_id: str = ""
    is_ready: bool = False
    is_started: bool = False


LOST = 255
"""The exit code of a container that ran when the node itself ended."""
_OURS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")

Phase = Literal["Pending", "Running", "Succeeded", "Failed"]


class PodFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What of a status does not come from containers."""

    ips: Sequence[str]
    host_ips: Sequence[str]
    """Of every family, IPv4 first."""
    started: str
    failure: tuple[str, str] | None = None
    """(reason, message) of a pod that ended as a whole, such as one whose deadline passed."""
    is_stopped: bool = False
    """Whether it was deleted, and nothing of it runs any more."""


def remembered(was: WasContainer, now: str) -> ContainerState:
    """What a node that starts anew takes over. A container that ran was lost with the old node."""
    last = _terminated(was.last_state.terminated)
    state: State = Waiting("ContainerCreating")
    if was.state.terminated is not None:
        last = _terminated(was.state.terminated)
    elif was.state.running is not None:
        message = "the node ended while the container ran"
        last = Terminated(LOST, "Unknown", was.state.running.started_at, now, 0, message)
    else:
        return ContainerState(state=state, last=last, restarts=was.restart_count)
    return ContainerState(state=last or state, last=last, restarts=was.restart_count)


def _terminated(was: WasTerminated | None) -> Terminated | None:
    if was is None:
        return None
    return Terminated(
        was.exit_code, was.reason, was.started_at, was.finished_at, was.signal, was.message
    )


def phase_of(
    pod: Pod,
    states: Mapping[str, ContainerState],
    failure: tuple[str, str] | None,
    *,
    is_stopped: bool = False,
) -> Phase:
    """The phase by the rules of the Kubernetes API.

    `is_stopped`: the pod was deleted and nothing of it runs any more, nor will.
    """
    if failure is not None:
        return "Failed"
    if is_stopped:
        ends = [states[c.name].state for c in pod.spec.containers]
        well = all(isinstance(end, Terminated) and end.code == 0 for end in ends)
        return "Succeeded" if well else "Failed"
    policy = pod.spec.restart_policy
    for container in pod.spec.init_containers:
        state = states[container.name].state
        if container.is_sidecar:
            continue
        if isinstance(state, Terminated) and state.code != 0 and policy == "Never":
            return "Failed"
        if not isinstance(state, Terminated) or state.code != 0:
            return "Pending"
    mains = [states[c.name] for c in pod.spec.containers]
    if any(isinstance(s.state, Waiting) and s.last is None for s in mains):
        return "Pending"
    codes = [s.state.code for s in mains if isinstance(s.state, Terminated)]
    if len(codes) < len(mains) or policy == "Always" or _has_sidecars_left(pod, states):
        return "Running"
    if not any(codes):
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def _has_sidecars_left(pod: Pod, states: Mapping[str, ContainerState]) -> bool:
    return any(isinstance(states[c.name].state, Running) for c in pod.spec.sidecars)


def pod_status(
    pod: Pod, states: Mapping[str, ContainerState], facts: PodFacts, *, now: str
) -> JsonObject:
    """The whole status. The pod's own conditions say since when, and what others have added."""
    phase = phase_of(pod, states, facts.failure, is_stopped=facts.is_stopped)
    status: JsonObject = {
        "phase": phase,
        "hostIP": facts.host_ips[0],
        "hostIPs": [{"ip": ip} for ip in facts.host_ips],
        "startTime": facts.started,
        "qosClass": quality(pod),
        "conditions": _conditions(pod, states, facts, phase, now),
        "containerStatuses": [_container(c, states[c.name]) for c in pod.spec.containers],
    }
    for field, containers in (
        ("initContainerStatuses", pod.spec.init_containers),
        ("ephemeralContainerStatuses", pod.spec.ephemeral_containers),
    ):
        if containers:
            status[field] = [_container(c, states[c.name]) for c in containers if c.name in states]
    if facts.ips:
        status["podIP"] = facts.ips[0]
        status["podIPs"] = [{"ip": ip} for ip in facts.ips]
    if facts.failure is not None:
        status["reason"], status["message"] = facts.failure
    return status


def _conditions(
    pod: Pod, states: Mapping[str, ContainerState], facts: PodFacts, phase: Phase, now: str
) -> list[JsonObject]:
    waiting = [c.name for c in pod.spec.init_containers if not _is_done(c, states[c.name])]
    whole = _containers_ready(pod, states, phase)
    incomplete = f"containers with incomplete status: [{' '.join(waiting)}]" if waiting else ""
    wanted = [
        ("PodReadyToStartContainers", (bool(facts.ips), "", "")),
        ("Initialized", (not waiting, "ContainersNotInitialized" if waiting else "", incomplete)),
        ("Ready", _gated(pod, whole)),
        ("ContainersReady", whole),
        ("PodScheduled", (True, "", "")),
    ]
    before = pod.status.conditions
    times = {(c["type"], c["status"]): c.get("lastTransitionTime") for c in before}
    conditions = [dict(c) for c in before if c["type"] not in _OURS]
    for kind, (holds, reason, message) in wanted:
        value = "True" if holds else "False"
        condition: JsonObject = {
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


def _containers_ready(
    pod: Pod, states: Mapping[str, ContainerState], phase: Phase
) -> tuple[bool, str, str]:
    """(holds, reason, message) of the condition ContainersReady."""
    if phase in ("Succeeded", "Failed"):
        return False, "PodCompleted" if phase == "Succeeded" else "PodFailed", ""
    names = [c.name for c in (*pod.spec.sidecars, *pod.spec.containers)]
    unready = [name for name in names if not states[name].is_ready]
    if unready:
        message = f"containers with unready status: [{' '.join(unready)}]"
        return False, "ContainersNotReady", message
    return True, "", ""


def _gated(pod: Pod, whole: tuple[bool, str, str]) -> tuple[bool, str, str]:
    """The condition Ready: the containers, and every readiness gate that others open."""
    if not whole[0]:
        return whole
    open_gates = {c["type"] for c in pod.status.conditions if c["status"] == "True"}
    closed = [g.condition_type for g in pod.spec.readiness_gates]
    closed = [kind for kind in closed if kind not in open_gates]
    if closed:
        message = f"readiness gates whose condition is not True: {', '.join(closed)}"
        return False, "ReadinessGatesNotReady", message
    return True, "", ""


def _is_done(container: Container, state: ContainerState) -> bool:
    if container.is_sidecar:
        return state.is_started or state.last is not None
    return isinstance(state.state, Terminated) and state.state.code == 0


def _container(container: Container, state: ContainerState) -> JsonObject:
    found: JsonObject = {
        "name": container.name,
        "image": container.image,
        "imageID": f"program://{container.image}" if state.process_id else "",
        "restartCount": state.restarts,
        "ready": state.is_ready,
        "started": state.is_started,
        "state": _state(state.state),
        "lastState": _state(state.last) if _has_last(state) and state.last is not None else {},
    }
    if state.process_id:
        found["containerID"] = f"process://{state.process_id}"
    return found


def _has_last(state: ContainerState) -> bool:
    """An end is the last state once something came after it."""
    return state.state is not state.last


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


def quality(pod: Pod) -> str:
    """The quality of service class, from requests and limits."""
    containers = (*pod.spec.containers, *pod.spec.init_containers)
    named = {n for c in containers for n in (*c.resources.limits, *c.resources.requests)}
    if not named & {"cpu", "memory"}:
        return "BestEffort"
    for c in containers:
        for name in ("cpu", "memory"):
            limit = c.resources.limits.get(name)
            if limit is None or c.resources.requests.get(name, limit) != limit:
                return "Burstable"
    return "Guaranteed"

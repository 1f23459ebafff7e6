"""A pod's phase, conditions and container statuses, from what its containers do."""

from typing import Any

import msgspec
import pytest

from meltemi.local.node.podspec import Pod, decode
from meltemi.local.node.status import (
    ContainerState,
    PodFacts,
    Running,
    State,
    Terminated,
    Waiting,
    phase_of,
    pod_status,
    quality,
    remembered,
)

NOW = "2026-05-01T10:00:00Z"


def pod(policy: str = "Always", inits: tuple[str, ...] = (), **spec: Any) -> Pod:
    """A pod with container `main`; init containers whose names begin with `side` are sidecars."""
    data = {
        "metadata": {"name": "p", "namespace": "default", "uid": "u"},
        "spec": {
            "restartPolicy": policy,
            "containers": [{"name": "main"}],
            "initContainers": [
                {"name": n, **({"restartPolicy": "Always"} if n.startswith("side") else {})}
                for n in inits
            ],
            **spec,
        },
        "status": {"conditions": spec.pop("conditions", [])},
    }
    return decode(msgspec.json.encode(data))


def ended(code: int) -> ContainerState:
    end = Terminated(code, "Completed" if not code else "Error", NOW, NOW)
    return ContainerState(state=end, last=end)


def state(of: State, **more: Any) -> ContainerState:
    return ContainerState(state=of, **more)


RUNNING = state(Running(NOW), is_ready=True, is_started=True)
WAITING = state(Waiting("ContainerCreating"))


@pytest.mark.parametrize(
    ("policy", "main", "expected"),
    [
        ("Always", WAITING, "Pending"),
        ("Always", RUNNING, "Running"),
        ("Always", ended(0), "Running"),
        ("Never", ended(0), "Succeeded"),
        ("Never", ended(1), "Failed"),
        ("OnFailure", ended(0), "Succeeded"),
        ("OnFailure", ended(1), "Running"),
        (
            "Always",
            state(Waiting("CrashLoopBackOff"), last=Terminated(1, "Error", NOW, NOW)),
            "Running",
        ),
    ],
)
def test_the_phase_follows_policy_and_containers(
    policy: str, main: ContainerState, expected: str
) -> None:
    assert phase_of(pod(policy), {"main": main}, None) == expected


def test_init_containers_hold_the_phase_back() -> None:
    waiting = pod("Never", inits=("first",))
    assert phase_of(waiting, {"first": RUNNING, "main": WAITING}, None) == "Pending"
    assert phase_of(waiting, {"first": ended(1), "main": WAITING}, None) == "Failed"
    assert phase_of(waiting, {"first": ended(0), "main": RUNNING}, None) == "Running"


def test_a_pod_is_not_over_while_a_sidecar_runs() -> None:
    helped = pod("Never", inits=("side",))
    assert phase_of(helped, {"side": RUNNING, "main": ended(0)}, None) == "Running"
    assert phase_of(helped, {"side": ended(137), "main": ended(0)}, None) == "Succeeded"


def conditions(found: Pod, states: dict[str, ContainerState]) -> dict[str, Any]:
    facts = PodFacts(ips=("10.44.0.9", "fd00:10:44::9"), host_ips=("10.44.0.1",), started=NOW)
    status = pod_status(found, states, facts, now=NOW)
    return {c["type"]: c for c in status["conditions"]}


def test_ready_names_the_containers_that_are_not() -> None:
    found = conditions(pod(inits=("side",)), {"side": RUNNING, "main": WAITING})
    assert found["Ready"]["status"] == "False"
    assert found["Ready"]["message"] == "containers with unready status: [main]"
    assert found["Initialized"]["status"] == "True"


def test_a_readiness_gate_waits_for_others_whose_conditions_stay() -> None:
    gates = [{"conditionType": "example.com/lb"}]
    closed = conditions(pod(readinessGates=gates), {"main": RUNNING})
    assert closed["ContainersReady"]["status"] == "True"
    assert closed["Ready"]["reason"] == "ReadinessGatesNotReady"
    opened = {"type": "example.com/lb", "status": "True"}
    found = conditions(pod(readinessGates=gates, conditions=[opened]), {"main": RUNNING})
    assert found["Ready"]["status"] == "True"
    assert found["example.com/lb"] == opened


def test_a_condition_keeps_its_time_while_it_holds() -> None:
    earlier = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-04-01T00:00:00Z"}
    kept = conditions(pod(conditions=[earlier]), {"main": RUNNING})
    assert kept["Ready"]["lastTransitionTime"] == "2026-04-01T00:00:00Z"
    turned = conditions(pod(conditions=[earlier]), {"main": WAITING})
    assert turned["Ready"]["lastTransitionTime"] == NOW


def test_a_node_that_starts_anew_knows_what_was_lost() -> None:
    raw = {
        "metadata": {"name": "p", "namespace": "default", "uid": "u"},
        "spec": {"containers": [{"name": "main"}, {"name": "done"}]},
        "status": {
            "containerStatuses": [
                {"name": "main", "restartCount": 2, "state": {"running": {"startedAt": NOW}}},
                {"name": "done", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
            ]
        },
    }
    was = decode(msgspec.json.encode(raw)).status.container_statuses
    lost, done = (remembered(status, NOW) for status in was)
    assert isinstance(lost.state, Terminated)
    assert (lost.state.code, lost.state.reason, lost.restarts) == (255, "Unknown", 2)
    assert isinstance(done.state, Terminated)
    assert done.state.code == 0


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
        ({"limits": {"ephemeral-storage": "1Gi"}}, "BestEffort"),
    ],
)
def test_quality_of_service_comes_from_requests_and_limits(
    resources: dict[str, Any], expected: str
) -> None:
    assert quality(pod(containers=[{"name": "main", "resources": resources}])) == expected

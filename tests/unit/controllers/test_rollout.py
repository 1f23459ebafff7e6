"""The decisions of a Deployment, without an API."""

import copy
import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meltemi.local.controllers import rollout

NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
Object = dict[str, Any]


def deployment(replicas: int, surge: int | str = 1, unavailable: int | str = 0) -> Object:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a"}]}}
    return {
        "metadata": {"name": "web", "namespace": "default", "generation": 1},
        "spec": {
            "replicas": replicas,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "template": template,
        },
    }


def replica_set(name: str, wanted: int, available: int, replicas: int | None = None) -> Object:
    status = {"replicas": wanted if replicas is None else replicas}
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": wanted},
        "status": {**status, "availableReplicas": available, "readyReplicas": available},
    }


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (4, "25%", "25%", (1, 1)),
        (1, "25%", "25%", (1, 0)),
        (10, "25%", "25%", (3, 2)),
        (3, 0, 0, (0, 1)),
        (3, "0%", "10%", (0, 1)),
        (2, 1, 5, (1, 2)),
        (100, "7%", 0, (7, 0)),
    ],
)
def test_bounds_round_surge_up_and_unavailable_down(
    replicas: int, surge: int | str, unavailable: int | str, expected: tuple[int, int]
) -> None:
    assert rollout.bounds(deployment(replicas, surge, unavailable)) == expected


def test_new_set_grows_only_into_the_surge() -> None:
    sizes = rollout.scales(
        deployment(3), replica_set("new", 0, 0), [replica_set("old", 3, 3)], old_pods=3
    )
    assert sizes == {"new": 1}


def test_old_set_is_not_shrunk_again_while_its_status_still_counts_the_leaving_pod() -> None:
    old = replica_set("old", 2, available=3, replicas=3)
    sizes = rollout.scales(deployment(3), replica_set("new", 1, 1), [old], old_pods=3)
    assert "old" not in sizes


def test_old_pods_that_never_worked_leave_first_but_not_more_than_the_bounds_let() -> None:
    broken, good = replica_set("broken", 2, 0), replica_set("good", 2, 2)
    sizes = rollout.scales(deployment(3), replica_set("new", 1, 1), [good, broken], old_pods=4)
    assert sizes == {"broken": 0}
    starting = replica_set("new", 1, 0)
    sizes = rollout.scales(deployment(3), starting, [replica_set("old", 3, 0)], old_pods=3)
    assert sizes == {}


def test_paused_deployment_gives_the_difference_to_the_largest_set() -> None:
    sets = [replica_set("old", 3, 3), replica_set("new", 1, 1)]
    assert rollout.scales_while_paused(deployment(3), sets) == {}
    assert rollout.scales_while_paused(deployment(6), sets) == {"old": 5}
    assert rollout.scales_while_paused(deployment(1), sets) == {"old": 1}
    assert rollout.scales_while_paused(deployment(5), sets[:1]) == {"old": 5}


def test_present_set_is_found_by_its_template_whatever_empty_fields_say() -> None:
    wanted = deployment(1)
    found = replica_set("web-1", 1, 1)
    template = copy.deepcopy(wanted["spec"]["template"])
    template["metadata"]["labels"]["pod-template-hash"] = "abc"
    template["metadata"]["creationTimestamp"] = None
    found["spec"]["template"] = template
    assert rollout.present_set(wanted, [found]) is found
    template["spec"]["containers"][0]["image"] = "other"
    assert rollout.present_set(wanted, [found]) is None


def test_hash_tells_templates_and_collisions_apart() -> None:
    template = deployment(1)["spec"]["template"]
    other = {**template, "spec": {}}
    hashes = [rollout.template_hash(t, n) for t in (template, other) for n in (0, 1, 2)]
    assert len(set(hashes)) == 6
    assert rollout.template_hash(dict(reversed(template.items()))) == hashes[0]


def progressing(status: Object) -> Object:
    found: Object = next(c for c in status["conditions"] if c["type"] == "Progressing")
    return found


def test_rollout_that_stands_still_is_late_and_one_that_moves_is_not() -> None:
    found = deployment(2)
    found["spec"]["progressDeadlineSeconds"] = 60
    new = replica_set("new", 2, 0)
    found["status"] = rollout.status_of(found, new, [new], now=NOW)
    assert progressing(found["status"])["reason"] == "ReplicaSetUpdated"
    assert rollout.seconds_left(found, NOW + datetime.timedelta(seconds=20)) == 40

    later = NOW + datetime.timedelta(seconds=61)
    moved = replica_set("new", 2, 1)
    assert progressing(rollout.status_of(found, moved, [moved], now=later))["status"] == "True"
    found["status"] = rollout.status_of(found, new, [new], now=later)
    assert progressing(found["status"])["reason"] == "ProgressDeadlineExceeded"

    fixed = replica_set("fixed", 0, 0)
    status = rollout.status_of(found, fixed, [new, fixed], now=later)
    assert progressing(status)["reason"] == "NewReplicaSetCreated"


def test_complete_deployment_stays_so_when_a_pod_fails() -> None:
    found, new = deployment(2), replica_set("new", 2, 2)
    found["status"] = rollout.status_of(found, new, [new], now=NOW)
    worse = replica_set("new", 2, 1)
    much_later = NOW + datetime.timedelta(days=1)
    status = rollout.status_of(found, worse, [worse], now=much_later)
    assert progressing(status)["reason"] == "NewReplicaSetAvailable"
    assert status["conditions"][0]["status"] == "False"
    assert progressing(status)["lastUpdateTime"] == "2026-01-01T12:00:00Z"


@given(
    replicas=st.integers(0, 12),
    surge=st.integers(0, 4),
    unavailable=st.integers(0, 4),
    before=st.integers(0, 12),
    data=st.data(),
)
def test_any_rollout_ends_within_its_bounds(
    replicas: int, surge: int, unavailable: int, before: int, data: st.DataObject
) -> None:
    """Pods come, become ready and leave in any order; statuses lag behind at will."""
    found = deployment(replicas, surge, unavailable)
    most_surge, most_missing = rollout.bounds(found)
    new, old = replica_set("new", 0, 0), replica_set("old", before, before)
    ready = {"new": 0, "old": before}
    least_before = min(before, replicas - most_missing)
    for step in range(200):
        sizes = rollout.scales(found, new, [old], old_pods=old["spec"]["replicas"])
        for each in (new, old):
            name = each["metadata"]["name"]
            each["spec"]["replicas"] = sizes.get(name, each["spec"]["replicas"])
            ready[name] = min(ready[name], each["spec"]["replicas"])
        total = new["spec"]["replicas"] + old["spec"]["replicas"]
        assert total <= max(before, replicas + most_surge)
        assert sum(ready.values()) >= least_before
        # Late in the run everything comes true; before, only what hypothesis lets come true.
        if step > 100 or data.draw(st.booleans()):
            ready["new"] = min(ready["new"] + 1, new["spec"]["replicas"])
        for each in (new, old):
            if step > 100 or data.draw(st.booleans()):
                each["status"]["availableReplicas"] = ready[each["metadata"]["name"]]
    assert (new["spec"]["replicas"], old["spec"]["replicas"]) == (replicas, 0)

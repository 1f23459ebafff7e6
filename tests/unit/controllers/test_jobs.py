"""Jobs: their policies as pure decisions, their bookkeeping on a real embedded API."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meltemi.base.keys import ObjectKey
from meltemi.kube.errors import ApiError
from meltemi.local.controllers.job_plan import Plan, end_of_job, plan, status_of
from meltemi.local.controllers.job_pods import FAILURES, INDEX, TRACKING, releasable, tally
from meltemi.local.controllers.job_policy import numbers, spans

from .conftest import Cluster, Object, key_of, workload

NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
EARLIER = "2026-01-01T11:00:00Z"


def job(status: Object | None = None, **spec: object) -> Object:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main"}]}}
    return {
        "metadata": {"name": "sum", "namespace": "default", "uid": "j"},
        "spec": {"completions": 1, "parallelism": 1, "template": template, **spec},
        "status": {"startTime": EARLIER, **(status or {})},
    }


def indexed(status: Object | None = None, **spec: object) -> Object:
    return job(status, **{"completionMode": "Indexed", "completions": 4, "parallelism": 4, **spec})


def pod(
    uid: str,
    phase: str = "Running",
    *,
    index: int | None = None,
    failures: int = 0,
    code: int = 1,
    conditions: Sequence[Object] = (),
    leaving: bool = False,
    tracked: bool = True,
    until: str = EARLIER,
) -> Object:
    annotations = {} if index is None else {INDEX: str(index), FAILURES: str(failures)}
    ended = {"exitCode": code, "finishedAt": until}
    state = {"terminated": ended} if phase in ("Succeeded", "Failed") else {"running": {}}
    meta: Object = {"name": uid, "namespace": "default", "uid": uid, "annotations": annotations}
    if tracked:
        meta["finalizers"] = [TRACKING]
    if leaving:
        meta |= {"deletionTimestamp": until, "deletionGracePeriodSeconds": 0}
    return {
        "metadata": meta,
        "spec": {"nodeName": "meltemi"},
        "status": {
            "phase": phase,
            "conditions": list(conditions),
            "containerStatuses": [{"name": "main", "state": state}],
        },
    }


def decided(found: Object, pods: Sequence[Object]) -> tuple[str, str]:
    end = end_of_job(found, tally(found, pods), NOW)
    return (end.kind, end.reason) if end is not None else ("", "")


def planned(found: Object, pods: Sequence[Object]) -> Plan:
    pods_ = tally(found, pods)
    return plan(found, pods_, end_of_job(found, pods_, NOW), NOW)


def on_codes(action: str, operator: str = "In", **more: object) -> Object:
    return {"action": action, "onExitCodes": {"operator": operator, "values": [42], **more}}


DISRUPTED = {"type": "DisruptionTarget", "status": "True"}


@pytest.mark.parametrize(
    ("rules", "failed", "expected"),
    [
        ([on_codes("FailJob")], pod("a", "Failed", code=42), ("Failed", "PodFailurePolicy")),
        ([on_codes("FailJob")], pod("a", "Failed", code=1), ("", "")),
        (
            [on_codes("FailJob", "NotIn")],
            pod("a", "Failed", code=1),
            ("Failed", "PodFailurePolicy"),
        ),
        ([on_codes("FailJob", containerName="other")], pod("a", "Failed", code=42), ("", "")),
        (
            [on_codes("Count"), on_codes("FailJob")],
            pod("a", "Failed", code=42),
            ("", ""),
        ),
        (
            [{"action": "FailJob", "onPodConditions": [DISRUPTED]}],
            pod("a", "Failed", conditions=[DISRUPTED]),
            ("Failed", "PodFailurePolicy"),
        ),
    ],
)
def test_the_first_rule_that_matches_decides(
    rules: Sequence[Object], failed: Object, expected: tuple[str, str]
) -> None:
    assert decided(job(podFailurePolicy={"rules": rules}, backoffLimit=3), [failed]) == expected


def test_the_reason_names_rule_pod_and_container() -> None:
    found = job(podFailurePolicy={"rules": [on_codes("Ignore", "NotIn"), on_codes("FailJob")]})
    end = end_of_job(found, tally(found, [pod("a", "Failed", code=42)]), NOW)
    assert end is not None
    assert end.message == (
        "spec.podFailurePolicy.rules[1] (FailJob) matched: pod default/a has container main, "
        "which ended with code 42"
    )


def test_an_ignored_failure_does_not_count() -> None:
    rules = [{"action": "Ignore", "onPodConditions": [DISRUPTED]}]
    found = job(podFailurePolicy={"rules": rules}, backoffLimit=0)
    ignored = pod("a", "Failed", conditions=[DISRUPTED])
    assert tally(found, [ignored]).failed == 0
    assert planned(found, [ignored]).create == 1
    assert decided(found, [pod("b", "Failed")]) == ("Failed", "BackoffLimitExceeded")


def test_each_index_has_its_own_limit() -> None:
    found = indexed(backoffLimitPerIndex=1)
    pods = [
        pod("a", "Failed", index=0, failures=1),
        pod("b", "Failed", index=1, failures=0),
        pod("c", "Succeeded", index=2),
        pod("d", index=3),
    ]
    sums = tally(found, pods)
    assert (sums.done, sums.lost) == ({2}, {0})
    assert planned(found, pods).indexes == (1,)
    assert status_of(found, sums, None, NOW)["failedIndexes"] == "0"
    # The failure of index 1 is kept until its successor is there, which learns its number.
    assert [p["metadata"]["uid"] for p in releasable(sums, is_over=False)] == ["c", "a"]
    ended = [*pods[:1], pod("e", "Succeeded", index=1, failures=1), pods[2],
             pod("d", "Succeeded", index=3)]  # fmt: skip
    assert decided(found, ended) == ("Failed", "FailedIndexes")


def test_an_index_waits_for_itself_after_a_failure() -> None:
    found = indexed(backoffLimitPerIndex=5)
    just_now = "2026-01-01T11:59:55Z"
    pods = [pod("a", "Failed", index=0, failures=0, until=just_now)]
    todo = planned(found, pods)
    assert todo.indexes == (1, 2, 3)
    assert todo.again == pytest.approx(5.0)


def test_failed_indexes_have_a_limit_and_a_rule_may_give_one_up() -> None:
    found = indexed(
        backoffLimitPerIndex=9,
        maxFailedIndexes=1,
        podFailurePolicy={"rules": [on_codes("FailIndex")]},
    )
    pods = [pod(str(n), "Failed", index=n, code=42) for n in range(2)]
    assert decided(found, pods[:1]) == ("", "")
    assert decided(found, pods) == ("Failed", "MaxFailedIndexesExceeded")


@pytest.mark.parametrize(
    ("rule", "done", "holds"),
    [
        ({"succeededIndexes": "0,2"}, {0, 1}, False),
        ({"succeededIndexes": "0,2"}, {0, 2}, True),
        ({"succeededIndexes": "0-2", "succeededCount": 2}, {0, 2}, True),
        ({"succeededIndexes": "0-2", "succeededCount": 2}, {0, 3}, False),
        ({"succeededCount": 2}, {1, 3}, True),
    ],
)
def test_a_success_policy_ends_a_job_early(
    rule: Mapping[str, object], done: set[int], holds: bool
) -> None:
    found = indexed(successPolicy={"rules": [rule]})
    pods = [pod(str(n), "Succeeded" if n in done else "Running", index=n) for n in range(4)]
    assert decided(found, pods) == (("Complete", "SuccessPolicy") if holds else ("", ""))
    assert len(planned(found, pods).delete) == (4 - len(done) if holds else 0)


def test_a_pod_that_goes_is_replaced_by_the_policy() -> None:
    going = pod("a", leaving=True)
    at_once = job(podReplacementPolicy="TerminatingOrFailed")
    assert tally(at_once, [going]).failed == 1
    assert planned(at_once, [going]).create == 1
    after = job(podReplacementPolicy="Failed")
    assert tally(after, [going]).failed == 0
    assert planned(after, [going]).create == 0
    assert planned(after, [pod("a", "Failed", leaving=True)]).create == 1
    assert status_of(after, tally(after, [going]), None, NOW)["terminating"] == 1


def test_the_end_is_told_when_the_last_pod_has_ended() -> None:
    found = job(backoffLimit=0, completions=2, parallelism=2)
    pods = [pod("a", "Failed", tracked=False), pod("b", leaving=True, tracked=False)]
    found["status"]["failed"] = 1
    sums = tally(found, pods)
    end = end_of_job(found, sums, NOW)
    told = [c["type"] for c in status_of(found, sums, end, NOW)["conditions"]]
    assert told == ["FailureTarget"]
    told = [c["type"] for c in status_of(found, tally(found, pods[:1]), end, NOW)["conditions"]]
    assert told == ["FailureTarget", "Failed"]


def test_a_suspended_job_has_all_the_time_there_is() -> None:
    found = job(activeDeadlineSeconds=60, suspend=True)
    assert decided(found, []) == ("", "")
    assert decided(job(activeDeadlineSeconds=60), []) == ("Failed", "DeadlineExceeded")
    suspended = {"type": "Suspended", "status": "True"}
    resumed = status_of(job({"conditions": [suspended]}), tally(job(), []), None, NOW)
    assert resumed["startTime"] == "2026-01-01T12:00:00Z"
    assert (resumed["conditions"][0]["status"], resumed["conditions"][0]["reason"]) == (
        "False",
        "JobResumed",
    )


def test_fewer_are_wanted_and_no_index_twice() -> None:
    found = indexed(parallelism=2)
    pods = [pod(str(n), index=n) for n in range(3)]
    assert [p["metadata"]["uid"] for p in planned(found, pods).delete] == ["2"]
    twice = [pod("a", index=0), pod("b", index=0), pod("c", index=7)]
    assert len(planned(found, twice).delete) == 2


@given(st.sets(st.integers(0, 60)))
def test_spans_say_the_same_numbers(indexes: set[int]) -> None:
    assert list(numbers(spans(indexes))) == sorted(indexes)


async def run(cluster: Cluster, name: str, **spec: Any) -> None:
    body = workload("Job", name, **spec)
    body["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    del body["spec"]["selector"]
    await cluster.apply(body)


def running(cluster: Cluster) -> list[Object]:
    return [p for p in cluster.all("Pod") if (p.get("status") or {}).get("phase") == "Running"]


async def test_ends_are_counted_once_whatever_becomes_of_the_pods(cluster: Cluster) -> None:
    await run(cluster, "sum", completions=2, backoffLimit=5)
    await cluster.until(lambda: running(cluster))
    [first] = running(cluster)
    assert TRACKING in first["metadata"]["finalizers"]
    await cluster.report(key_of(first), is_ready=False, phase="Succeeded")
    await cluster.until(lambda: "finalizers" not in cluster.objects[key_of(first)]["metadata"])
    await cluster.client.delete(key_of(first))
    await cluster.until(lambda: key_of(first) not in cluster.objects and running(cluster))
    await cluster.until(lambda: cluster.get("Job", "sum")["status"]["succeeded"] == 1)
    [second] = running(cluster)
    await cluster.client.delete(key_of(second))
    await cluster.until(lambda: cluster.get("Job", "sum")["status"]["failed"] == 1)
    await cluster.until(lambda: key_of(second) not in cluster.objects)
    assert cluster.get("Job", "sum")["status"]["succeeded"] == 1


async def test_pods_go_with_their_job_or_are_left_free(cluster: Cluster) -> None:
    for name, policy in (("gone", "Background"), ("left", "Orphan"), ("waits", "Foreground")):
        await run(cluster, name)
        await cluster.until(lambda name=name: cluster.all("Pod", name)[0]["status"]["podIP"])  # type: ignore[misc]
        pod_key = key_of(cluster.all("Pod", name)[0])
        path = f"/apis/batch/v1/namespaces/default/jobs/{name}"
        await cluster.client.request("DELETE", path, {"propagationPolicy": policy})
        await cluster.until(lambda name=name: not cluster.all("Job", "") or ObjectKey(  # type: ignore[misc]
            "Job", "default", name) not in cluster.objects)  # fmt: skip
        if policy == "Orphan":
            await cluster.until(
                lambda key=pod_key: "finalizers" not in cluster.objects[key]["metadata"]  # type: ignore[misc]
            )
        else:
            await cluster.until(lambda key=pod_key: key not in cluster.objects)  # type: ignore[misc]


async def test_a_failure_of_one_index_is_tried_again_alone(cluster: Cluster) -> None:
    await run(cluster, "parts", completions=2, parallelism=2, completionMode="Indexed",
              backoffLimitPerIndex=0)  # fmt: skip
    await cluster.until(lambda: len(running(cluster)) == 2)
    for found in running(cluster):
        index = found["metadata"]["annotations"][INDEX]
        phase = "Failed" if index == "0" else "Succeeded"
        await cluster.report(key_of(found), is_ready=False, phase=phase)
    await cluster.until(
        lambda: cluster.get("Job", "parts")["status"]["conditions"][-1]["type"] == "Failed"
    )
    status = cluster.get("Job", "parts")["status"]
    assert (status["completedIndexes"], status["failedIndexes"]) == ("1", "0")
    assert (status["succeeded"], status["failed"]) == (1, 1)
    assert status["conditions"][-1]["reason"] == "FailedIndexes"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"backoffLimitPerIndex": 1}, "spec.backoffLimitPerIndex"),
        ({"maxFailedIndexes": 1}, "spec.maxFailedIndexes"),
        ({"completionMode": "Indexed", "parallelism": 1}, "spec.completions"),
        ({"podFailurePolicy": {"rules": [on_codes("FailIndex")]}}, "rules[0].action"),
        (
            {"podFailurePolicy": {"rules": []}, "podReplacementPolicy": "TerminatingOrFailed"},
            "spec.podReplacementPolicy",
        ),
        (
            {
                "completionMode": "Indexed",
                "completions": 3,
                "successPolicy": {"rules": [{"succeededIndexes": "0-999999999"}]},
            },
            "spec.successPolicy.rules[0].succeededIndexes",
        ),
    ],
)
async def test_what_does_not_go_together_is_refused(
    cluster: Cluster, spec: Mapping[str, Any], field: str
) -> None:
    with pytest.raises(ApiError) as refused:
        await run(cluster, "bad", **spec)
    assert field in str(refused.value)


async def test_a_job_restarts_its_pods_or_makes_others(cluster: Cluster) -> None:
    body = workload("Job", "always")
    del body["spec"]["selector"]
    with pytest.raises(ApiError) as refused:
        await cluster.apply(body)
    assert 'restartPolicy: Unsupported value: "Always"' in str(refused.value)

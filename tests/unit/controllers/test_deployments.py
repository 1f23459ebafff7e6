"""Deployments, ReplicaSets and their pods on a real embedded API."""

import copy
from typing import Any

from meltemi.base.keys import ObjectKey

from .conftest import Cluster, key_of, ready, workload

REVISION = "deployment.kubernetes.io/revision"


def active(cluster: Cluster) -> list[dict[str, Any]]:
    return [p for p in cluster.all("Pod") if "deletionTimestamp" not in p["metadata"]]


def sizes(cluster: Cluster) -> dict[str, int]:
    """Wanted pods of each ReplicaSet, by revision."""
    found = cluster.all("ReplicaSet")
    return {r["metadata"]["annotations"][REVISION]: r["spec"]["replicas"] for r in found}


def restarted(deployment: dict[str, Any], at: str) -> dict[str, Any]:
    """What `kubectl rollout restart` leaves."""
    changed = copy.deepcopy(deployment)
    meta = changed["spec"]["template"]["metadata"]
    meta["annotations"] = {"kubectl.kubernetes.io/restartedAt": at}
    return changed


async def test_deployment_gets_bound_owned_ready_pods(
    cluster: Cluster, deployment: dict[str, Any]
) -> None:
    await cluster.apply(deployment)
    await cluster.until_rolled_out("web")
    [replica_set] = cluster.all("ReplicaSet")
    hashed = replica_set["metadata"]["labels"]["pod-template-hash"]
    assert replica_set["metadata"]["name"] == f"web-{hashed}"
    for pod in cluster.all("Pod"):
        assert pod["spec"]["nodeName"] == "meltemi"
        assert pod["metadata"]["labels"] == {"app": "web", "pod-template-hash": hashed}
        assert pod["metadata"]["name"].startswith(f"web-{hashed}-")
        [owner] = pod["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["controller"]) == ("ReplicaSet", True)
    found = cluster.get("Deployment", "web")
    assert found["metadata"]["annotations"][REVISION] == "1"
    reasons = {c["type"]: c["reason"] for c in found["status"]["conditions"]}
    assert reasons == {
        "Available": "MinimumReplicasAvailable",
        "Progressing": "NewReplicaSetAvailable",
    }
    assert found["status"]["unavailableReplicas"] == 0
    assert cluster.most_pods == 3


async def test_events_tell_what_was_done(cluster: Cluster, deployment: dict[str, Any]) -> None:
    await cluster.apply(deployment)
    expected = {"ScalingReplicaSet": 1, "SuccessfulCreate": 3, "Scheduled": 3}

    def counts() -> dict[str, int]:
        reasons = [e["reason"] for e in cluster.all("Event")]
        return {reason: reasons.count(reason) for reason in set(reasons)}

    await cluster.until(lambda: counts() == expected)
    scheduled = [e for e in cluster.all("Event") if e["reason"] == "Scheduled"]
    pods = {p["metadata"]["uid"] for p in cluster.all("Pod")}
    assert {e["involvedObject"]["uid"] for e in scheduled} == pods


async def test_pod_that_vanishes_is_replaced_once(
    cluster: Cluster, deployment: dict[str, Any]
) -> None:
    await cluster.apply(deployment)
    await cluster.until_rolled_out("web")
    first = cluster.all("Pod")[0]
    await cluster.client.delete(key_of(first))
    await cluster.until(
        lambda: key_of(first) not in cluster.objects and sum(map(ready, active(cluster))) == 3
    )
    assert cluster.most_pods == 3


async def test_restart_never_goes_below_what_must_be_available(
    cluster: Cluster, deployment: dict[str, Any]
) -> None:
    deployment["spec"]["strategy"] = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    await cluster.apply(deployment)
    await cluster.until_rolled_out("web")
    cluster.fewest_ready = 3
    await cluster.apply(restarted(deployment, "later"))
    await cluster.until_rolled_out("web")
    assert sizes(cluster) == {"1": 0, "2": 3}
    assert cluster.fewest_ready == 3
    assert cluster.most_pods == 4


async def test_undo_goes_back_to_the_old_replica_set(
    cluster: Cluster, deployment: dict[str, Any]
) -> None:
    await cluster.apply(deployment)
    await cluster.until_rolled_out("web")
    [first] = cluster.all("ReplicaSet")
    changed = copy.deepcopy(deployment)
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "echo:2"
    await cluster.apply(changed)
    await cluster.until_rolled_out("web")
    await cluster.apply(deployment)
    await cluster.until_rolled_out("web")
    await cluster.until(lambda: sizes(cluster) == {"2": 0, "3": 3})
    again = next(r for r in cluster.all("ReplicaSet") if r["spec"]["replicas"])
    assert again["metadata"]["uid"] == first["metadata"]["uid"]


async def test_recreate_starts_nothing_while_an_old_pod_is_ending(
    cluster: Cluster, deployment: dict[str, Any]
) -> None:
    deployment["spec"]["strategy"] = {"type": "Recreate"}
    await cluster.apply(deployment)
    await cluster.until_rolled_out("web")
    old = {p["metadata"]["uid"] for p in cluster.all("Pod")}
    cluster.keeps_ending = True
    await cluster.apply(restarted(deployment, "later"))
    await cluster.until(lambda: not active(cluster))
    await cluster.until(lambda: cluster.get("Deployment", "web")["status"]["replicas"] == 0)
    for pod in cluster.all("Pod"):
        assert {p["metadata"]["uid"] for p in cluster.all("Pod")} <= old
        await cluster.release(key_of(pod))
    await cluster.until_rolled_out("web")
    assert not old & {p["metadata"]["uid"] for p in cluster.all("Pod")}


async def test_broken_version_stops_the_rollout_and_a_fix_replaces_it(
    cluster: Cluster, deployment: dict[str, Any]
) -> None:
    deployment["spec"] |= {
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "progressDeadlineSeconds": 1,
    }
    await cluster.apply(deployment)
    await cluster.until_rolled_out("web")
    cluster.is_broken = lambda pod: pod["spec"]["containers"][0]["image"] == "echo:bad"
    broken = copy.deepcopy(deployment)
    broken["spec"]["template"]["spec"]["containers"][0]["image"] = "echo:bad"
    cluster.fewest_ready = 3
    await cluster.apply(broken)

    def progressing() -> str:
        conditions = cluster.get("Deployment", "web")["status"]["conditions"]
        return str(next(c["reason"] for c in conditions if c["type"] == "Progressing"))

    await cluster.until(lambda: progressing() == "ProgressDeadlineExceeded")
    assert sizes(cluster) == {"1": 3, "2": 1}
    await cluster.apply(restarted(deployment, "fixed"))
    await cluster.until_rolled_out("web")
    assert sizes(cluster) == {"1": 0, "2": 0, "3": 3}
    assert progressing() == "NewReplicaSetAvailable"
    assert cluster.fewest_ready == 3


async def test_scaling_to_zero_and_back(cluster: Cluster, deployment: dict[str, Any]) -> None:
    await cluster.apply(deployment)
    await cluster.until_rolled_out("web")
    deployment["spec"]["replicas"] = 0
    await cluster.apply(deployment)
    await cluster.until(lambda: not cluster.all("Pod"))
    deployment["spec"]["replicas"] = 2
    await cluster.apply(deployment)
    await cluster.until_rolled_out("web")
    assert sizes(cluster) == {"1": 2}


async def test_paused_deployment_scales_but_does_not_roll_out(
    cluster: Cluster, deployment: dict[str, Any]
) -> None:
    await cluster.apply(deployment)
    await cluster.until_rolled_out("web")
    changed = restarted(deployment, "later")
    changed["spec"] |= {"paused": True, "replicas": 4}
    await cluster.apply(changed)
    await cluster.until(lambda: sizes(cluster) == {"1": 4})
    changed["spec"]["paused"] = False
    await cluster.apply(changed)
    await cluster.until_rolled_out("web")
    assert sizes(cluster) == {"1": 0, "2": 4}


async def test_history_keeps_the_asked_number_of_versions_and_the_change_cause(
    cluster: Cluster, deployment: dict[str, Any]
) -> None:
    deployment["spec"] |= {"revisionHistoryLimit": 1, "replicas": 1}
    for number in range(4):
        changed = restarted(deployment, str(number))
        changed["metadata"]["annotations"] = {"kubernetes.io/change-cause": f"cause {number}"}
        await cluster.apply(changed)
        await cluster.until_rolled_out("web")
    await cluster.until(lambda: sizes(cluster) == {"3": 0, "4": 1})
    causes = [
        r["metadata"]["annotations"]["kubernetes.io/change-cause"]
        for r in cluster.all("ReplicaSet")
    ]
    assert sorted(causes) == ["cause 2", "cause 3"]


async def test_pods_count_as_available_only_after_min_ready_seconds(
    cluster: Cluster, deployment: dict[str, Any]
) -> None:
    deployment["spec"] |= {"minReadySeconds": 2, "replicas": 1}
    await cluster.apply(deployment)
    await cluster.until(lambda: cluster.get("Deployment", "web")["status"]["readyReplicas"] == 1)
    assert cluster.get("Deployment", "web")["status"]["availableReplicas"] == 0
    await cluster.until_rolled_out("web")


async def test_relabelled_pod_is_released_and_replaced(
    cluster: Cluster, deployment: dict[str, Any]
) -> None:
    await cluster.apply(deployment)
    await cluster.until_rolled_out("web")
    key = key_of(cluster.all("Pod")[0])
    await cluster.client.patch(key, {"metadata": {"labels": {"app": "debug"}}})
    await cluster.until(lambda: not cluster.objects[key]["metadata"].get("ownerReferences"))
    await cluster.until(lambda: len(active(cluster)) == 4)
    await cluster.client.patch(key, {"metadata": {"labels": {"app": "web"}}})
    await cluster.until(lambda: len(active(cluster)) == 3)


async def test_refused_pods_are_reported_on_the_deployment_and_come_once_allowed(
    cluster: Cluster, deployment: dict[str, Any]
) -> None:
    injector = ObjectKey("MutatingWebhookConfiguration", "", "injector")
    await cluster.client.create(unreachable_webhook(injector.name))
    await cluster.apply(deployment)

    def failures() -> list[str]:
        conditions = cluster.get("Deployment", "web")["status"]["conditions"]
        return [c["message"] for c in conditions if c["type"] == "ReplicaFailure"]

    await cluster.until(failures)
    assert "injector.example.com" in failures()[0]
    await cluster.until(lambda: "FailedCreate" in {e["reason"] for e in cluster.all("Event")})
    assert not cluster.all("Pod")
    await cluster.client.delete(injector)
    await cluster.until_rolled_out("web")
    await cluster.until(lambda: not failures())
    assert cluster.most_pods == 3


def unreachable_webhook(name: str) -> dict[str, Any]:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "injector.example.com",
                "clientConfig": {"url": "https://127.0.0.1:1/inject"},
                "rules": [{**rule, "operations": ["CREATE"]}],
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
        ],
    }


async def test_deleting_the_deployment_ends_everything(
    cluster: Cluster, deployment: dict[str, Any]
) -> None:
    await cluster.apply(deployment)
    await cluster.until_rolled_out("web")
    await cluster.client.delete(ObjectKey("Deployment", "default", "web"))
    await cluster.until(lambda: not cluster.all("Pod") and not cluster.all("ReplicaSet"))


async def test_replica_sets_left_by_an_orphaning_deletion_are_taken_over(
    cluster: Cluster, deployment: dict[str, Any]
) -> None:
    await cluster.apply(deployment)
    await cluster.until_rolled_out("web")
    old = {p["metadata"]["uid"] for p in cluster.all("Pod")}
    key = ObjectKey("Deployment", "default", "web")
    await cluster.client.delete(key, propagation="Orphan")
    await cluster.until(lambda: key not in cluster.objects)
    assert len(active(cluster)) == 3
    await cluster.apply(deployment)
    await cluster.until_rolled_out("web")
    assert {p["metadata"]["uid"] for p in cluster.all("Pod")} == old
    await cluster.apply(restarted(deployment, "later"))
    await cluster.until_rolled_out("web")
    await cluster.until(lambda: len(cluster.all("Pod")) == 3)


async def test_many_deployments_come_up_together(cluster: Cluster) -> None:
    names = [f"app-{number}" for number in range(10)]
    await cluster.apply(*(workload("Deployment", name, replicas=1) for name in names))
    for name in names:
        await cluster.until_rolled_out(name)
    assert len(cluster.all("Pod")) == 10

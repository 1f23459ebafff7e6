"""CronJobs, indexed and suspended Jobs, claims, revisions, budgets, Endpoints: on a real API."""

import datetime

from meltemi.base.keys import ObjectKey
from meltemi.local.controllers import cronjobs, job_pods, job_policy, scheduler
from meltemi.local.controllers.schedule import parse

from .conftest import Cluster, Object, key_of, references, workload

NOW = datetime.datetime(2026, 5, 1, 10, 0, 30, tzinfo=datetime.UTC)


def cron(**spec: object) -> Object:
    meta = {"name": "tick", "namespace": "default", "creationTimestamp": "2026-05-01T09:58:30Z"}
    return {"metadata": meta, "spec": {"schedule": "* * * * *", "jobTemplate": {}, **spec}}


def job(name: str, ended: str = "") -> Object:
    conditions = [{"type": ended, "status": "True"}] if ended else []
    meta = {"name": name, "namespace": "default", "uid": name}
    return {"metadata": meta, "status": {"conditions": conditions}}


def planned(data: Object, *owned: Object) -> cronjobs.Plan:
    return cronjobs.plan(data, parse(data["spec"]["schedule"]), owned, NOW)


def test_a_cron_job_serves_the_last_missed_time_once() -> None:
    assert planned(cron()).start == NOW.replace(second=0)
    served = {**cron(), "status": {"lastScheduleTime": "2026-05-01T10:00:00Z"}}
    assert planned(served).start is None
    assert planned(cron(suspend=True)).start is None


def test_a_cron_job_keeps_its_concurrency_policy() -> None:
    running = job("old")
    assert planned(cron(), running).start is not None
    forbidden = planned(cron(concurrencyPolicy="Forbid"), running)
    assert (forbidden.start, forbidden.reason) == (None, "JobAlreadyActive")
    replaced = planned(cron(concurrencyPolicy="Replace"), running)
    assert replaced.start is not None
    assert replaced.delete == (running,)


def test_a_cron_job_that_is_too_late_says_so() -> None:
    late = planned(cron(startingDeadlineSeconds=10))
    assert (late.start, late.reason) == (None, "MissSchedule")


def test_a_cron_job_forgets_jobs_beyond_its_history() -> None:
    ended = [job(f"done-{n}", "Complete") for n in range(5)]
    assert planned(cron(), *ended).delete == tuple(ended[:2])


async def test_a_cron_job_makes_a_job_whose_pod_runs(cluster: Cluster) -> None:
    template = workload("Job", "x")["spec"]["template"]
    template["spec"]["restartPolicy"] = "Never"
    body = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "tick", "namespace": "default"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template}}},
    }
    await cluster.apply(body)
    key = ObjectKey("CronJob", "default", "tick")
    past = NOW - datetime.timedelta(days=1)
    await cluster.client.patch(
        key, {"status": {"lastScheduleTime": f"{past:%Y-%m-%dT%H:%M:%SZ}"}}, subresource="status"
    )
    await cluster.until(lambda: cluster.all("Pod"))
    [made] = cluster.all("Job", "tick")
    assert made["metadata"]["name"].startswith("tick-")
    await cluster.until(lambda: cluster.get("CronJob", "tick")["status"]["active"])


async def test_an_indexed_job_numbers_its_pods(cluster: Cluster) -> None:
    body = workload("Job", "parts", completions=2, parallelism=2, completionMode="Indexed")
    body["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    del body["spec"]["selector"]
    await cluster.apply(body)
    await cluster.until(lambda: len([p for p in cluster.all("Pod") if "podIP" in p["status"]]) == 2)
    assert sorted(job_pods.index_of(pod) for pod in cluster.all("Pod")) == [0, 1]
    for pod in cluster.all("Pod"):
        assert pod["spec"]["hostname"] == f"parts-{job_pods.index_of(pod)}"
        await cluster.report(key_of(pod), is_ready=False, phase="Succeeded")
    await cluster.until(lambda: cluster.get("Job", "parts")["status"]["completedIndexes"] == "0,1")


def test_numbers_are_written_as_spans() -> None:
    assert job_policy.spans([0, 1, 2, 5, 7, 8]) == "0-2,5,7,8"
    assert job_policy.spans([]) == ""


async def test_a_suspended_job_has_no_pods_until_it_is_resumed(cluster: Cluster) -> None:
    body = workload("Job", "later", suspend=True)
    body["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    del body["spec"]["selector"]
    await cluster.apply(body)
    await cluster.until(
        lambda: cluster.get("Job", "later")["status"]["conditions"][0]["type"] == "Suspended"
    )
    assert cluster.all("Pod") == []
    key = ObjectKey("Job", "default", "later")
    await cluster.client.patch(key, {"spec": {"suspend": False}})
    await cluster.until(lambda: cluster.all("Pod"))
    await cluster.until(
        lambda: cluster.get("Job", "later")["status"]["conditions"][0]["status"] == "False"
    )


async def test_stateful_pods_have_claims_that_outlive_them(cluster: Cluster) -> None:
    template = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    body = workload(
        "StatefulSet", "db", replicas=2, serviceName="db", volumeClaimTemplates=[template]
    )
    await cluster.apply(body)
    await cluster.until(lambda: cluster.get("StatefulSet", "db")["status"]["readyReplicas"] == 2)
    claims = [c["metadata"]["name"] for c in cluster.all("PersistentVolumeClaim")]
    assert claims == ["data-db-0", "data-db-1"]
    volumes = cluster.get("Pod", "db-1")["spec"]["volumes"]
    claimed = [v["persistentVolumeClaim"] for v in volumes if v["name"] == "data"]
    assert claimed[0]["claimName"] == "data-db-1"
    key = ObjectKey("StatefulSet", "default", "db")
    await cluster.client.patch(key, {"spec": {"replicas": 0}})
    await cluster.until(lambda: cluster.all("Pod") == [])
    assert len(cluster.all("PersistentVolumeClaim")) == 2


async def test_claims_go_as_the_retention_policy_says_when_it_says_so(cluster: Cluster) -> None:
    template = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
    body = workload(
        "StatefulSet", "db", replicas=2, serviceName="db", volumeClaimTemplates=[template]
    )
    await cluster.apply(body)
    await cluster.until(lambda: cluster.get("StatefulSet", "db")["status"]["readyReplicas"] == 2)
    key = ObjectKey("StatefulSet", "default", "db")

    def owned() -> list[bool]:
        return [bool(references(c)) for c in cluster.all("PersistentVolumeClaim")]

    for when, expected in (("Delete", [True, True]), ("Retain", [False, False])):
        policy = {"whenDeleted": when, "whenScaled": "Delete"}
        change = {"spec": {"persistentVolumeClaimRetentionPolicy": policy}}
        await cluster.client.patch(key, change)
        await cluster.until(lambda expected=expected: owned() == expected)  # type: ignore[misc]
    await cluster.client.patch(key, {"spec": {"replicas": 1}})
    await cluster.until(
        lambda: (
            [c["metadata"]["name"] for c in cluster.all("PersistentVolumeClaim")] == ["data-db-0"]
        )
    )


async def test_templates_have_revisions_and_an_old_one_becomes_the_newest(
    cluster: Cluster,
) -> None:
    first = workload("StatefulSet", "db", replicas=1, serviceName="db")
    await cluster.apply(first)
    await cluster.until(lambda: len(cluster.all("ControllerRevision")) == 1)
    second = workload("StatefulSet", "db", replicas=1, serviceName="db")
    second["spec"]["template"]["spec"]["containers"][0]["image"] = "echo:2"
    await cluster.apply(second)
    await cluster.until(lambda: len(cluster.all("ControllerRevision")) == 2)
    await cluster.apply(first)
    await cluster.until(lambda: [r["revision"] for r in _by_number(cluster)] == [2, 3])
    newest = _by_number(cluster)[-1]["data"]["spec"]["template"]
    assert newest["spec"]["containers"][0]["image"] == "echo:1"
    assert newest["$patch"] == "replace"


def _by_number(cluster: Cluster) -> list[Object]:
    return sorted(cluster.all("ControllerRevision"), key=lambda r: int(r["revision"]))


async def test_a_budget_counts_who_may_leave(cluster: Cluster) -> None:
    await cluster.apply(workload("Deployment", "web", replicas=3))
    selector = {"matchLabels": {"app": "web"}}
    await cluster.apply(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"maxUnavailable": "34%", "selector": selector},
        }
    )

    def allowed() -> int:
        status = cluster.get("PodDisruptionBudget", "web")["status"]
        return int(status["disruptionsAllowed"])

    await cluster.until(lambda: allowed() == 2)
    assert cluster.get("PodDisruptionBudget", "web")["status"]["expectedPods"] == 3
    await cluster.report(key_of(cluster.all("Pod")[0]), is_ready=False)
    await cluster.until(lambda: allowed() == 1)


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
}


async def test_endpoints_say_what_slices_say(cluster: Cluster) -> None:
    cluster.is_broken = lambda pod: pod["metadata"]["name"].endswith("-1")
    await cluster.apply(SERVICE)
    await cluster.apply(workload("StatefulSet", "web", replicas=2, serviceName="web",
                                 podManagementPolicy="Parallel"))  # fmt: skip

    def counts() -> tuple[int, int]:
        subset = cluster.get("Endpoints", "web")["subsets"][0]
        return len(subset.get("addresses", ())), len(subset.get("notReadyAddresses", ()))

    await cluster.until(lambda: counts() == (1, 1))
    [subset] = cluster.get("Endpoints", "web")["subsets"]
    assert subset["ports"][0]["port"] == 8080
    assert subset["addresses"][0]["hostname"] == "web-0"


async def test_endpoints_of_a_service_without_selector_become_slices(cluster: Cluster) -> None:
    meta = {"name": "outside", "namespace": "default"}
    ports = [{"name": "tcp", "port": 5432}]
    await cluster.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": ports}}
    )
    await cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": meta,
            "subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": ports}],
        }
    )
    await cluster.until(lambda: cluster.all("EndpointSlice", "outside"))
    [found] = cluster.all("EndpointSlice", "outside")
    assert found["endpoints"][0]["addresses"] == ["192.0.2.7"]
    assert found["ports"][0]["port"] == 5432


def test_a_pod_goes_where_its_selectors_let_it() -> None:
    node = {"metadata": {"name": "meltemi", "labels": {"kubernetes.io/os": "linux"}}, "spec": {}}
    cordoned = {**node, "spec": {"unschedulable": True}}
    rule = {"key": "kubernetes.io/os", "operator": "In", "values": ["windows"]}
    term = {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}
    assert scheduler.obstacle({"spec": {}}, node) == ""
    assert scheduler.obstacle({"spec": {"nodeSelector": {"kubernetes.io/os": "linux"}}}, node) == ""
    assert "selector" in scheduler.obstacle({"spec": {"nodeSelector": {"disk": "ssd"}}}, node)
    assert "affinity" in scheduler.obstacle({"spec": {"affinity": affinity}}, node)
    assert "unschedulable" in scheduler.obstacle({"spec": {}}, cordoned)
    taint = {"key": "team", "value": "a", "effect": "NoSchedule"}
    tainted = {**node, "spec": {"taints": [taint]}}
    assert "untolerated taint {team: a}" in scheduler.obstacle({"spec": {}}, tainted)
    tolerant = {"spec": {"tolerations": [{"key": "team", "operator": "Equal", "value": "a"}]}}
    assert scheduler.obstacle(tolerant, tainted) == ""
    port = {"containers": [{"ports": [{"containerPort": 8080}]}], "hostNetwork": True}
    meta = {"name": "first", "namespace": "default"}
    first = {"kind": "Pod", "metadata": meta, "spec": port, "status": {"phase": "Running"}}
    refused = scheduler.obstacle({"spec": port}, node, [first])
    assert "free ports" in refused
    assert "TCP 8080 of the host's network is taken by Pod/first.default" in refused
    ended = {**first, "status": {"phase": "Succeeded"}}
    assert scheduler.obstacle({"spec": port}, node, [ended]) == ""
    everything = {"spec": {"tolerations": [{"operator": "Exists"}]}}
    assert scheduler.obstacle(everything, cordoned) == ""


async def test_a_pod_without_a_place_waits_and_says_why(cluster: Cluster) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "picky", "namespace": "default"},
        "spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "a", "image": "echo"}]},
    }
    await cluster.apply(pod)
    await cluster.until(
        lambda: cluster.get("Pod", "picky")["status"]["conditions"][0]["reason"] == "Unschedulable"
    )
    label = {"metadata": {"labels": {"disk": "ssd"}}}
    await cluster.client.patch(ObjectKey("Node", "", "meltemi"), label)
    await cluster.until(lambda: cluster.get("Pod", "picky")["spec"].get("nodeName"))

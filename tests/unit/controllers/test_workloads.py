"""StatefulSets, DaemonSets and Jobs on a real embedded API."""

from meltemi.base.keys import ObjectKey

from .conftest import Cluster, key_of, workload


def names(cluster: Cluster) -> list[str]:
    return [p["metadata"]["name"] for p in cluster.all("Pod")]


async def test_stateful_pods_come_one_after_the_other(cluster: Cluster) -> None:
    cluster.is_broken = lambda pod: pod["metadata"]["name"] == "db-1"
    await cluster.apply(workload("StatefulSet", "db", replicas=3, serviceName="db-all"))
    await cluster.until(lambda: cluster.get("Pod", "db-1")["status"]["podIP"])
    assert names(cluster) == ["db-0", "db-1"]
    await cluster.report(ObjectKey("Pod", "default", "db-1"), is_ready=True)
    await cluster.until(lambda: cluster.get("StatefulSet", "db")["status"]["readyReplicas"] == 3)
    pod = cluster.get("Pod", "db-2")
    assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("db-2", "db-all")
    assert pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "2"


async def test_stateful_update_replaces_from_the_last_and_tells_when_it_is_whole(
    cluster: Cluster,
) -> None:
    cluster.keeps_ending = False
    await cluster.apply(workload("StatefulSet", "db", replicas=2, serviceName="db"))
    await cluster.until(lambda: cluster.get("StatefulSet", "db")["status"]["readyReplicas"] == 2)
    first = cluster.get("StatefulSet", "db")["status"]["currentRevision"]
    uids = {p["metadata"]["name"]: p["metadata"]["uid"] for p in cluster.all("Pod")}
    cluster.is_broken = lambda pod: pod["metadata"]["name"] == "db-1"
    changed = workload("StatefulSet", "db", replicas=2, serviceName="db")
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "echo:2"
    await cluster.apply(changed)
    await cluster.until(lambda: cluster.get("Pod", "db-1")["metadata"]["uid"] != uids["db-1"])
    await cluster.until(lambda: cluster.get("StatefulSet", "db")["status"]["updatedReplicas"] == 1)
    status = cluster.get("StatefulSet", "db")["status"]
    assert status["currentRevision"] == first != status["updateRevision"]
    assert cluster.get("Pod", "db-0")["metadata"]["uid"] == uids["db-0"]
    cluster.is_broken = lambda _: False
    await cluster.until(lambda: cluster.get("Pod", "db-1")["status"]["podIP"])
    await cluster.report(ObjectKey("Pod", "default", "db-1"), is_ready=True)
    await cluster.until(lambda: cluster.get("StatefulSet", "db")["status"]["updatedReplicas"] == 2)
    await cluster.until(
        lambda: (
            cluster.get("StatefulSet", "db")["status"]["currentRevision"]
            == status["updateRevision"]
        )
    )


async def test_stateful_scale_down_takes_the_highest(cluster: Cluster) -> None:
    await cluster.apply(
        workload("StatefulSet", "db", replicas=3, serviceName="db", podManagementPolicy="Parallel")
    )
    await cluster.until(lambda: cluster.get("StatefulSet", "db")["status"]["readyReplicas"] == 3)
    key = ObjectKey("StatefulSet", "default", "db")
    await cluster.client.patch(key, {"spec": {"replicas": 1}})
    await cluster.until(lambda: names(cluster) == ["db-0"])


async def test_stateful_pod_returns_under_its_name_after_it_has_ended(cluster: Cluster) -> None:
    await cluster.apply(workload("StatefulSet", "db", replicas=1, serviceName="db"))
    await cluster.until(lambda: cluster.get("StatefulSet", "db")["status"]["readyReplicas"] == 1)
    pod = cluster.get("Pod", "db-0")
    await cluster.client.delete(key_of(pod))
    await cluster.until(
        lambda: cluster.get("Pod", "db-0")["metadata"]["uid"] != pod["metadata"]["uid"]
    )


async def test_daemon_set_has_one_pod_and_replaces_it(cluster: Cluster) -> None:
    daemon = workload("DaemonSet", "agent")
    await cluster.apply(daemon)
    await cluster.until(lambda: cluster.get("DaemonSet", "agent")["status"]["numberReady"] == 1)
    [before] = cluster.all("Pod")
    daemon["spec"]["template"]["spec"]["containers"][0]["image"] = "echo:2"
    await cluster.apply(daemon)
    await cluster.until(lambda: key_of(before) not in cluster.objects)
    await cluster.until(
        lambda: cluster.get("DaemonSet", "agent")["status"]["updatedNumberScheduled"] == 1
    )
    await cluster.until(lambda: len(cluster.all("Pod")) == 1)
    assert cluster.most_pods == 1


async def test_job_completes_when_enough_pods_have_succeeded(cluster: Cluster) -> None:
    job = workload("Job", "sum", completions=3, parallelism=2)
    job["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    del job["spec"]["selector"]
    await cluster.apply(job)
    done: set[str] = set()
    for _ in range(3):
        await cluster.until(lambda: [n for n in names(cluster) if n not in done])
        name = next(n for n in names(cluster) if n not in done)
        await cluster.until(lambda name=name: cluster.get("Pod", name)["status"]["podIP"])
        await cluster.report(ObjectKey("Pod", "default", name), is_ready=False, phase="Succeeded")
        done.add(name)
    await cluster.until(
        lambda: cluster.get("Job", "sum")["status"]["conditions"][-1]["type"] == "Complete"
    )
    status = cluster.get("Job", "sum")["status"]
    assert (status["succeeded"], status["active"]) == (3, 0)
    assert len(cluster.all("Pod")) == 3


async def test_job_fails_beyond_its_back_off_limit(cluster: Cluster) -> None:
    job = workload("Job", "sum", backoffLimit=0)
    job["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    del job["spec"]["selector"]
    await cluster.apply(job)
    await cluster.until(lambda: cluster.all("Pod")[0]["status"]["podIP"])
    await cluster.report(key_of(cluster.all("Pod")[0]), is_ready=False, phase="Failed")
    await cluster.until(
        lambda: cluster.get("Job", "sum")["status"]["conditions"][-1]["type"] == "Failed"
    )
    reason = cluster.get("Job", "sum")["status"]["conditions"][0]["reason"]
    assert reason == "BackoffLimitExceeded"

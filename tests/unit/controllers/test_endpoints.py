"""EndpointSlices follow Services and pods."""

from typing import Any

from meltemi.base.keys import ObjectKey
from meltemi.local.controllers.endpoints import matched, slices

from .conftest import Cluster, key_of, workload


def service(**spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": 9080, "protocol": "TCP"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": ports, **spec},
    }


def pod(name: str, ip: str = "10.44.0.2", *, is_ready: bool = True, **ports: int) -> dict[str, Any]:
    declared = [{"name": n, "containerPort": p} for n, p in ports.items()]
    return {
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "app", "ports": declared}], "nodeName": "meltemi"},
        "status": {
            "phase": "Running",
            "podIP": ip,
            "conditions": [{"type": "Ready", "status": str(is_ready)}],
        },
    }


def conditions(found: list[dict[str, Any]]) -> dict[str, tuple[bool, bool, bool]]:
    return {
        e["targetRef"]["name"]: tuple(
            e["conditions"][c] for c in ("ready", "serving", "terminating")
        )
        for s in found
        for e in s["endpoints"]
    }  # type: ignore[return-value]


def test_conditions_tell_ready_serving_and_terminating() -> None:
    leaving = pod("leaving", "10.44.0.4")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    pods = [pod("good"), pod("bad", "10.44.0.3", is_ready=False), leaving]
    assert conditions(list(slices(service(), pods))) == {
        "good": (True, True, False),
        "bad": (False, False, False),
        "leaving": (False, True, True),
    }


def test_not_ready_addresses_are_published_as_ready_on_request() -> None:
    found = slices(service(publishNotReadyAddresses=True), [pod("bad", is_ready=False)])
    assert conditions(list(found)) == {"bad": (True, False, False)}


def test_pods_that_resolve_a_named_port_differently_get_slices_of_their_own() -> None:
    ports = [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]
    pods = [pod("a", "10.44.0.2", web=8080), pod("b", "10.44.0.3", web=9090)]
    found = slices(service(ports=ports), pods)
    by_port = {s["ports"][0]["port"]: conditions([s]).keys() for s in found}
    assert by_port == {8080: {"a"}, 9090: {"b"}}


def test_pod_without_the_named_port_has_no_port_but_its_address() -> None:
    ports = [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]
    [found] = slices(service(ports=ports), [pod("a")])
    assert (found["ports"], len(found["endpoints"])) == ([], 1)


def test_finished_pods_and_pods_without_address_are_no_endpoints() -> None:
    done = pod("done")
    done["status"]["phase"] = "Succeeded"
    [found] = slices(service(), [done, pod("young", ip="")])
    assert found["endpoints"] == []


def test_application_protocol_and_headless_hostname_are_carried() -> None:
    named = pod("web-0")
    named["spec"] |= {"hostname": "web-0", "subdomain": "web"}
    ports = [{"name": "grpc", "port": 1, "protocol": "TCP", "appProtocol": "grpc"}]
    [found] = slices(service(ports=ports, clusterIP="None"), [named])
    assert found["ports"] == [{"name": "grpc", "port": 1, "protocol": "TCP", "appProtocol": "grpc"}]
    assert found["endpoints"][0]["hostname"] == "web-0"


def ready_names(cluster: Cluster) -> set[str]:
    return {n for n, (ready, _, _) in conditions(cluster.all("EndpointSlice")).items() if ready}


def pod_names(cluster: Cluster) -> set[str]:
    return {p["metadata"]["name"] for p in cluster.all("Pod")}


async def test_slice_follows_pods_and_goes_with_its_service(cluster: Cluster) -> None:
    await cluster.apply(service(), workload("Deployment", "web", replicas=2))
    await cluster.until(lambda: len(ready_names(cluster)) == 2)
    [found] = cluster.all("EndpointSlice", owner="web")
    assert found["metadata"]["name"].startswith("web-")
    assert found["metadata"]["labels"] == {
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    assert found["ports"] == [{"name": "http", "port": 9080, "protocol": "TCP"}]
    assert found["endpoints"][0]["nodeName"] == "meltemi"

    first = cluster.all("Pod")[0]
    await cluster.report(key_of(first), is_ready=False)
    name = first["metadata"]["name"]
    await cluster.until(lambda: ready_names(cluster) == pod_names(cluster) - {name})
    await cluster.client.delete(ObjectKey("Service", "default", "web"))
    await cluster.until(lambda: not cluster.all("EndpointSlice", owner="web"))


async def test_pod_scaled_away_is_shown_as_terminating_until_it_ends(cluster: Cluster) -> None:
    await cluster.apply(service(), workload("Deployment", "web", replicas=2))
    await cluster.until(lambda: len(ready_names(cluster)) == 2)
    cluster.keeps_ending = True
    key = ObjectKey("Deployment", "default", "web")
    await cluster.client.patch(key, {"spec": {"replicas": 1}})
    await cluster.until(lambda: len(ready_names(cluster)) == 1)
    shown = conditions(cluster.all("EndpointSlice"))
    assert sorted(shown.values()) == [(False, True, True), (True, True, False)]
    gone = next(n for n, (ready, _, _) in shown.items() if not ready)
    await cluster.release(ObjectKey("Pod", "default", gone))
    await cluster.until(lambda: gone not in conditions(cluster.all("EndpointSlice")))


async def test_relabelled_pod_leaves_the_service_it_was_in(cluster: Cluster) -> None:
    await cluster.apply(service(), workload("Deployment", "web", replicas=1))
    await cluster.until(lambda: len(ready_names(cluster)) == 1)
    key = key_of(cluster.all("Pod")[0])
    await cluster.client.patch(key, {"metadata": {"labels": {"app": "debug"}}})
    await cluster.until(lambda: ready_names(cluster) == pod_names(cluster) - {key.name})


async def test_slice_deleted_by_hand_comes_back(cluster: Cluster) -> None:
    await cluster.apply(service(), workload("Deployment", "web", replicas=1))
    await cluster.until(lambda: len(ready_names(cluster)) == 1)
    [found] = cluster.all("EndpointSlice", owner="web")
    await cluster.client.delete(key_of(found))
    await cluster.until(
        lambda: key_of(found) not in cluster.objects and len(ready_names(cluster)) == 1
    )


def both(name: str, ip: str, other: str) -> dict[str, Any]:
    found = pod(name, ip)
    found["status"]["podIPs"] = [{"ip": ip}, {"ip": other}]
    return found


def test_each_family_has_slices_of_its_own() -> None:
    pods = [both("a", "10.44.0.2", "fd00::2"), pod("b", "10.44.0.3")]
    found = slices(service(ipFamilies=["IPv6", "IPv4"]), pods)
    addresses = {s["addressType"]: [e["addresses"] for e in s["endpoints"]] for s in found}
    assert addresses == {"IPv6": [["fd00::2"]], "IPv4": [["10.44.0.2"], ["10.44.0.3"]]}
    assert [s["addressType"] for s in slices(service(), pods)] == ["IPv4"]


def test_a_slice_keeps_its_family() -> None:
    def part(name: str, family: str) -> dict[str, Any]:
        return {"metadata": {"name": name}, "addressType": family}

    present = [part("four", "IPv4"), part("old", "IPv4"), part("six", "IPv6")]
    wanted = [part("", "IPv6"), part("", "IPv4"), part("", "IPv6")]
    pairs, extra = matched(present, wanted)
    assert [current and current["metadata"]["name"] for current, _ in pairs] == [
        "six", "four", None,
    ]  # fmt: skip
    assert [slice_["metadata"]["name"] for slice_ in extra] == ["old"]

"""Creating, changing and deleting: versions, names, finalizers, propagation, subresources."""

import asyncio
from typing import Any

import pytest

from .conftest import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    JSON_PATCH,
    MERGE,
    PODS,
    SERVICES,
    STRATEGIC,
    Api,
    Json,
)

VIRTUAL_SERVICES = "/apis/networking.istio.io/v1/namespaces/default/virtualservices"


def config(name: str, **data: str) -> Json:
    return {"metadata": {"name": name}, "data": data}


def deployment(name: str = "web") -> Json:
    labels = {"app": name}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "main", "image": "echo:1"}]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    }


async def test_an_old_version_is_not_overwritten(api: Api) -> None:
    made = await api.post(CONFIG_MAPS, config("one", a="1"))
    path = f"{CONFIG_MAPS}/one"
    await api.patch(path, {"data": {"a": "2"}})
    answer = await api.call("PUT", path, made)
    assert (answer.status, answer.body["reason"]) == (409, "Conflict")
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {}}
    assert (await api.call("PATCH", path, stale, media=MERGE)).status == 409


async def test_without_a_version_the_last_writer_wins_except_for_custom_kinds(api: Api) -> None:
    await api.post(CONFIG_MAPS, config("one", a="1"))
    put = await api.put(f"{CONFIG_MAPS}/one", config("one", b="2"))
    assert put["data"] == {"b": "2"}
    gateways = "/apis/networking.istio.io/v1/namespaces/default/destinationrules"
    rule = {"metadata": {"name": "r"}, "spec": {"host": "a"}}
    await api.post(gateways, rule)
    answer = await api.call("PUT", f"{gateways}/r", rule)
    assert answer.status == 422
    assert "must be specified for an update" in answer.message


async def test_a_write_that_changes_nothing_keeps_the_version(api: Api) -> None:
    made = await api.post(CONFIG_MAPS, config("one", a="1"))
    same = await api.patch(f"{CONFIG_MAPS}/one", {"data": {"a": "1"}})
    assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_generated_names_are_short_and_differ(api: Api) -> None:
    body = {"metadata": {"generateName": "x" * 80}}
    names = {(await api.post(CONFIG_MAPS, body))["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5
    assert {len(n) for n in names} == {63}


async def test_dry_run_stores_nothing(api: Api) -> None:
    await api.post(f"{CONFIG_MAPS}?dryRun=All", config("one"))
    assert (await api.call("GET", f"{CONFIG_MAPS}/one")).status == 404
    await api.post(CONFIG_MAPS, config("one", a="1"))
    await api.patch(f"{CONFIG_MAPS}/one?dryRun=All", {"data": {"a": "2"}})
    await api.delete(f"{CONFIG_MAPS}/one?dryRun=All")
    await api.delete(f"{CONFIG_MAPS}/one", {"dryRun": ["All"]})
    assert (await api.get(f"{CONFIG_MAPS}/one"))["data"] == {"a": "1"}
    bad = await api.call("POST", f"{CONFIG_MAPS}?dryRun=Some", config("two"))
    assert bad.status == 400


@pytest.mark.parametrize(
    ("collection", "name", "said"),
    [
        (CONFIG_MAPS, "Upper", "RFC 1123 subdomain"),
        (CONFIG_MAPS, "a..b", "RFC 1123 subdomain"),
        (SERVICES, "1st", "DNS-1035 label"),
        ("/api/v1/namespaces", "a.b", "RFC 1123 label"),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", "a/b", "may not be"),
    ],
)
async def test_names_follow_their_kinds_rules(
    api: Api, collection: str, name: str, said: str
) -> None:
    body: Json = {"metadata": {"name": name}}
    if collection == SERVICES:
        body["spec"] = {"ports": [{"port": 80}]}
    answer = await api.call("POST", collection, body)
    assert answer.status == 422
    assert said in answer.message


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (f"{DEPLOYMENTS}/web", {"spec": {"selector": {"matchLabels": {"app": "other"}}}}),
        (f"{SERVICES}/web", {"spec": {"clusterIP": "10.43.9.9"}}),
        (f"{CONFIG_MAPS}/sealed", {"data": {"a": "2"}}),
        (f"{CONFIG_MAPS}/sealed", {"immutable": False}),
        ("/api/v1/namespaces/default/secrets/typed", {"type": "other"}),
        (f"{PODS}/web", {"spec": {"hostNetwork": True}}),
    ],
)
async def test_immutable_fields_stay(api: Api, pod: Json, path: str, change: Json) -> None:
    await api.post(DEPLOYMENTS, deployment())
    await api.post(SERVICES, {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}})
    await api.post(CONFIG_MAPS, {**config("sealed", a="1"), "immutable": True})
    await api.post("/api/v1/namespaces/default/secrets", {"metadata": {"name": "typed"}})
    await api.post(PODS, pod)
    before = await api.get(path)
    answer = await api.call("PATCH", path, change, media=MERGE)
    assert answer.status == 422, answer.raw
    assert await api.get(path) == before


async def test_a_pods_image_may_change(api: Api, pod: Json) -> None:
    await api.post(PODS, pod)
    change = {"spec": {"containers": [{"name": "main", "image": "echo:2"}]}}
    changed = await api.patch(f"{PODS}/web", change, STRATEGIC)
    assert changed["spec"]["containers"][0]["image"] == "echo:2"


async def test_status_and_spec_are_written_apart(api: Api) -> None:
    made = await api.post(DEPLOYMENTS, {**deployment(), "status": {"replicas": 9}})
    assert "status" not in made
    path = f"{DEPLOYMENTS}/web"
    status = {"status": {"replicas": 1}, "spec": {"replicas": 7}}
    after = await api.patch(f"{path}/status", status)
    assert (after["spec"]["replicas"], after["status"]["replicas"]) == (1, 1)
    assert after["metadata"]["generation"] == 1
    after = await api.patch(path, {"spec": {"replicas": 2}, "status": {"replicas": 5}})
    assert (after["spec"]["replicas"], after["status"]["replicas"]) == (2, 1)
    assert after["metadata"]["generation"] == 2


async def test_scale_is_read_put_and_patched(api: Api) -> None:
    await api.post(DEPLOYMENTS, deployment())
    path = f"{DEPLOYMENTS}/web/scale"
    scale = await api.get(path)
    assert (scale["kind"], scale["spec"], scale["status"]["selector"]) == (
        "Scale", {"replicas": 1}, "app=web",
    )  # fmt: skip
    scale["spec"]["replicas"] = 3
    assert (await api.put(path, scale))["spec"] == {"replicas": 3}
    assert (await api.call("PUT", path, scale)).status == 409
    assert (await api.patch(path, {"spec": {"replicas": 5}}))["spec"] == {"replicas": 5}
    jump = [{"op": "replace", "path": "/spec/replicas", "value": 6}]
    assert (await api.patch(path, jump, JSON_PATCH))["spec"] == {"replicas": 6}
    assert (await api.get(f"{DEPLOYMENTS}/web"))["spec"]["replicas"] == 6
    assert (await api.call("PATCH", path, {"spec": {"replicas": -1}}, media=MERGE)).status == 422


async def test_finalizers_hold_an_object_until_they_are_gone(api: Api) -> None:
    body = config("held")
    body["metadata"]["finalizers"] = ["example.com/hold"]
    await api.post(CONFIG_MAPS, body)
    path = f"{CONFIG_MAPS}/held"
    going = await api.delete(path)
    assert "deletionTimestamp" in going["metadata"]
    again = await api.delete(path)
    assert again["metadata"]["resourceVersion"] == going["metadata"]["resourceVersion"]
    more = {"metadata": {"finalizers": ["example.com/hold", "example.com/new"]}}
    assert (await api.call("PATCH", path, more, media=MERGE)).status == 422
    await api.patch(path, {"metadata": {"finalizers": None}})
    assert (await api.call("GET", path)).status == 404


async def test_preconditions_protect_from_deleting_another(api: Api) -> None:
    made = await api.post(CONFIG_MAPS, config("one"))
    path = f"{CONFIG_MAPS}/one"
    for wrong in ({"uid": "other"}, {"resourceVersion": "1"}):
        assert (await api.call("DELETE", path, {"preconditions": wrong})).status == 409
    await api.delete(path, {"preconditions": {"uid": made["metadata"]["uid"]}})


async def owner_and_child(api: Api, **reference: Any) -> tuple[str, str]:
    owner = await api.post(CONFIG_MAPS, config("owner"))
    child = config("child")
    child["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
         "uid": owner["metadata"]["uid"], **reference}
    ]  # fmt: skip
    await api.post(CONFIG_MAPS, child)
    return f"{CONFIG_MAPS}/owner", f"{CONFIG_MAPS}/child"


async def test_background_deletion_takes_the_children_after(api: Api) -> None:
    owner, child = await owner_and_child(api)
    await api.delete(owner, {"propagationPolicy": "Background"})
    assert (await api.call("GET", owner)).status == 404
    await api.until_gone(child)


async def test_foreground_deletion_waits_for_children_that_block(api: Api) -> None:
    owner, child = await owner_and_child(api, blockOwnerDeletion=True)
    await api.patch(child, {"metadata": {"finalizers": ["example.com/hold"]}})
    async with api.watch(CONFIG_MAPS, "fieldSelector=metadata.name=child") as events:
        assert (await anext(events))["type"] == "ADDED"
        await api.delete(owner, {"propagationPolicy": "Foreground"})
        assert "deletionTimestamp" in (await anext(events))["object"]["metadata"]
        going = await api.get(owner)
        assert going["metadata"]["finalizers"] == ["foregroundDeletion"]
        await api.patch(child, {"metadata": {"finalizers": None}})
    await api.until_gone(owner)
    assert (await api.call("GET", child)).status == 404


async def test_orphaning_leaves_the_children_without_owner(api: Api) -> None:
    owner, child = await owner_and_child(api)
    await api.delete(owner, {"propagationPolicy": "Orphan"})
    await api.until_gone(owner)
    left = await api.get(child)
    assert not left["metadata"].get("ownerReferences")


async def test_a_namespace_ends_with_everything_in_it(api: Api) -> None:
    await api.post("/api/v1/namespaces", {"metadata": {"name": "shop"}})
    rules = "/apis/networking.istio.io/v1/namespaces/shop/destinationrules"
    await api.post(rules, {"metadata": {"name": "r"}, "spec": {"host": "a"}})
    held = config("held")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    await api.post("/api/v1/namespaces/shop/configmaps", held)
    going = await api.delete("/api/v1/namespaces/shop")
    assert going["status"]["phase"] == "Terminating"
    late = await api.call("POST", "/api/v1/namespaces/shop/configmaps", config("late"))
    assert (late.status, "being terminated" in late.message) == (403, True)
    await api.until_gone(f"{rules}/r")
    assert (await api.get("/api/v1/namespaces/shop"))["status"]["phase"] == "Terminating"
    path = "/api/v1/namespaces/shop/configmaps/held"
    await api.patch(path, {"metadata": {"finalizers": []}})
    await api.until_gone("/api/v1/namespaces/shop")


async def test_a_collection_is_deleted_by_selector(api: Api) -> None:
    for name in ("a", "b", "c"):
        body = config(name)
        body["metadata"]["labels"] = {"keep": str(name == "c").lower()}
        await api.post(CONFIG_MAPS, body)
    gone = await api.delete(f"{CONFIG_MAPS}?labelSelector=keep=false")
    assert [i["metadata"]["name"] for i in gone["items"]] == ["a", "b"]
    left = await api.get(f"{CONFIG_MAPS}?labelSelector=keep")
    assert [i["metadata"]["name"] for i in left["items"]] == ["c"]


async def test_a_pod_is_given_its_time(api: Api, pod: Json) -> None:
    pod["spec"]["nodeName"] = "meltemi"
    await api.post(PODS, pod)
    going = await api.delete(f"{PODS}/web")
    assert going["metadata"]["deletionGracePeriodSeconds"] == 30
    shorter = await api.delete(f"{PODS}/web", {"gracePeriodSeconds": 5})
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 5
    await api.delete(f"{PODS}/web", {"gracePeriodSeconds": 0})
    assert (await api.call("GET", f"{PODS}/web")).status == 404


async def test_eviction_respects_budgets(api: Api, pod: Json) -> None:
    pod["metadata"]["labels"] = {"app": "web"}
    await api.post(PODS, pod)
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    selector = {"matchLabels": {"app": "web"}}
    await api.post(budgets, {"metadata": {"name": "b"}, "spec": {"selector": selector}})
    await api.patch(f"{budgets}/b/status", {"status": {"disruptionsAllowed": 0}})
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web"}}
    answer = await api.call("POST", f"{PODS}/web/eviction", eviction)
    assert answer.status == 429
    await api.patch(f"{budgets}/b/status", {"status": {"disruptionsAllowed": 1}})
    await api.post(f"{PODS}/web/eviction", eviction)
    assert (await api.call("GET", f"{PODS}/web")).status == 404


async def test_many_writers_lose_nothing(api: Api) -> None:
    await api.post(CONFIG_MAPS, config("count"))
    path = f"{CONFIG_MAPS}/count"

    async def write(number: int) -> None:
        await api.patch(path, {"data": {f"k{number}": str(number)}})

    async with asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(write(number))
    assert len((await api.get(path))["data"]) == 40


async def test_unknown_and_repeated_fields_are_named_with_their_path(api: Api) -> None:
    body = deployment()
    body["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    answer = await api.call("POST", f"{DEPLOYMENTS}?fieldValidation=Strict", body)
    path = "spec.template.spec.containers[0].imagePullPolice"
    assert (answer.status, f'unknown field "{path}"' in answer.message) == (400, True)
    warned = await api.call("POST", f"{DEPLOYMENTS}?fieldValidation=Warn", body)
    assert warned.status == 201
    assert warned.warnings == [f"299 - \"unknown field '{path}'\""]
    twice = b'{"metadata":{"name":"x"},"data":{"a":"1","a":"2"}}'
    answer = await api.call("POST", f"{CONFIG_MAPS}?fieldValidation=Strict", twice)
    assert (answer.status, 'duplicate field "data.a"' in answer.message) == (400, True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"replicas": "three"}, "spec.replicas: expected an integer"),
        ({"template": {"spec": {"containers": [{"image": "x"}]}}}, "name: Required value"),
        ({"strategy": {"type": "Sideways"}}, 'Unsupported value: "Sideways"'),
    ],
)
async def test_mistakes_are_named(api: Api, change: Json, said: str) -> None:
    body = deployment()
    body["spec"] |= change
    answer = await api.call("POST", DEPLOYMENTS, body)
    assert answer.status in (400, 422)
    assert said in answer.message


async def test_wrong_types_are_refused_as_each_kind_of_object_is_read(api: Api) -> None:
    """Built-in kinds: 400, and 422 by a patch. Custom ones: 422, but their metadata 400."""
    built = deployment()
    mesh: Json = {"metadata": {"name": "x"}, "spec": {"hosts": ["a"]}}
    mesh["spec"]["http"] = [{"route": [{"destination": {"host": "a"}}]}]
    await api.post(DEPLOYMENTS, built)
    await api.post(VIRTUAL_SERVICES, mesh)
    wrong = {"spec": {"replicas": "three"}}
    place = f"{DEPLOYMENTS}/{built['metadata']['name']}"
    put = {**built, "spec": {**built["spec"], "replicas": "three"}}
    labels = {"metadata": {"name": "x", "labels": ["a"]}}
    for method, path, body, code, said in (
        ("PUT", place, put, 400, "spec.replicas: expected an integer"),
        ("PATCH", place, wrong, 422, "patch: Invalid value: spec.replicas"),
        ("PUT", place, {**put, **labels}, 400, "metadata.labels"),
        ("PUT", f"{VIRTUAL_SERVICES}/x", {**mesh, "spec": {"hosts": 7}}, 422, "spec.hosts"),
        ("PATCH", f"{VIRTUAL_SERVICES}/x", {"spec": {"hosts": 7}}, 422, "spec.hosts"),
        ("PUT", f"{VIRTUAL_SERVICES}/x", {**mesh, **labels}, 400, "metadata.labels"),
    ):
        if method == "PUT":
            version = (await api.get(path))["metadata"]["resourceVersion"]
            body["metadata"] = {**body["metadata"], "resourceVersion": version}
        media = MERGE if method == "PATCH" else "application/json"
        answer = await api.call(method, path, body, media=media)
        assert (answer.status, said in answer.message) == (code, True), (body, answer.raw)


async def test_what_is_out_of_scope_says_so(api: Api, pod: Json) -> None:
    await api.post(PODS, pod)
    for method, path, code in (
        ("GET", f"{PODS}/web/proxy", 405),
        ("GET", "/apis/extensions/v1beta1/ingresses", 404),
        ("GET", f"{PODS}/web/exec?command=ls", 400),
        ("POST", f"{PODS}/web", 405),
    ):
        answer = await api.call(method, path, {} if method == "PATCH" else None)
        assert answer.status in (code, 404), path
        assert answer.body["kind"] == "Status"
    cbor = await api.call("POST", CONFIG_MAPS, b"\xd9\xd9\xf7", media="application/cbor")
    assert cbor.status == 415


async def test_autoscalers_are_served_in_both_versions(api: Api) -> None:
    path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    spec = {"scaleTargetRef": target, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50}
    await api.post(path, {"metadata": {"name": "web"}, "spec": spec})
    second = await api.get(path.replace("/v1/", "/v2/") + "/web")
    [metric] = second["spec"]["metrics"]
    assert metric["resource"]["target"]["averageUtilization"] == 50
    assert (await api.get(f"{path}/web"))["spec"]["targetCPUUtilizationPercentage"] == 50

"""Server-side apply and who owns what."""

from typing import Any

from .conftest import APPLY, CONFIG_MAPS, DEPLOYMENTS, JSON_PATCH, SERVICES, Api, Json


def config(**data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": data}


def service(*ports: Json) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": list(ports)},
    }


def owners(data: Json) -> dict[tuple[str, str, str], Any]:
    return {
        (m["manager"], m["operation"], m.get("subresource", "")): m["fieldsV1"]
        for m in data["metadata"].get("managedFields", [])
    }


async def test_applying_twice_changes_nothing(api: Api) -> None:
    path = f"{CONFIG_MAPS}/one"
    first = await api.apply(path, config(a="1"))
    again = await api.apply(path, config(a="1"))
    assert again == first
    assert owners(first) == {("me", "Apply", ""): {"f:data": {"f:a": {}}}}


async def test_what_is_left_out_goes_unless_somebody_else_owns_it(api: Api) -> None:
    path = f"{CONFIG_MAPS}/one"
    await api.apply(path, config(a="1", b="2"))
    await api.apply(path, config(b="2", c="3"), "you")
    after = await api.apply(path, config(a="1"))
    assert after["data"] == {"a": "1", "b": "2", "c": "3"}
    after = await api.apply(path, config(c="3"), "you")
    assert after["data"] == {"a": "1", "c": "3"}
    after = await api.apply(path, config(), "you")
    after = await api.apply(path, config())
    assert not after.get("data")


async def test_a_conflict_names_manager_and_field(api: Api) -> None:
    path = f"{CONFIG_MAPS}/one"
    await api.apply(path, config(a="1"))
    answer = await api.call("PATCH", f"{path}?fieldManager=you", config(a="2"), media=APPLY)
    assert answer.status == 409
    assert answer.message == 'Apply failed with 1 conflict: conflict with "me" using v1: .data.a'
    [cause] = answer.body["details"]["causes"]
    assert (cause["reason"], cause["field"]) == ("FieldManagerConflict", ".data.a")
    assert (await api.get(path))["data"] == {"a": "1"}
    forced = await api.apply(path, config(a="2"), "you", force=True)
    assert forced["data"] == {"a": "2"}
    assert owners(forced) == {("you", "Apply", ""): {"f:data": {"f:a": {}}}}


async def test_agreeing_managers_share_a_field(api: Api) -> None:
    path = f"{CONFIG_MAPS}/one"
    await api.apply(path, config(a="1"))
    shared = await api.apply(path, config(a="1"), "you")
    assert len(owners(shared)) == 2
    after = await api.apply(path, config())
    assert after["data"] == {"a": "1"}


async def test_an_ordinary_write_takes_the_fields_it_changes(api: Api) -> None:
    path = f"{CONFIG_MAPS}/one"
    await api.apply(path, config(a="1", b="1"))
    after = await api.patch(f"{path}?fieldManager=edit", {"data": {"a": "2"}})
    assert owners(after) == {
        ("me", "Apply", ""): {"f:data": {"f:b": {}}},
        ("edit", "Update", ""): {"f:data": {"f:a": {}}},
    }
    answer = await api.call("PATCH", f"{path}?fieldManager=me", config(a="1", b="1"), media=APPLY)
    assert 'conflict with "edit" using v1: .data.a' in answer.message


async def test_list_items_are_owned_by_their_keys(api: Api) -> None:
    path = f"{SERVICES}/web"
    await api.apply(path, service({"name": "http", "port": 80}, {"name": "grpc", "port": 90}))
    after = await api.apply(path, service({"name": "admin", "port": 70, "protocol": "TCP"}), "you")
    assert [p["port"] for p in after["spec"]["ports"]] == [80, 90, 70]
    after = await api.apply(path, service({"name": "http", "port": 80}))
    assert [p["port"] for p in after["spec"]["ports"]] == [80, 70]
    mine = owners(after)["me", "Apply", ""]["f:spec"]["f:ports"]
    assert list(mine) == ['k:{"port":80,"protocol":"TCP"}']
    assert mine['k:{"port":80,"protocol":"TCP"}'] == {".": {}, "f:name": {}, "f:port": {}}


async def test_removing_an_item_leaves_no_debris(api: Api) -> None:
    path = f"{DEPLOYMENTS}/web"
    labels = {"app": "web"}

    def body(*ports: Json) -> Json:
        container = {"name": "main", "image": "echo:1", "ports": list(ports)}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
        return {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        }  # fmt: skip

    await api.apply(path, body({"containerPort": 80}, {"containerPort": 90}))
    after = await api.apply(path, body({"containerPort": 90}))
    [container] = after["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"containerPort": 90, "protocol": "TCP"}]
    after = await api.apply(path, body())
    [container] = after["spec"]["template"]["spec"]["containers"]
    assert not container.get("ports")


async def test_status_has_managers_of_its_own(api: Api) -> None:
    path = f"{SERVICES}/web"
    await api.apply(path, service({"port": 80}))
    status = {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "status": status}
    after = await api.apply(f"{path}/status", body, "lb")
    assert after["status"] == status
    assert ("lb", "Apply", "status") in owners(after)
    after = await api.apply(path, {**service({"port": 80}), "status": {}})
    assert after["status"] == status


async def test_atomic_lists_are_owned_whole(api: Api) -> None:
    path = "/apis/networking.istio.io/v1/namespaces/default/virtualservices/vs"
    body = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "vs"},
        "spec": {"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a"}}]}]},
    }
    made = await api.apply(path, body)
    assert owners(made)["me", "Apply", ""] == {"f:spec": {"f:hosts": {}, "f:http": {}}}
    body["spec"] = {"hosts": ["b"], "http": [{"route": [{"destination": {"host": "b"}}]}]}
    answer = await api.call("PATCH", f"{path}?fieldManager=you", body, media=APPLY)
    assert 'Apply failed with 2 conflicts: conflicts with "me" using networking.istio.io/v1:' in (
        answer.message
    )


async def test_an_object_from_before_belongs_to_before_first_apply(api: Api) -> None:
    path = f"{CONFIG_MAPS}/one"
    await api.post(CONFIG_MAPS, config(a="1"))
    gone = [{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]
    cleared = await api.patch(path, gone, JSON_PATCH)
    assert not owners(cleared)
    answer = await api.call("PATCH", f"{path}?fieldManager=me", config(a="2"), media=APPLY)
    assert 'conflict with "before-first-apply"' in answer.message


async def test_create_by_apply_needs_manager_kind_and_version(api: Api) -> None:
    path = f"{CONFIG_MAPS}/one"
    no_manager = await api.call("PATCH", path, config(), media=APPLY)
    assert (no_manager.status, "fieldManager" in no_manager.message) == (422, True)
    no_kind = await api.call("PATCH", f"{path}?fieldManager=me", {"data": {}}, media=APPLY)
    assert no_kind.status == 400
    versioned = config()
    versioned["metadata"]["resourceVersion"] = "1"
    missing = await api.call("PATCH", f"{path}?fieldManager=me", versioned, media=APPLY)
    assert missing.status in (404, 409)
    forced = await api.call("PATCH", f"{path}?force=true", {}, media="application/merge-patch+json")
    assert forced.status == 422

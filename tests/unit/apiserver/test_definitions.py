"""Custom kinds: served at once, held to their schema."""

from typing import Any

from .conftest import JSON_PATCH, STRATEGIC, Api, Json

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
BOATS = "/apis/example.com/v1/namespaces/default/boats"


def definition(**spec: Any) -> Json:
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["length"],
                "properties": {
                    "length": {
                        "type": "integer",
                        "minimum": 1,
                        "description": "Bow to stern.",
                    },
                    "sails": {"type": "integer", "default": 2},
                    "crew": {
                        "type": "array",
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["name"],
                        "items": {
                            "type": "object",
                            "required": ["name"],
                            "properties": {
                                "name": {"type": "string"},
                                "role": {"type": "string", "default": "sailor"},
                            },
                        },
                    },
                    "port": {"x-kubernetes-int-or-string": True},
                    "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
                "x-kubernetes-validations": [
                    {"rule": "self.sails <= self.length", "message": "too many sails"},
                    {"rule": "self.length == oldSelf.length", "message": "boats do not grow"},
                ],
            },
            "status": {
                "type": "object",
                "properties": {"sails": {"type": "integer"}, "selector": {"type": "string"}},
            },
        },
    }
    version = {
        "name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}, "scale": {
            "specReplicasPath": ".spec.sails", "statusReplicasPath": ".status.sails",
            "labelSelectorPath": ".status.selector"}},
        "additionalPrinterColumns": [
            {"name": "Length", "type": "integer", "jsonPath": ".spec.length"},
            {"name": "Captain", "type": "string",
             "jsonPath": '.spec.crew[?(@.role=="captain")].name'}],
    }  # fmt: skip
    names = {"plural": "boats", "kind": "Boat", "shortNames": ["bo"], "categories": ["all"]}
    return {
        "metadata": {"name": "boats.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names,
                 "versions": [version], **spec},
    }  # fmt: skip


def boat(name: str = "one", **spec: Any) -> Json:
    return {
        "apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": name},
        "spec": {"length": 9, **spec},
    }  # fmt: skip


async def define(api: Api, **spec: Any) -> None:
    """Make the kind and wait until it is established, as clients do."""
    async with api.watch(DEFINITIONS) as events:
        await api.post(DEFINITIONS, definition(**spec))
        async for event in events:
            conditions = (event["object"].get("status") or {}).get("conditions") or ()
            if any(c["type"] == "Established" and c["status"] == "True" for c in conditions):
                return


async def test_a_kind_is_served_once_it_is_established(api: Api) -> None:
    await define(api)
    made = await api.post(BOATS, boat(crew=[{"name": "Ann"}]))
    assert made["spec"]["sails"] == 2
    assert made["spec"]["crew"] == [{"name": "Ann", "role": "sailor"}]
    listed = await api.get("/apis/example.com/v1")
    assert {r["name"] for r in listed["resources"]} == {"boats", "boats/status", "boats/scale"}
    document = await api.get("/openapi/v3/apis/example.com/v1")
    schema = document["components"]["schemas"]["com.example.v1.Boat"]
    length = schema["properties"]["spec"]["properties"]["length"]
    assert length["description"] == "Bow to stern."


async def test_unknown_fields_are_pruned_except_where_they_are_kept(api: Api) -> None:
    await define(api)
    made = await api.post(BOATS, boat(wheels=4, extra={"anything": [1]}))
    assert "wheels" not in made["spec"]
    assert made["spec"]["extra"] == {"anything": [1]}
    answer = await api.call("POST", f"{BOATS}?fieldValidation=Strict", boat("two", wheels=4))
    assert (answer.status, 'unknown field "spec.wheels"' in answer.message) == (400, True)


async def test_schema_and_rules_are_held(api: Api) -> None:
    await define(api)
    for spec, said in (
        ({"length": 0}, "less than the minimum"),
        ({"length": 1, "sails": 3}, "too many sails"),
        ({"crew": [{"role": "cook"}]}, '"name" is a required property'),
        ({"crew": [{"name": "a"}, {"name": "a"}]}, "Duplicate value"),
    ):
        answer = await api.call("POST", BOATS, boat(**spec))
        assert (answer.status, said in answer.message) == (422, True), answer.message
    wrong = await api.call("POST", BOATS, boat(length="long"))
    assert (wrong.status, "spec.length" in wrong.message) == (422, True)
    await api.post(BOATS, boat())
    grown = await api.call(
        "PATCH", f"{BOATS}/one", {"spec": {"length": 10}}, media="application/merge-patch+json"
    )
    assert (grown.status, "boats do not grow" in grown.message) == (422, True)


async def test_rules_that_cannot_run_are_refused_with_the_definition(api: Api) -> None:
    for rule, said in (
        ("self.length >", "compilation failed"),
        ("self.length.sing()", "undeclared reference to 'sing'"),
    ):
        body = definition()
        schema = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        schema["properties"]["spec"]["x-kubernetes-validations"] = [{"rule": rule}]
        answer = await api.call("POST", DEFINITIONS, body)
        assert (answer.status, said in answer.message) == (422, True), answer.message


async def test_conversion_webhooks_are_refused(api: Api) -> None:
    answer = await api.call("POST", DEFINITIONS, definition(conversion={"strategy": "Webhook"}))
    assert (answer.status, "spec.conversion.strategy" in answer.message) == (422, True)


async def test_subresources_tables_and_patches(api: Api) -> None:
    await define(api)
    await api.post(
        BOATS, {**boat(crew=[{"name": "Ann", "role": "captain"}]), "status": {"sails": 9}}
    )
    path = f"{BOATS}/one"
    assert "status" not in await api.get(path)
    await api.patch(f"{path}/status", {"status": {"sails": 1, "selector": "a=b"}})
    scale = await api.get(f"{path}/scale")
    assert (scale["spec"]["replicas"], scale["status"]) == (2, {"replicas": 1, "selector": "a=b"})
    await api.patch(f"{path}/scale", {"spec": {"replicas": 3}})
    await api.patch(path, [{"op": "add", "path": "/spec/port", "value": "http"}], JSON_PATCH)
    after = await api.get(path)
    assert (after["spec"]["sails"], after["spec"]["port"]) == (3, "http")
    assert (await api.call("PATCH", path, {}, media=STRATEGIC)).status == 415
    shown = await api.call("GET", BOATS, accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    assert [c["name"] for c in shown.body["columnDefinitions"]] == ["Name", "Length", "Captain"]
    assert shown.body["rows"][0]["cells"] == ["one", 9, "Ann"]


async def test_apply_merges_keyed_lists_of_custom_kinds(api: Api) -> None:
    await define(api)
    await api.apply(f"{BOATS}/one", boat(crew=[{"name": "Ann"}]))
    after = await api.apply(f"{BOATS}/one", {**boat(), "spec": {"crew": [{"name": "Bob"}]}}, "you")
    assert [c["name"] for c in after["spec"]["crew"]] == ["Ann", "Bob"]
    after = await api.apply(f"{BOATS}/one", boat())
    assert [c["name"] for c in after["spec"]["crew"]] == ["Bob"]


async def test_a_definition_takes_its_objects_along(api: Api) -> None:
    await define(api)
    await api.post(BOATS, boat())
    await api.delete(f"{DEFINITIONS}/boats.example.com")
    await api.until_gone(f"{DEFINITIONS}/boats.example.com")
    assert (await api.call("GET", f"{BOATS}/one")).status == 404
    await define(api)
    assert (await api.get(BOATS))["items"] == []

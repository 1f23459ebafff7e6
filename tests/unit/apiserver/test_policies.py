"""Admission policies: what they see, where they count, and what follows from a breach."""

import json
from typing import Any

import pytest

from meltemi.local.apiserver.server import Running

from .conftest import CONFIG_MAPS, DEPLOYMENTS, Api, Json
from .test_security import bob, grant  # noqa: F401

GROUP = "/apis/admissionregistration.k8s.io/v1"
POLICIES = f"{GROUP}/validatingadmissionpolicies"
BINDINGS = f"{GROUP}/validatingadmissionpolicybindings"
EVERY = {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}
MAPS = {**EVERY, "apiGroups": [""], "resources": ["configmaps"]}


def policy(*validations: Any, rule: Json = MAPS, **spec: Any) -> Json:
    written = [{"expression": v} if isinstance(v, str) else v for v in validations]
    spec = {"matchConstraints": {"resourceRules": [rule]}, "validations": written, **spec}
    return {"metadata": {"name": "rules"}, "spec": spec}


def binding(*actions: str, **spec: Any) -> Json:
    spec = {"policyName": "rules", "validationActions": actions or ("Deny",), **spec}
    return {"metadata": {"name": "here"}, "spec": spec}


async def enforce(api: Api, made: Json, bound: Json | None = None) -> None:
    await api.post(POLICIES, made)
    await api.post(BINDINGS, bound or binding())


def config(name: str = "one", **data: str) -> Json:
    return {"metadata": {"name": name}, "data": data}


async def test_a_breach_is_refused_with_policy_binding_and_rule(api: Api) -> None:
    rule = {**EVERY, "apiGroups": ["apps"], "resources": ["deployments"]}
    await enforce(api, policy("object.spec.replicas <= 5", rule=rule))
    template = {"metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "main", "image": "x"}]}}  # fmt: skip
    spec = {"replicas": 6, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    body = {"metadata": {"name": "many"}, "spec": spec}
    answer = await api.call("POST", DEPLOYMENTS, body)
    assert (answer.status, answer.body["reason"]) == (422, "Invalid")
    assert answer.message == (
        "deployments.apps \"many\" is forbidden: ValidatingAdmissionPolicy 'rules' with binding "
        "'here' denied request: failed expression: object.spec.replicas <= 5"
    )
    await api.post(DEPLOYMENTS, {**body, "spec": {**spec, "replicas": 5}})
    scaled = await api.call("PATCH", f"{DEPLOYMENTS}/many", {"spec": {"replicas": 9}},
                            media="application/merge-patch+json")  # fmt: skip
    assert scaled.status == 422
    await api.post(CONFIG_MAPS, config())


async def test_messages_reasons_and_variables(api: Api) -> None:
    await enforce(
        api,
        policy(
            {
                "expression": "variables.size <= variables.most",
                "messageExpression": "'too many: ' + string(variables.size)",
                "reason": "Forbidden",
            },
            {"expression": "!('z' in object.data)", "message": "no z", "reason": "Unauthorized"},
            variables=[
                {"name": "size", "expression": "object.data.size()"},
                {"name": "most", "expression": "variables.size > 100 ? 0 : 2"},
                {"name": "unused", "expression": "object.data.nothing"},
            ],
        ),
    )
    answer = await api.call("POST", CONFIG_MAPS, config(a="1", b="2", c="3"))
    assert (answer.status, answer.message.rpartition("request: ")[2]) == (403, "too many: 3")
    answer = await api.call("POST", CONFIG_MAPS, config(z="1"))
    assert (answer.status, answer.message.rpartition("request: ")[2]) == (401, "no z")
    await api.post(CONFIG_MAPS, config(a="1"))


async def test_old_and_new_object_request_and_namespace_are_seen(api: Api) -> None:
    await enforce(
        api,
        policy(
            "request.operation != 'UPDATE' || object.data.a >= oldObject.data.a",
            "request.operation != 'DELETE' || (object == null && oldObject.data.a == '3')",
            "namespaceObject.metadata.name == request.namespace",
            "request.userInfo.username != ''",
        ),
    )
    await api.post(CONFIG_MAPS, config(a="2"))
    path = f"{CONFIG_MAPS}/one"
    merge = "application/merge-patch+json"
    assert (await api.call("PATCH", path, {"data": {"a": "1"}}, media=merge)).status == 422
    assert (await api.call("DELETE", path)).status == 422
    await api.patch(path, {"data": {"a": "3"}})
    await api.delete(path)


async def test_conditions_selectors_names_and_exclusions_narrow(api: Api) -> None:
    rules = {
        "resourceRules": [MAPS],
        "excludeResourceRules": [{**MAPS, "resourceNames": ["free"]}],
        "objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
    }
    made = policy(
        "false",
        matchConstraints=rules,
        matchConditions=[{"name": "not-mine", "expression": "!('mine' in object.data)"}],
    )
    narrower = {"resourceRules": [{**MAPS, "operations": ["CREATE"]}]}
    await enforce(api, made, binding(matchResources=narrower))
    assert (await api.call("POST", CONFIG_MAPS, config())).status == 422
    await api.post(CONFIG_MAPS, config("free"))
    await api.post(CONFIG_MAPS, config("own", mine="yes"))
    await api.patch(f"{CONFIG_MAPS}/own", {"data": {"mine": None}})
    skipped = {"metadata": {"name": "skipped", "labels": {"skip": "1"}}}
    await api.post(CONFIG_MAPS, skipped)
    elsewhere = CONFIG_MAPS.replace("default", "kube-public")
    await api.post(elsewhere, config())


async def test_parameters_come_from_objects_of_their_kind(api: Api) -> None:
    made = policy(
        {"expression": "object.data.size() <= int(params.data.most)",
         "messageExpression": "'at most ' + params.data.most"},
        matchConditions=[
            {"name": "no-limits", "expression": "!object.metadata.name.startsWith('limit')"}
        ],
        paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
    )  # fmt: skip
    selector = {"matchLabels": {"limit": "yes"}}
    reference = {"selector": selector, "parameterNotFoundAction": "Deny"}
    await enforce(api, made, binding(paramRef=reference))
    answer = await api.call("POST", CONFIG_MAPS, config())
    assert (answer.status, "no params found" in answer.message) == (422, True)
    await api.delete(f"{BINDINGS}/here")
    for name, most in (("limit-a", "9"), ("limit-b", "1")):
        labels = {"name": name, "labels": {"limit": "yes"}}
        await api.post(CONFIG_MAPS, {"metadata": labels, "data": {"most": most}})
    await api.post(BINDINGS, binding(paramRef=reference))
    answer = await api.call("POST", CONFIG_MAPS, config(a="1", b="2"))
    assert (answer.status, answer.message.endswith("at most 1")) == (422, True)
    await api.post(CONFIG_MAPS, config(a="1"))
    await api.delete(f"{BINDINGS}/here")
    absent = {"name": "absent", "namespace": "default", "parameterNotFoundAction": "Allow"}
    await api.post(BINDINGS, binding(paramRef=absent))
    await api.post(CONFIG_MAPS, config("two", a="1", b="2"))


async def test_warnings_and_notes_let_it_pass(api: Api, server: Running) -> None:
    made = policy(
        {"expression": "false", "message": "careful"},
        auditAnnotations=[{"key": "name", "valueExpression": "'it is ' + object.metadata.name"}],
    )
    await enforce(api, made, binding("Warn", "Audit"))
    answer = await api.call("POST", CONFIG_MAPS, config())
    assert answer.status == 201
    about = "ValidatingAdmissionPolicy 'rules' with binding 'here'"
    assert answer.warnings == [f'299 - "Validation failed for {about}: careful"']
    lines = (server.kubeconfig.parent / "audit.log").read_text().splitlines()
    noted = next(a for line in reversed(lines)
                 if "rules/name" in (a := json.loads(line)["annotations"]))  # fmt: skip
    assert noted["rules/name"] == "it is one"
    [failure] = json.loads(noted["validation.policy.admission.k8s.io/validation_failure"])
    assert (failure["message"], failure["policy"], failure["binding"]) == (
        "careful", "rules", "here",
    )  # fmt: skip


@pytest.mark.parametrize(("failure", "code"), [("Fail", 422), ("Ignore", 201)])
async def test_an_expression_that_fails_counts_by_the_failure_policy(
    api: Api, failure: str, code: int
) -> None:
    await enforce(api, policy("object.data.absent == 'x'", failurePolicy=failure))
    answer = await api.call("POST", CONFIG_MAPS, config())
    assert answer.status == code
    assert code == 201 or "resulted in error" in answer.message


async def test_the_authorizer_answers_for_the_caller_and_for_accounts(
    api: Api,
    bob: Api,  # noqa: F811
) -> None:
    await enforce(
        api,
        policy(
            "authorizer.requestResource.check('delete').allowed() || 'kept' in object.data",
            "!authorizer.serviceAccount('default', 'bob').group('').resource('secrets')"
            ".namespace('default').check('get').allowed()",
            "authorizer.path('/healthz').check('get').allowed()",
        ),
    )
    await grant(api, {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]})
    answer = await bob.call("POST", CONFIG_MAPS, config())
    assert (answer.status, "requestResource" in answer.message) == (422, True), answer.raw
    await bob.post(CONFIG_MAPS, config(kept="1"))
    await api.post(CONFIG_MAPS, config("two"))


async def test_policies_do_not_govern_themselves(api: Api) -> None:
    await enforce(api, policy("false", rule=EVERY))
    assert (await api.call("POST", CONFIG_MAPS, config())).status == 422
    await api.delete(f"{BINDINGS}/here")
    await api.delete(f"{POLICIES}/rules")
    await api.post(CONFIG_MAPS, config())


async def test_a_change_of_the_policy_counts_at_once(api: Api) -> None:
    await enforce(api, policy("'a' in object.data"))
    assert (await api.call("POST", CONFIG_MAPS, config(b="1"))).status == 422
    change = {"spec": {"validations": [{"expression": "'b' in object.data"}]}}
    await api.patch(f"{POLICIES}/rules", change)
    await api.post(CONFIG_MAPS, config(b="1"))


@pytest.mark.parametrize(
    ("made", "field", "said"),
    [
        (policy("object.data.paint()"), "validations[0].expression", "reference to 'paint'"),
        (policy("params.x"), "validations[0].expression", "reference to 'params'"),
        (policy("variables.x"), "validations[0].expression", "undefined field 'x'"),
        (policy("true", matchConstraints=None), "matchConstraints", "Required value"),
        (policy(), "spec.validations", "at least one item"),
        (policy({"expression": "true", "reason": "Mood"}), "validations[0].reason", "Mood"),
        (policy("true", variables=[{"name": "a b", "expression": "1"}]), "variables[0].name", ""),
        (
            policy("true", variables=[{"name": "a", "expression": "variables.b"},
                                      {"name": "b", "expression": "1"}]),
            "variables[0].expression", "undefined field 'b'",
        ),
        (policy("true", rule={"apiGroups": [""]}), "resourceRules[0].resources", "Required"),
        (policy("true", failurePolicy="Maybe"), "spec.failurePolicy", "supported values"),
    ],
)  # fmt: skip
async def test_mistakes_in_policies_are_named(api: Api, made: Json, field: str, said: str) -> None:
    answer = await api.call("POST", POLICIES, made)
    assert answer.status == 422, answer.raw
    assert field in answer.message
    assert said in answer.message


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (binding("Deny", "Warn"), "spec.validationActions"),
        (binding(policyName=""), "spec.policyName"),
        (binding(paramRef={"parameterNotFoundAction": "Deny"}), "spec.paramRef"),
        (binding(paramRef={"name": "x"}), "spec.paramRef.parameterNotFoundAction"),
    ],
)
async def test_mistakes_in_bindings_are_named(api: Api, made: Json, field: str) -> None:
    answer = await api.call("POST", BINDINGS, made)
    assert (answer.status, field in answer.message) == (422, True)


async def test_the_status_names_fields_that_no_object_has(api: Api) -> None:
    text = "object.spec.replicaz <= 5 && object.metadata.labels.a.startsWith('object.spec.b')"
    rule = {**EVERY, "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}
    await api.post(POLICIES, policy(text, rule=rule))
    async with api.watch(POLICIES, "fieldSelector=metadata.name=rules") as events:
        async for event in events:
            status = event["object"].get("status") or {}
            if "observedGeneration" in status:
                break
    [warning] = status["typeChecking"]["expressionWarnings"]
    assert warning == {
        "fieldRef": "spec.validations[0].expression",
        "warning": "apps/v1, Kind=Deployment: undefined field 'replicaz'",
    }

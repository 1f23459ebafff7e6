"""Who may do what: tokens, roles, reviews, impersonation, the audit log."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meltemi.kube.kubeconfig import access_from_file, ssl_context
from meltemi.local.apiserver.server import Running

from .conftest import CONFIG_MAPS, PODS, Api, Json

ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
ROLES = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles"
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings"
CLUSTER_ROLES = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
CLUSTER_BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
REVIEWS = "/apis/authorization.k8s.io/v1"
BOB = "system:serviceaccount:default:bob"


async def token(api: Api, account: str = "bob", **spec: Any) -> Json:
    return await api.post(f"{ACCOUNTS}/{account}/token", {"spec": spec})


@pytest.fixture
async def bob(api: Api, server: Running) -> AsyncIterator[Api]:
    """A client of a ServiceAccount that has no roles of its own."""
    await api.post(ACCOUNTS, {"metadata": {"name": "bob"}})
    made = await token(api)
    async with somebody(server, made["status"]["token"]) as found:
        yield found


@asynccontextmanager
async def somebody(server: Running, bearer: str) -> AsyncIterator[Api]:
    access = access_from_file(server.kubeconfig)
    import ssl

    context = ssl_context(access)
    plain = ssl.create_default_context(cafile=str(server.kubeconfig.parent / "pki/ca.crt"))
    assert context is not None
    found = Api(access.server, plain, bearer)
    yield found
    await found.session.close()


async def grant(api: Api, *rules: Json, to: str = "bob", names: str = "r") -> None:
    await api.post(ROLES, {"metadata": {"name": names}, "rules": list(rules)})
    await bind(api, {"kind": "Role", "name": names}, to, names)


async def bind(api: Api, role: Json, to: str, name: str) -> None:
    subject = {"kind": "ServiceAccount", "name": to, "namespace": "default"}
    body = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", **role},
        "subjects": [subject],
    }
    await api.post(BINDINGS, body)


def rule(resources: str, verbs: str, group: str = "", *names: str) -> Json:
    found: Json = {
        "apiGroups": [group], "resources": resources.split(), "verbs": verbs.split(),
    }  # fmt: skip
    return {**found, "resourceNames": list(names)} if names else found


async def test_nothing_is_allowed_without_a_rule(bob: Api) -> None:
    answer = await bob.call("GET", PODS)
    assert answer.status == 403
    assert answer.message == (
        f'pods is forbidden: User "{BOB}" cannot list resource "pods" in API group "" in the '
        'namespace "default"'
    )
    assert (await bob.call("GET", "/apis")).status == 200
    assert (await bob.call("GET", "/metrics")).status == 403


async def test_rules_name_verbs_resources_and_objects(api: Api, bob: Api) -> None:
    await grant(api, rule("configmaps", "get update", "", "mine"), rule("pods/log", "get"))
    for name in ("mine", "yours"):
        await api.post(CONFIG_MAPS, {"metadata": {"name": name}})
    assert (await bob.call("GET", f"{CONFIG_MAPS}/mine")).status == 200
    assert (await bob.call("GET", f"{CONFIG_MAPS}/yours")).status == 403
    assert (await bob.call("DELETE", f"{CONFIG_MAPS}/mine")).status == 403
    assert (await bob.call("GET", f"{PODS}/x/log")).status == 404
    assert (await bob.call("GET", f"{PODS}/x")).status == 403
    other = CONFIG_MAPS.replace("default", "kube-system")
    assert (await bob.call("GET", f"{other}/mine")).status == 403


async def test_a_rule_taken_away_no_longer_counts(api: Api, bob: Api) -> None:
    await grant(api, rule("configmaps", "list"))
    assert (await bob.call("GET", CONFIG_MAPS)).status == 200
    await api.delete(f"{BINDINGS}/r")
    assert (await bob.call("GET", CONFIG_MAPS)).status == 403


async def test_default_roles_gather_what_is_labelled_for_them(api: Api, bob: Api) -> None:
    await bind(api, {"kind": "ClusterRole", "name": "view"}, "bob", "v")
    rules = "/apis/networking.istio.io/v1/namespaces/default/virtualservices"
    assert (await bob.call("GET", PODS)).status == 200
    assert (await bob.call("GET", rules)).status == 200
    assert (await bob.call("GET", "/api/v1/namespaces/default/secrets")).status == 403
    path = f"{PODS}/x/exec"
    assert (await bob.call("GET", path)).status == 403
    boats = "/apis/example.com/v1/namespaces/default/boats"
    assert (await bob.call("GET", boats)).status == 403
    labels = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
    async with api.watch(CLUSTER_ROLES, "fieldSelector=metadata.name=edit") as events:
        await anext(events)
        more = {"metadata": {"name": "boats", "labels": labels},
                "rules": [rule("boats", "list", "example.com")]}  # fmt: skip
        await api.post(CLUSTER_ROLES, more)
        await anext(events)
    assert (await bob.call("GET", boats)).status == 404


async def test_nobody_grants_more_than_they_hold(api: Api, bob: Api) -> None:
    await grant(api, rule("roles rolebindings", "create", "rbac.authorization.k8s.io"),
                rule("pods", "get"))  # fmt: skip
    less = {"metadata": {"name": "less"}, "rules": [rule("pods", "get", "", "one")]}
    assert (await bob.call("POST", ROLES, less)).status == 201
    more = {"metadata": {"name": "more"}, "rules": [rule("secrets", "get")]}
    answer = await bob.call("POST", ROLES, more)
    assert answer.status == 403
    assert "attempting to grant RBAC permissions not currently held" in answer.message
    assert '{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}' in answer.message
    binding = {
        "metadata": {"name": "up"},
        "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "bob", "namespace": "default"}],
    }
    assert (await bob.call("POST", BINDINGS, binding)).status == 403
    await grant(api, rule("clusterroles", "bind", "rbac.authorization.k8s.io"), names="binder")
    assert (await bob.call("POST", BINDINGS, binding)).status == 201


async def test_reviews_answer_for_oneself_and_others(api: Api, bob: Api) -> None:
    await grant(api, rule("pods", "list"))
    asked = {"verb": "list", "resource": "pods", "namespace": "default"}
    mine = await bob.post(
        f"{REVIEWS}/selfsubjectaccessreviews", {"spec": {"resourceAttributes": asked}}
    )
    assert mine["status"]["allowed"]
    assert 'RoleBinding "r/default" of Role "r"' in mine["status"]["reason"]
    spec = {"user": BOB, "resourceAttributes": {**asked, "verb": "delete"}}
    other = await api.post(f"{REVIEWS}/subjectaccessreviews", {"spec": spec})
    assert not other["status"]["allowed"]
    path = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews"
    local = await api.post(path, {"spec": {"user": BOB, "resourceAttributes": asked}})
    assert local["status"]["allowed"]
    assert (await bob.call("POST", f"{REVIEWS}/subjectaccessreviews", {"spec": spec})).status == 403
    rules = await bob.post(f"{REVIEWS}/selfsubjectrulesreviews", {"spec": {"namespace": "default"}})
    assert {"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]} in (
        rules["status"]["resourceRules"]
    )
    who = await bob.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    assert who["status"]["userInfo"]["username"] == BOB


async def test_acting_for_somebody_needs_permission(api: Api, bob: Api) -> None:
    def as_user(name: str) -> Json:
        return {"Impersonate_User": name}

    answer = await api.call("GET", PODS, **as_user(BOB))
    assert answer.status == 403
    assert f'User "{BOB}"' in answer.message
    refused = await bob.call("GET", PODS, **as_user("kubernetes-admin"))
    assert refused.status == 403
    assert 'cannot impersonate resource "users"' in refused.message
    await grant(api, rule("users", "impersonate", "", "ann"), names="imp")
    # Users are not in a namespace: a Role cannot allow it.
    assert (await bob.call("GET", PODS, **as_user("ann"))).status == 403


async def test_tokens_are_bound_to_audience_and_pod(api: Api, bob: Api, pod: Json) -> None:
    made = await api.post(PODS, pod)
    reference = {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": made["metadata"]["uid"]}
    issued = await token(api, audiences=["istio-ca"], boundObjectRef=reference)
    review = "/apis/authentication.k8s.io/v1/tokenreviews"

    async def reviewed(*audiences: str) -> Json:
        spec = {"token": issued["status"]["token"], "audiences": list(audiences)}
        status: Json = (await api.post(review, {"spec": spec}))["status"]
        return status

    status = await reviewed("istio-ca")
    assert status["authenticated"]
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["web"]
    assert not (await reviewed("other"))["authenticated"]
    assert not (await reviewed())["authenticated"], "it is not for the API itself"
    await api.delete(f"{PODS}/web")
    assert not (await reviewed("istio-ca"))["authenticated"]
    late = await api.call("POST", f"{ACCOUNTS}/bob/token", {"spec": {"boundObjectRef": reference}})
    assert late.status == 404
    short = await api.call("POST", f"{ACCOUNTS}/bob/token", {"spec": {"expirationSeconds": 60}})
    assert short.status == 422


async def test_a_token_ends_with_its_account(api: Api, bob: Api) -> None:
    assert (await bob.call("GET", "/apis")).status == 200
    await api.delete(f"{ACCOUNTS}/bob")
    assert (await bob.call("GET", "/apis")).status == 401


@pytest.mark.parametrize("bearer", ["x", "a.b.c", "eyJhbGciOiJub25lIn0.e30."])
async def test_bad_tokens_are_refused(server: Running, bearer: str) -> None:
    async with somebody(server, bearer) as anybody:
        assert (await anybody.call("GET", PODS)).status == 401


async def test_strangers_see_the_version_only(server: Running) -> None:
    async with somebody(server, "") as stranger:
        assert (await stranger.call("GET", "/version")).status == 200
        assert (await stranger.call("GET", "/livez")).status == 200
        assert (await stranger.call("GET", "/api")).status == 401


async def test_the_audit_log_says_who_did_what_and_no_secrets(
    api: Api, bob: Api, server: Running
) -> None:
    secret = {"metadata": {"name": "s"}, "stringData": {"word": "hush-hush"}}
    await api.post("/api/v1/namespaces/default/secrets", secret)
    await bob.call("GET", "/api/v1/namespaces/default/secrets/s")
    issued = await token(api)
    path = Path(server.kubeconfig).parent / "audit.log"
    text = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "hush-hush" not in text
    assert "aHVzaC1odXNo" not in text
    assert issued["status"]["token"] not in text
    lines = [json.loads(line) for line in text.splitlines()]
    denied = next(e for e in lines if e["user"]["username"] == BOB and "objectRef" in e)
    assert (denied["verb"], denied["responseStatus"]["code"]) == ("get", 403)
    assert denied["annotations"]["authorization.k8s.io/decision"] == "forbid"
    assert denied["objectRef"]["resource"] == "secrets"
    made = next(e for e in lines if e.get("objectRef", {}).get("subresource") == "token")
    assert made["verb"] == "create"

"""Pods and their ServiceAccounts."""

import pytest

from .conftest import PODS, Api, Json

MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


async def test_every_container_gets_token_root_and_namespace(api: Api, pod: Json) -> None:
    pod["spec"]["initContainers"] = [{"name": "first", "image": "echo:1"}]
    made = await api.post(PODS, pod)
    assert made["spec"]["serviceAccountName"] == "default"
    [volume] = made["spec"]["volumes"]
    assert volume["name"].startswith("kube-api-access-")
    token, root, namespace = volume["projected"]["sources"]
    assert token["serviceAccountToken"]["path"] == "token"
    assert root["configMap"]["name"] == "kube-root-ca.crt"
    assert namespace["downwardAPI"]["items"][0]["path"] == "namespace"
    for container in (*made["spec"]["initContainers"], *made["spec"]["containers"]):
        [mount] = container["volumeMounts"]
        assert (mount["mountPath"], mount["readOnly"]) == (MOUNT, True)


@pytest.mark.parametrize("where", ["pod", "account"])
async def test_no_token_where_it_is_not_wanted(api: Api, pod: Json, where: str) -> None:
    account = {"metadata": {"name": "quiet"}, "automountServiceAccountToken": where != "account"}
    await api.post("/api/v1/namespaces/default/serviceaccounts", account)
    pod["spec"]["serviceAccountName"] = "quiet"
    if where == "pod":
        pod["spec"]["automountServiceAccountToken"] = False
    made = await api.post(PODS, pod)
    assert "volumes" not in made["spec"]


async def test_a_mount_of_ones_own_is_kept(api: Api, pod: Json) -> None:
    pod["spec"]["volumes"] = [{"name": "mine", "emptyDir": {}}]
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "mine", "mountPath": MOUNT}]
    made = await api.post(PODS, pod)
    assert [v["name"] for v in made["spec"]["volumes"]] == ["mine"]


async def test_an_unknown_account_is_refused(api: Api, pod: Json) -> None:
    pod["spec"]["serviceAccountName"] = "nobody"
    answer = await api.call("POST", PODS, pod)
    assert answer.status == 403
    assert 'serviceaccount "nobody" not found' in answer.message


async def test_the_root_is_put_back_into_every_namespace(api: Api) -> None:
    maps = "/api/v1/namespaces/shop/configmaps"
    await api.post("/api/v1/namespaces", {"metadata": {"name": "shop"}})
    async with api.watch(maps) as events:
        first = (await anext(events))["object"]
        assert first["metadata"]["name"] == "kube-root-ca.crt"
        assert first["data"]["ca.crt"].startswith("-----BEGIN CERTIFICATE")
        await api.delete(f"{maps}/kube-root-ca.crt")
        assert (await anext(events))["type"] == "DELETED"
        again = await anext(events)
    assert again["type"] == "ADDED"
    assert again["object"]["data"] == first["data"]

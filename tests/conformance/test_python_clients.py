"""Ordinary Python clients, as their users write them."""

import asyncio
import contextlib
from typing import Any

import pytest

from .conftest import Cluster

pytestmark = pytest.mark.filterwarnings("default")
RULE = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "DestinationRule",
    "spec": {"host": "a"},
}


def test_the_official_client(cluster: Cluster) -> None:
    kubernetes = pytest.importorskip("kubernetes")
    kubernetes.config.load_kube_config(str(cluster.kubeconfig))
    core, space = kubernetes.client.CoreV1Api(), cluster.namespace
    meta = kubernetes.client.V1ObjectMeta(generate_name="py-", labels={"by": "kubernetes"})
    made = core.create_namespaced_config_map(
        space, kubernetes.client.V1ConfigMap(metadata=meta, data={"a": "1"})
    )
    name = made.metadata.name
    core.patch_namespaced_config_map(name, space, {"data": {"b": "2"}})
    made.data["a"] = "3"
    with pytest.raises(kubernetes.client.ApiException) as conflict:
        core.replace_namespaced_config_map(name, space, made)
    assert conflict.value.status == 409
    listed = core.list_namespaced_config_map(space, label_selector="by=kubernetes")
    assert [item.data for item in listed.items] == [{"a": "1", "b": "2"}]
    watch = kubernetes.watch.Watch()
    seen = [
        event["type"]
        for event in watch.stream(
            core.list_namespaced_config_map, space, label_selector="by=kubernetes",
            timeout_seconds=1,
        )
    ]  # fmt: skip
    assert seen[:1] == ["ADDED"]
    custom = kubernetes.client.CustomObjectsApi()
    place = ("networking.istio.io", "v1", space, "destinationrules")
    custom.create_namespaced_custom_object(*place, {**RULE, "metadata": {"name": "py"}})
    found = custom.get_namespaced_custom_object(*place, "py")
    assert found["spec"] == {"host": "a"}
    custom.delete_namespaced_custom_object(*place, "py")
    core.delete_namespaced_config_map(name, space)
    dynamic = kubernetes.dynamic.DynamicClient(kubernetes.client.ApiClient())
    maps = dynamic.resources.get(api_version="v1", kind="ConfigMap")
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "dyn"},
        "data": {"x": "y"},
    }
    applied = maps.server_side_apply(body=body, name="dyn", namespace=space, field_manager="py")
    assert applied.data.x == "y"


async def test_the_official_client_on_asyncio(cluster: Cluster) -> None:
    library = pytest.importorskip("kubernetes_asyncio")
    configuration = library.client.Configuration()
    await library.config.load_kube_config(
        str(cluster.kubeconfig), client_configuration=configuration
    )
    async with library.client.ApiClient(configuration) as api:
        core = library.client.CoreV1Api(api)
        body = {"metadata": {"name": "aio", "labels": {"by": "aio"}}, "data": {"a": "1"}}
        await core.create_namespaced_config_map(cluster.namespace, body)
        watch = library.watch.Watch()
        async with watch.stream(
            core.list_namespaced_config_map, cluster.namespace, label_selector="by=aio"
        ) as events:
            event = await anext(aiter(events))
        assert (event["type"], event["object"].data) == ("ADDED", {"a": "1"})
        listed = await core.list_namespaced_config_map(cluster.namespace, limit=1)
        assert len(listed.items) == 1
        await core.delete_namespaced_config_map("aio", cluster.namespace)


async def test_lightkube(cluster: Cluster) -> None:
    lightkube = pytest.importorskip("lightkube")
    from lightkube.models.meta_v1 import ObjectMeta
    from lightkube.resources.core_v1 import ConfigMap

    config = lightkube.KubeConfig.from_file(str(cluster.kubeconfig))
    client = lightkube.AsyncClient(config=config, namespace=cluster.namespace, field_manager="lk")
    body = ConfigMap(
        apiVersion="v1", kind="ConfigMap",
        metadata=ObjectMeta(name="light", namespace=cluster.namespace, labels={"by": "lk"}),
        data={"a": "1"},
    )  # fmt: skip
    applied = await client.apply(body)
    assert applied.data == {"a": "1"}
    patched = await client.patch(ConfigMap, "light", {"data": {"b": "2"}})
    assert patched.data == {"a": "1", "b": "2"}
    names = [o.metadata.name async for o in client.list(ConfigMap, labels={"by": "lk"})]
    assert names == ["light"]
    watching = client.watch(ConfigMap, labels={"by": "lk"})
    word, found = await asyncio.wait_for(anext(aiter(watching)), 5)
    assert (word, found.metadata.name) == ("ADDED", "light")
    await watching.aclose()
    await client.delete(ConfigMap, "light")
    with pytest.raises(lightkube.ApiError) as missing:
        await client.get(ConfigMap, "light")
    assert missing.value.status.code == 404
    with contextlib.suppress(AttributeError):
        await client.close()


async def test_kr8s(cluster: Cluster) -> None:
    kr8s: Any = pytest.importorskip("kr8s")
    from kr8s.asyncio.objects import ConfigMap

    api = await kr8s.asyncio.api(kubeconfig=str(cluster.kubeconfig), namespace=cluster.namespace)
    assert (await api.version())["major"] == "1"
    meta = {"name": "kr", "namespace": cluster.namespace, "labels": {"by": "kr8s"}}
    made = await ConfigMap({"metadata": meta, "data": {"a": "1"}}, api=api)
    await made.create()
    await made.patch({"data": {"b": "2"}})
    found = [o async for o in api.get("configmaps", label_selector={"by": "kr8s"})]
    assert [o.raw["data"] for o in found] == [{"a": "1", "b": "2"}]
    await made.delete()
    assert not await made.exists()

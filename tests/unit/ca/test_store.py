"""The root is created once, found again, and never replaced silently."""

import asyncio
import base64
import datetime
import random

import pytest

from meltemi.ca import sign, store
from meltemi.ca.errors import BadAuthority

SECRET = "/api/v1/namespaces/istio-system/secrets/istio-ca-secret"
PLUGGED = "/api/v1/namespaces/istio-system/secrets/cacerts"


async def test_the_root_is_created_and_found_again(api, client, clock) -> None:
    first = await store.load_or_create(client, clock, trust_domain="cluster.local")
    second = await store.load_or_create(client, clock, trust_domain="cluster.local")
    assert first.roots == second.roots
    assert set(api.objects[SECRET]["data"]) == {"ca-cert.pem", "ca-key.pem"}
    assert "/api/v1/namespaces/istio-system" in api.objects


async def test_two_control_planes_agree_on_one_root(client, clock) -> None:
    load = [store.load_or_create(client, clock, trust_domain="cluster.local") for _ in range(2)]
    one, other = await asyncio.gather(*load)
    assert one.roots == other.roots


async def test_a_plugged_in_authority_wins(api, client, clock, root) -> None:
    data = {
        "ca-cert.pem": root.roots,
        "ca-key.pem": sign.key_pem(root.key),
        "root-cert.pem": root.roots,
    }
    encoded = {name: base64.b64encode(value).decode() for name, value in data.items()}
    api.objects[PLUGGED] = {"data": encoded}
    authority = await store.load_or_create(client, clock, trust_domain="cluster.local")
    assert authority.roots == root.roots
    del encoded["ca-key.pem"]
    with pytest.raises(BadAuthority, match=r"cacerts.istio-system: data\[ca-key.pem\]"):
        await store.load_or_create(client, clock, trust_domain="cluster.local")


async def test_an_expired_root_is_reported_not_replaced(client, clock) -> None:
    await store.load_or_create(client, clock, trust_domain="cluster.local")
    clock.time += datetime.timedelta(days=3651)
    with pytest.raises(BadAuthority, match="replace it"):
        await store.load_or_create(client, clock, trust_domain="cluster.local")


async def test_the_root_is_published_in_new_namespaces_and_put_back_when_changed(
    api, client
) -> None:
    def event(kind: str, name: str, namespace: str = "") -> dict:
        meta = {"name": name, "namespace": namespace, "resourceVersion": "2"}
        return {"type": "ADDED", "object": {"kind": kind, "metadata": meta}}

    path = "/api/v1/namespaces/shop/configmaps/istio-ca-root-cert"
    publisher = store.RootPublisher(client, lambda: b"PEM", random=random.Random(1))
    task = asyncio.create_task(publisher.run())
    api.events["/api/v1/namespaces"].put_nowait(event("Namespace", "shop"))
    assert await asyncio.wait_for(api.written.get(), 5) == path
    assert api.objects[path]["data"] == {"root-cert.pem": "PEM"}

    api.objects[path]["data"] = {"root-cert.pem": "forged"}
    api.events["/api/v1/configmaps"].put_nowait(event("ConfigMap", "istio-ca-root-cert", "shop"))
    assert await asyncio.wait_for(api.written.get(), 5) == path
    assert api.objects[path]["data"] == {"root-cert.pem": "PEM"}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

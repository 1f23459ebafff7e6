"""The root is created once, found again, and never replaced silently."""

import asyncio
import base64
import datetime

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

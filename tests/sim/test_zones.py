"""Zone-aware load balancing: a real Envoy that knows its peers prefers its own zone, and sends no
more there than its endpoints' share can bear."""

import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from meltemi.base.keys import ObjectKey
from meltemi.protos import load
from meltemi.proxy.envoy import envoy_path
from meltemi.simulate.request import Request
from meltemi.simulate.world import World, node_of

from .given import Given
from .real.lab import Lab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.asyncio(loop_scope="module"),
]
Json = dict[str, Any]
HERE, THERE, FAR, FARTHER = "r1.z1", "r1.z2", "r2.z1", "r3.z1"
MANY = 200


def mesh(
    peers: list[str], servers: list[str], setting: Json | None = None
) -> dict[ObjectKey, bytes]:
    """The client and its peers, and as many servers, each at a place."""
    given = Given()
    pods: Json = {"client": {"labels": {"istio-locality": HERE}}}
    for i, place in enumerate(peers):
        pods[f"client-{i}"] = {"app": "client", "labels": {"istio-locality": place}}
    for i, place in enumerate(servers):
        pods[f"box-{i}"] = {"app": "box", "labels": {"istio-locality": place}}
    given.add({"pods": pods, "services": {"box": {"ports": {"http": 8080}}}})
    if setting is not None:
        balancer = {"simple": "ROUND_ROBIN", "zoneAwareLbSetting": setting}
        spec = {"host": "box", "trafficPolicy": {"loadBalancer": balancer}}
        rule = {"kind": "DestinationRule", "metadata": {"name": "box"}, "spec": spec}
        given.add({"objects": [rule]})
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "client", "controller": True}
    found = {}
    for document in given.documents():
        meta = document["metadata"]
        if document["kind"] == "Pod" and meta["name"].startswith("client"):
            meta["ownerReferences"] = [owner]
        key = ObjectKey(document["kind"], meta.get("namespace", ""), meta["name"])
        found[key] = json.dumps(document).encode()
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    identities = sorted({w.identity for w in World(mesh([], [HERE])).model.workloads.values()})
    protos = load(envoy_path(), tmp_path_factory.mktemp("descriptors"))
    async with Lab(tmp_path_factory.mktemp("zones"), protos, identities, place=HERE) as made:
        yield made


async def shares(lab: Lab, objects: dict[ObjectKey, bytes]) -> Counter[str]:
    """How many of the requests were answered in each place."""
    world = World(objects)
    node = node_of(world.workload("client"), "cluster.local")
    metadata = {**node.metadata, "ENABLE_SELF_DISCOVERY": "true"}
    await lab.configure(objects, msgspec.structs.replace(node, metadata=metadata), None)
    places = {w.address: w.locality for w in world.model.workloads.values()}
    found: Counter[str] = Counter()
    for _ in range(MANY):
        answer = await lab.send("10.43.0.1", 8080, Request("box"))
        assert answer.status == 200, answer
        address = json.loads(answer.body)["address"].rpartition(":")[0]
        found[places[address].replace("/", ".")] += 1
    return found


ZONES = {"enabled": True, "minClusterSize": 2}


async def test_requests_stay_in_their_zone_while_it_can_bear_them(lab: Lab) -> None:
    """With half of the clients here, half of the servers can; of fewer some go elsewhere."""
    assert set(await shares(lab, mesh([THERE], [HERE, THERE] * 3, ZONES))) == {HERE}
    found = await shares(lab, mesh([THERE], [HERE, *[THERE] * 3], ZONES))
    assert 0.3 < found[HERE] / MANY < 0.7, found


async def test_without_the_setting_zones_are_alike(lab: Lab) -> None:
    both = [HERE, THERE] * 4
    for setting in (None, {"enabled": False}, {"enabled": True, "minClusterSize": 20}):
        found = await shares(lab, mesh([THERE], both, setting))
        assert 0.3 < found[HERE] / MANY < 0.7, (setting, found)
    assert set(await shares(lab, mesh([THERE], both, {"enabled": True}))) == {HERE}


async def test_other_regions_wait_until_the_own_one_fails(lab: Lab) -> None:
    found = await shares(lab, mesh([THERE], [HERE, THERE, FAR, FAR], ZONES))
    assert set(found) == {HERE}
    assert set(await shares(lab, mesh([THERE], [FAR, FARTHER], ZONES))) == {FAR, FARTHER}
    failing = ZONES | {"failover": [{"from": "r1", "to": "r3"}]}
    assert set(await shares(lab, mesh([THERE], [FAR, FARTHER], failing))) == {FARTHER}

"""What was learned survives the control plane."""

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest

from meltemi.app.engine import Engine
from meltemi.app.memory import Memory
from meltemi.base.keys import ObjectKey
from meltemi.compile.demand.learn import KIND
from meltemi.compile.settings import MeshSettings
from meltemi.kube.client import Client
from meltemi.kube.errors import NotFound
from meltemi.model.build import Domain
from meltemi.protos import load
from meltemi.proxy.envoy import envoy_path

WORKLOAD = ObjectKey(KIND, "shop", "web")


class Api:
    """Holds ConfigMaps, as far as Memory asks."""

    def __init__(self) -> None:
        self.found: dict[ObjectKey, dict[str, Any]] = {}
        self.written = asyncio.Event()

    async def get(self, key: ObjectKey) -> dict[str, Any]:
        if key not in self.found:
            raise NotFound(404, "NotFound", "not there")
        return self.found[key]

    async def apply(self, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        meta = body["metadata"]
        self.found[ObjectKey("ConfigMap", meta["namespace"], meta["name"])] = body
        self.written.set()
        return body


@pytest.fixture
def engines(tmp_path: Path) -> tuple[Engine, Engine]:
    protos = load(envoy_path(), tmp_path)

    def make() -> Engine:
        return Engine(protos, Domain(), MeshSettings(), lambda _change: None)

    return make(), make()


async def test_names_are_written_and_recalled(engines: tuple[Engine, Engine]) -> None:
    first, second = engines
    api = Api()
    memory = Memory(cast(Client, api), first, "istio-system")
    await memory.recall()
    first.demands.set(WORKLOAD, frozenset({"80/cart", "80/pay:80"}))
    task = asyncio.create_task(memory.run(), name="memory")
    await first.propagate()
    await api.written.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    kept = api.found[ObjectKey("ConfigMap", "istio-system", "meltemi-learned")]
    assert json.loads(kept["data"]["shop.web"]) == ["80/cart", "80/pay:80"]
    await Memory(cast(Client, api), second, "istio-system").recall()
    assert second.demands.get(WORKLOAD) == frozenset({"80/cart", "80/pay:80"})


async def test_what_cannot_be_read_is_learned_again(engines: tuple[Engine, Engine]) -> None:
    api = Api()
    key = ObjectKey("ConfigMap", "istio-system", "meltemi-learned")
    api.found[key] = {"data": {"shop.web": "not json", "shop.cart": '["80/pay"]'}}
    await Memory(cast(Client, api), engines[0], "istio-system").recall()
    assert set(engines[0].demands) == {ObjectKey(KIND, "shop", "cart")}


async def test_a_workload_may_not_learn_without_end(engines: tuple[Engine, Engine]) -> None:
    from meltemi.app.engine import MOST_NAMES
    from meltemi.base.resource import node_from_id

    engine = engines[0]
    node = "sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local"
    told = {"WORKLOAD_NAME": "web", "ANNOTATIONS": {"meltemi.dev/scope": "on-demand"}}
    engine.connect(node_from_id(node, {}, told))
    await engine.propagate()
    assert engine.demand(node, [f"80/h{n}" for n in range(MOST_NAMES)])
    assert not engine.demand(node, ["80/one-more"])
    assert len(engine.demands.get(WORKLOAD) or ()) == MOST_NAMES

"""What the control plane does with ServiceEntries and WorkloadEntries beside compiling them."""

import json
from pathlib import Path
from typing import Any

import pytest

from meltemi.app.engine import Engine
from meltemi.app.entry_addresses import EntryAddresses
from meltemi.app.entry_grace import GRACE, EntryGrace
from meltemi.base.keys import ObjectKey
from meltemi.base.resource import node_from_id
from meltemi.compile.settings import MeshSettings
from meltemi.model.build import Domain
from meltemi.protos import Protos, load
from meltemi.proxy.envoy import envoy_path


@pytest.fixture(scope="module")
def protos(tmp_path_factory: pytest.TempPathFactory) -> Protos:
    return load(envoy_path(), tmp_path_factory.mktemp("descriptors"))


@pytest.fixture
def engine(protos: Protos, tmp_path: Path) -> Engine:
    return Engine(protos, Domain(), MeshSettings(), lambda _change: None)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def put(engine: Engine, kind: str, name: str, **body: Any) -> ObjectKey:
    key = ObjectKey(kind, "shop", name)
    meta = {"name": name, "namespace": "shop", **body.pop("metadata", {})}
    engine.objects.raw[kind].set(key, json.dumps({"kind": kind, "metadata": meta, **body}).encode())
    engine.graph.propagate()
    return key


def test_allocated_addresses_are_written_once_and_others_left_alone(engine: Engine) -> None:
    spec = {
        "hosts": ["a.example.com"],
        "resolution": "STATIC",
        "ports": [{"number": 1, "name": "a"}],
    }
    foreign = {"value": "192.0.2.1", "host": "a.example.com"}
    key = put(engine, "ServiceEntry", "a", spec=spec, status={"addresses": [foreign]})
    writer = EntryAddresses(engine, None)  # type: ignore[arg-type]
    ((found, status),) = writer.outdated()
    assert found == key
    written = status["addresses"]
    assert written[0]["value"] == "192.0.2.1"
    assert [
        a["value"].startswith(p) for a, p in zip(written[1:], ("240.240.", "2001:2:"), strict=True)
    ]
    put(engine, "ServiceEntry", "a", spec=spec, status={"addresses": written})
    assert list(writer.outdated()) == []
    put(
        engine,
        "ServiceEntry",
        "a",
        spec={**spec, "addresses": ["10.0.0.1"]},
        status={"addresses": written},
    )
    ((_, kept),) = writer.outdated()
    assert [a["value"] for a in kept["addresses"]] == ["192.0.2.1"]


def test_a_member_keeps_its_place_for_a_while(engine: Engine) -> None:
    clock = Clock()
    grace = EntryGrace(engine, None, clock)  # type: ignore[arg-type]
    mark = {"annotations": {"istio.io/workloadController": "meltemi"}}
    member = put(engine, "WorkloadEntry", "vm-1", metadata=mark, spec={"address": "10.46.0.2"})
    put(engine, "WorkloadEntry", "by-hand", spec={"address": "10.46.0.3"})
    node = node_from_id("sidecar~10.46.0.2~vm-1.shop~shop.svc.cluster.local", {}, {})
    engine.proxies.set(node.id, node)
    clock.now = 2 * GRACE
    assert list(grace.expired()) == []
    engine.proxies.drop(node.id)
    assert list(grace.expired()) == []
    clock.now += GRACE - 1
    assert list(grace.expired()) == []
    engine.proxies.set(node.id, node)
    assert list(grace.expired()) == []
    engine.proxies.drop(node.id)
    assert list(grace.expired()) == []
    clock.now += GRACE
    assert list(grace.expired()) == [member]

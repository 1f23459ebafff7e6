"""What the webhook is told, from the objects as they are now."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from meltemi.app.engine import Engine
from meltemi.app.injection import Injection
from meltemi.base.keys import ObjectKey
from meltemi.compile.settings import MeshSettings
from meltemi.inject.patch import InjectConfig
from meltemi.model.build import Domain
from meltemi.protos import Protos, load
from meltemi.proxy.envoy import envoy_path


@pytest.fixture(scope="module")
def protos(tmp_path_factory: pytest.TempPathFactory) -> Protos:
    return load(envoy_path(), Path(tmp_path_factory.mktemp("descriptors")))


@pytest.fixture
def engine(protos: Protos) -> Engine:
    return Engine(protos, Domain(), MeshSettings(), lambda _change: None)


def put(engine: Engine, text: str) -> None:
    for document in yaml.safe_load_all(text):
        meta: dict[str, Any] = document["metadata"]
        key = ObjectKey(document["kind"], meta["namespace"], meta["name"])
        engine.objects.raw[key.kind].set(key, json.dumps(document).encode())
    engine.graph.propagate()


def config(engine: Engine, protos: Protos, *, gateway: bool = False) -> InjectConfig:
    injection = Injection(engine, protos, InjectConfig())
    return injection.config("shop", {"app": "a"}, gateway=gateway)


MESH = """
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    enablePrometheusMerge: %s
    defaultConfig: {concurrency: 2, proxyMetadata: {A: mesh}}
---
kind: ProxyConfig
metadata: {name: p, namespace: shop}
spec: {selector: {matchLabels: {app: a}}, concurrency: 4}
"""


def test_the_mesh_decides_about_merged_metrics(engine: Engine, protos: Protos) -> None:
    assert config(engine, protos).merges_metrics is True
    put(engine, MESH % "false")
    assert config(engine, protos).merges_metrics is False


def test_settings_come_from_the_mesh_and_its_objects(engine: Engine, protos: Protos) -> None:
    put(engine, MESH % "true")
    found = config(engine, protos).proxy
    assert found == {"concurrency": 4, "proxyMetadata": {"A": "mesh"}}


def test_bootstrap_patches_are_those_that_select_the_pod(engine: Engine, protos: Protos) -> None:
    put(
        engine,
        """
kind: EnvoyFilter
metadata: {name: f, namespace: shop}
spec:
  workloadSelector: {labels: {app: a}}
  configPatches:
  - applyTo: BOOTSTRAP
    patch: {operation: MERGE, value: {stats_flush_interval: 3s}}
---
kind: EnvoyFilter
metadata: {name: g, namespace: other}
spec:
  configPatches:
  - applyTo: BOOTSTRAP
    patch: {operation: MERGE, value: {stats_flush_interval: 9s}}
""",
    )
    assert json.loads(config(engine, protos).bootstrap) == [{"stats_flush_interval": "3s"}]

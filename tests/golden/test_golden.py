"""The shape of each stage, few and small: objects in, problems, plan and Envoy resources out.

`input.yaml` holds objects, and the proxies that look at them as documents of kind Proxy. `make
golden` rewrites the other files; read the difference before you commit it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from tests.unit.compile.conftest import Mesh

from meltemi.base.resource import CLUSTER, ENDPOINT, ROUTE
from meltemi.protos import Protos, load
from meltemi.proxy.envoy import envoy_path

HERE = Path(__file__).parent
CASES = sorted(path.parent.name for path in HERE.glob("*/input.yaml"))
SHOWN = {"clusters": CLUSTER, "endpoints": ENDPOINT, "routes": ROUTE}
"""Listeners are large and alike; tests of the compiler look at them field by field."""


@pytest.fixture(scope="module")
def protos(tmp_path_factory: pytest.TempPathFactory) -> Protos:
    return load(envoy_path(), tmp_path_factory.mktemp("descriptors"))


def stages(protos: Protos, text: str) -> Mapping[str, Any]:
    """Every stage of a case, by the name of its file."""
    mesh = Mesh(protos)
    nodes: dict[str, str] = {}
    for document in yaml.safe_load_all(text):
        if document["kind"] == "Proxy":
            proxy = document["spec"]
            name = document["metadata"]["name"]
            nodes[name] = mesh.connect(proxy["kind"], proxy["ip"], name, proxy.get("labels", {}))
        else:
            mesh.put(document)
    mesh.propagate()
    mesh.graph.verify()
    problems = sorted(mesh.graph.problems(), key=lambda p: (str(p.about), p.path))
    return {
        "ir": {name: _plan(mesh, node) for name, node in nodes.items()},
        "xds": {
            name: {kind: _own(mesh.sees(node, url)) for kind, url in SHOWN.items()}
            for name, node in nodes.items()
        },
        "status": [
            {"object": str(p.about), "field": p.path, "code": p.code.value, "message": p.message}
            for p in problems
        ],
    }


def _own(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the case's objects make, without what every proxy has."""
    return {name: found[name] for name in sorted(found) if "bound|" in name or name.isdecimal()}


def _plan(mesh: Mesh, node: str) -> Any:
    """What a proxy is to be sent, in our own types, before any message exists."""
    plan = mesh.compiled.plans.plan_of(node)
    assert plan is not None
    parts = {"clusters": plan.clusters, "routes": plan.routes}
    return msgspec.to_builtins(parts, enc_hook=str, str_keys=True)


@pytest.mark.parametrize("case", CASES)
def test_each_stage_has_the_shape_that_is_kept(protos: Protos, case: str) -> None:
    found = stages(protos, (HERE / case / "input.yaml").read_text())
    for stage, value in found.items():
        path = HERE / case / f"{stage}.yaml"
        plain = yaml.safe_load(yaml.safe_dump(msgspec.to_builtins(value)))
        if os.environ.get("MELTEMI_GOLDEN") == "rewrite":
            path.write_text(yaml.safe_dump(plain, sort_keys=True, width=100))
        assert plain == yaml.safe_load(path.read_text()), f"{path}: `make golden` shows the change"

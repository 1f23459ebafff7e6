"""Whatever validation accepts, Envoy accepts: random objects through the real pipeline."""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from meltemi.api.decode import decode
from meltemi.api.validate import validate
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Severity
from meltemi.protos import load
from meltemi.proxy.envoy import envoy_path
from meltemi.simulate.world import World, node_of
from tests.strategies import GATEWAY, Json, destination_rules, virtual_services

from .given import Given
from .real.lab import Lab

pytestmark = [pytest.mark.real, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
EXAMPLES = 40

_GATEWAY = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "Gateway",
    "metadata": {"name": GATEWAY, "namespace": "default"},
    "spec": {
        "selector": {"app": GATEWAY},
        "servers": [
            {"port": {"number": 8080, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]},
            {
                "port": {"number": 8443, "name": "tls", "protocol": "TLS"},
                "tls": {"mode": "PASSTHROUGH"},
                "hosts": ["*"],
            },
            {"port": {"number": 5432, "name": "tcp", "protocol": "TCP"}, "hosts": ["*"]},
        ],
    },
}
_LOCALITIES = {"reviews-v1": "r1.z1.s1", "reviews-v2": "r1.z2.s1", "reviews-v3": "r2.z1.s1"}


class Bench:
    """Two Envoys, a sidecar and a gateway, and the shop around them."""

    def __init__(self, directory: Path) -> None:
        self._runner = asyncio.Runner()
        shop = Given()
        shop.add({"include": ["shop"], "pods": {GATEWAY: {"gateway": True}}})
        places = {
            name: {"app": "reviews", "version": name[-2:], "labels": {"istio-locality": place}}
            for name, place in _LOCALITIES.items()
        }
        shop.add({"pods": {**places, "client": {"labels": {"istio-locality": "r1.z1.s1"}}}})
        shop.add({"objects": [_GATEWAY]})
        self._raw = {_key(d): json.dumps(d).encode() for d in shop.documents()}
        world = World(self._raw)
        identities = sorted({w.identity for w in world.model.workloads.values()})
        self._client = node_of(world.workload("client"), world.domain)
        self._front = node_of(world.workload(GATEWAY), world.domain)
        protos = load(envoy_path(), directory / "descriptors")
        self._lab = Lab(directory, protos, identities)
        self._runner.run(self._lab.__aenter__())

    def take(self, *documents: Json) -> None:
        """Raises AssertionError for what an Envoy refuses."""
        raw = self._raw | {_key(d): json.dumps(d).encode() for d in documents}
        self._runner.run(self._lab.configure(raw, self._client, self._front))

    def close(self) -> None:
        self._runner.run(self._lab.__aexit__(None, None, None))
        self._runner.close()


def _key(document: Json) -> ObjectKey:
    meta = document["metadata"]
    return ObjectKey(document["kind"], meta.get("namespace", ""), meta["name"])


def is_accepted(document: Json) -> bool:
    """What the webhook and the engine alike say of an object."""
    outcome = decode(document["kind"], json.dumps(document).encode())
    if outcome.value is None:
        return False
    return not any(p.severity is Severity.ERROR for p in validate(outcome.value))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("acceptance"))
    yield made
    made.close()


_HASTE = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


@pytest.mark.timeout(300)
@_HASTE
@given(st.one_of(virtual_services(tame=True), virtual_services(tame=False)))
def test_envoy_takes_every_virtual_service_that_is_accepted(bench: Bench, document: Json) -> None:
    assume(is_accepted(document))
    bench.take(document)


@pytest.mark.timeout(300)
@_HASTE
@given(st.one_of(destination_rules(tame=True), destination_rules(tame=False)))
def test_envoy_takes_every_destination_rule_that_is_accepted(bench: Bench, document: Json) -> None:
    assume(is_accepted(document))
    bench.take(document)

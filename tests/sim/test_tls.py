"""What only handshakes show: whom a proxy believes, and with which certificate it answers.

One real Envoy with the client's configuration, and an echo server whose certificate is for every
identity of the mesh and for `*.example.org`.
"""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from meltemi.base.keys import ObjectKey
from meltemi.protos import load
from meltemi.proxy.envoy import envoy_path
from meltemi.simulate.request import Request
from meltemi.simulate.world import World, node_of

from .given import Given
from .real.client import Answer
from .real.lab import Lab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.asyncio(loop_scope="module"),
]
Json = dict[str, Any]


def mesh(*objects: Json) -> dict[ObjectKey, bytes]:
    given = Given()
    given.add({"pods": {"client": {}}, "objects": list(objects)})
    found = {}
    for document in given.documents():
        meta = document["metadata"]
        key = ObjectKey(document["kind"], meta.get("namespace", ""), meta["name"])
        found[key] = json.dumps(document).encode()
    return found


def wild(name: str, host: str, tls: Json) -> tuple[Json, Json]:
    """A wildcard of names that the proxy resolves, and how it speaks to them."""
    port = {"number": 80, "name": "http", "protocol": "HTTP"}
    entry = {"hosts": [host], "resolution": "DYNAMIC_DNS", "ports": [port]}
    rule = {"host": host, "trafficPolicy": {"tls": tls}}
    return (
        {"kind": "ServiceEntry", "metadata": {"name": name}, "spec": entry},
        {"kind": "DestinationRule", "metadata": {"name": name}, "spec": rule},
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    identities = sorted({w.identity for w in World(mesh()).model.workloads.values()})
    protos = load(envoy_path(), tmp_path_factory.mktemp("descriptors"))
    directory: Path = tmp_path_factory.mktemp("tls")
    async with Lab(directory, protos, identities, hosts=["*.example.org"]) as made:
        yield made


async def ask(lab: Lab, host: str) -> Answer:
    return await lab.send("198.18.0.1", 80, Request(host))


async def test_a_resolved_name_must_be_in_the_servers_certificate(lab: Lab) -> None:
    tls = {"mode": "SIMPLE", "caCertificates": str(lab.roots)}
    objects = mesh(*wild("mine", "*.example.org", tls), *wild("theirs", "*.example.net", tls))
    client = node_of(World(objects).workload("client"), "cluster.local")
    await lab.configure(objects, client, None)
    for name in ("a.example.org", "b.example.org"):
        answer = await ask(lab, name)
        said = json.loads(answer.body)
        assert (answer.status, said["tls"], said["sni"]) == (200, True, name)
    assert (await ask(lab, "a.example.net")).status == 503
    trusting = wild("theirs", "*.example.net", tls | {"insecureSkipVerify": True})
    await lab.configure(mesh(*trusting), client, None)
    assert (await ask(lab, "a.example.net")).status == 200

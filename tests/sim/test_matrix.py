"""Every case against real Envoys: what the simulator says may happen is what happens."""

import os
from collections.abc import AsyncIterator
from functools import cache

import pytest
import pytest_asyncio

from meltemi.protos import load
from meltemi.proxy.envoy import envoy_path
from meltemi.simulate.ask import ask
from meltemi.simulate.world import World

from .case import Case, cases
from .real.agree import disagreements, is_open, unmet
from .real.lab import Lab
from .real.places import node_at

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.asyncio(loop_scope="module"),
]
CASES = [case for case in cases() if not case.simulated_only]
SETTINGS = {case.setting.id: case.setting for case in CASES}
_MANY = 40
"""Requests where chance decides among destinations."""


@cache
def world(setting: str) -> World:
    return World(SETTINGS[setting].raw)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    worlds = [world(name) for name in SETTINGS]
    identities = {w.identity for mesh in worlds for w in mesh.model.workloads.values()}
    protos = load(envoy_path(), tmp_path_factory.mktemp("descriptors"))
    async with Lab(tmp_path_factory.mktemp("lab"), protos, sorted(identities)) as made:
        yield made


@pytest.mark.parametrize("case", CASES, ids=[c.id for c in CASES])
async def test_envoy_agrees_with_the_simulator(case: Case, lab: Lab) -> None:
    mesh = world(case.setting.id)
    trace = ask(mesh, case.question)
    server = node_at(mesh, case.setting.server)
    served = server.ip if server is not None else ""
    await lab.configure(case.setting.raw, node_at(mesh, trace.proxy), server)
    seen = await lab.ask(trace, _MANY if is_open(trace) else 1)
    found = [text for one in seen for text in disagreements(trace, one, served)]
    if len(seen) > 1:
        found += unmet(trace, seen, served)
    assert not found, "\n".join([*dict.fromkeys(found), str(seen[0])])

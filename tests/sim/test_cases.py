"""Every case in the simulator: what the rules mean, without an Envoy."""

from functools import cache

import pytest

from meltemi.simulate.ask import ask
from meltemi.simulate.world import World

from .case import Case, Setting, cases
from .check import differences

CASES = cases()
SETTINGS = {case.setting.id: case.setting for case in CASES}


@cache
def world(setting: str) -> World:
    return World(SETTINGS[setting].raw)


@pytest.mark.parametrize("case", CASES, ids=[c.id for c in CASES])
def test_the_simulator_agrees_with_the_case(case: Case) -> None:
    mesh = world(case.setting.id)
    trace = ask(mesh, case.question)
    found = differences(mesh, trace, case.expect)
    assert not found, "\n".join([*found, *map(str, mesh.problems())])


@pytest.mark.parametrize(
    "setting", [s for s in SETTINGS.values() if s.problems is not None], ids=lambda s: s.id
)
def test_the_objects_have_the_problems_named(setting: Setting) -> None:
    mesh = world(setting.id)
    for workload in mesh.model.workloads.values():
        mesh.plan(workload)
    found = sorted({p.code.value for p in mesh.problems()})
    assert found == sorted(setting.problems or ())

"""The simulator against real Envoys: as many random rules and requests as a minute allows."""

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from tests.sim.random_mesh import RandomMesh, meshes
from tests.sim.real.differential import IDENTITIES, compare
from tests.sim.real.lab import Lab

from bench.figures import Figure
from meltemi.protos import load
from meltemi.proxy.envoy import envoy_path

BLOCKS, MESHES, QUESTIONS = 40, 10, 60
"""Each block starts afresh: within one, hypothesis likes to vary what it has drawn before."""


async def run() -> AsyncIterator[Figure]:
    """Needs root. Fails on the first disagreement, and prints all it takes to see it again."""
    if os.geteuid() != 0:
        raise SystemExit("the differential benchmark needs root: it makes network namespaces")
    number = int(os.environ.get("MELTEMI_SEED", "0")) or int(time.time())
    print(f"  seed {number} (MELTEMI_SEED repeats it)", file=sys.stderr, flush=True)
    found = [mesh for block in range(BLOCKS) for mesh in _drawn(number + block)]
    began = time.monotonic()
    counted = await _compared(found)
    seconds = time.monotonic() - began
    yield Figure("pairs compared", counted["pairs"], "", aim=20_000, more_is_better=True)
    yield Figure("disagreements", 0, "")
    yield Figure("pairs each second", counted["pairs"] / seconds, "/s")


def _drawn(number: int) -> list[RandomMesh]:
    found: list[RandomMesh] = []

    @seed(number)
    @settings(
        max_examples=MESHES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(meshes(QUESTIONS))
    def collect(mesh: RandomMesh) -> None:
        found.append(mesh)

    collect()
    return found


async def _compared(found: list[RandomMesh]) -> Counter[str]:
    counted: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        async with Lab(place, load(envoy_path(), place / "descriptors"), IDENTITIES) as lab:
            for mesh in found:
                wrong = await compare(mesh, lab, counted)
                if wrong:
                    raise SystemExit(wrong)
    return counted

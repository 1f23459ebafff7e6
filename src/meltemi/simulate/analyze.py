"""What is wrong with a mesh of objects: every problem that any proxy in it would meet. Pure."""

from collections.abc import Iterable

from meltemi.base.problems import Problem, gravest_first
from meltemi.compile.settings import MeshSettings
from meltemi.model.build import Domain
from meltemi.simulate.explain import Complaint
from meltemi.simulate.world import Raw, World


def analyze(
    raw: Raw, *, domain: Domain | None = None, settings: MeshSettings | None = None
) -> tuple[Complaint, ...]:
    """Plan every proxy of the mesh and gather what was met, the gravest first.

    A namespace with objects and no proxy yet is looked at as a first sidecar there would see it.
    """
    world = World(raw, domain=domain, settings=settings)
    planned = [w for w in list(world.model.workloads.values()) if world.plan(w) is not None]
    seen = {workload.key.namespace for workload in planned if not workload.is_gateway}
    for namespace in sorted({key.namespace for key in raw} - seen - {""}):
        world.suppose_sidecar(namespace)
    return complaints(world.problems())


def complaints(problems: Iterable[Problem]) -> tuple[Complaint, ...]:
    """Problems as they are shown."""
    return tuple(map(Complaint.of, gravest_first(problems)))

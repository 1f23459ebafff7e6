"""The whole question at once: objects, a change to them, and what becomes of a request."""

from collections.abc import Iterator, Mapping, Set

import msgspec

from meltemi.base.keys import ObjectKey, WorkloadKey
from meltemi.base.problems import Problem
from meltemi.compile.settings import MeshSettings
from meltemi.model.build import Domain
from meltemi.simulate.ask import Question, ask
from meltemi.simulate.overlooked import overlooked
from meltemi.simulate.patched import uncertain
from meltemi.simulate.trace import PassedOver, Trace
from meltemi.simulate.world import Raw, World


class Complaint(msgspec.Struct, frozen=True, rename="camel"):
    """Something wrong with an object, as far as the way of this request tells."""

    code: str
    severity: str
    kind: str
    namespace: str
    name: str
    path: str
    message: str

    @classmethod
    def of(cls, problem: Problem) -> "Complaint":
        return cls(
            problem.code.value,
            problem.severity.value,
            *problem.about,
            problem.path,
            problem.message,
        )


class Explanation(msgspec.Struct, frozen=True, rename="camel"):
    """What `meltemi explain -o json` prints."""

    trace: Trace
    before: Trace | None = None
    """The way without the change; None: there is no change."""
    problems: tuple[Complaint, ...] = ()
    """About objects on the way, or of the change."""
    unread: tuple[str, ...] = ()
    """Objects of the change that have no say in how requests go."""
    unsimulated: tuple[str, ...] = ()
    """EnvoyFilters that patch the proxy; what they do is not in the trace."""
    uncertain: tuple[PassedOver, ...] = ()
    """The steps that their patches may change."""


def explain(
    raw: Raw,
    question: Question,
    *,
    change: Mapping[ObjectKey, bytes] | None = None,
    domain: Domain | None = None,
    settings: MeshSettings | None = None,
) -> Explanation:
    """Answer a question about a mesh; with a change, about the mesh as it would be.

    Raises BadQuestion.
    """
    changed = {**raw, **(change or {})}
    world = World(changed, domain=domain, settings=settings)
    trace = ask(world, question)
    trace = msgspec.structs.replace(trace, overlooked=overlooked(world, trace))
    before = None
    if change:
        before = ask(World(raw, domain=domain, settings=settings), question)
    unread = tuple(str(k) for k in change or () if k.kind not in world.objects.raw)
    patched = tuple(str(key) for key in _filters(world, trace))
    concerned = {*_named(msgspec.to_builtins(trace)), *(change or ())}
    complaints = _complaints(world, concerned)
    return Explanation(trace, before, complaints, unread, patched, uncertain(world, trace))


def _complaints(world: World, concerned: Set[ObjectKey]) -> tuple[Complaint, ...]:
    return tuple(Complaint.of(p) for p in world.problems() if p.about in concerned)


def _named(value: object) -> Iterator[ObjectKey]:
    """Every object that a trace names as a reason."""
    if isinstance(value, dict):
        if {"kind", "namespace", "name", "path"} <= value.keys():
            yield ObjectKey(value["kind"], value["namespace"], value["name"])
        for item in value.values():
            yield from _named(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _named(item)


def _filters(world: World, trace: Trace) -> Iterator[ObjectKey]:
    """EnvoyFilters that patch the proxy: what they do is not simulated."""
    name, _, namespace = trace.proxy.rpartition(".")
    workload = world.model.workloads.get(WorkloadKey(namespace, name))
    if workload is None:
        return
    for key, found in sorted(world.objects.envoy_filters.items().items()):
        selector = found.spec.workload_selector
        wanted = selector.labels if selector is not None else {}
        if key.namespace in (namespace, world.root) and wanted.items() <= workload.labels.items():
            yield key


def fails(trace: Trace) -> bool:
    """Whether the request surely gets no answer, or an error that the mesh itself gives."""
    certain = [f for f in trace.faults if f.share >= 1]
    response = certain[0].response if certain else trace.response
    if response is not None:
        return response.status >= 400 or response.status == 0
    if trace.branches and all(b.failure is not None for b in trace.branches):
        return True
    places = [place for branch in trace.branches for place in branch.places]
    return bool(places) and all(p.arrival is not None and p.arrival.refused for p in places)


def same_way(one: Trace, other: Trace) -> bool:
    """Whether a request goes the same way: listener, route, destinations, shares, policies."""
    return _essence(one) == _essence(other)


def _essence(trace: Trace) -> Trace:
    """A trace without the reasons, which may differ where the way does not."""
    raw = msgspec.to_builtins(trace)
    return msgspec.convert(_without_reasons(raw), Trace)


def _without_reasons(value: object) -> object:
    if isinstance(value, dict):
        kept = {k: _without_reasons(v) for k, v in value.items() if k not in _REASONS}
        return {**kept, **{k: _REASONS[k] for k in value if k in _REASONS}}
    if isinstance(value, list):
        return [_without_reasons(item) for item in value]
    return value


_REASONS: Mapping[str, object] = {
    "reason": "",
    "because": [],
    "passedOver": [],
    "overlooked": [],
    "warning": "",
}

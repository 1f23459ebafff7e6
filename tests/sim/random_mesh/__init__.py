"""Random objects over a small shop, and random requests that have a fair chance to meet them.

Everything comes from short lists, so that rules overlap, requests match often, and what hypothesis
shrinks stays readable.
"""

from random import Random
from typing import NamedTuple

from hypothesis import strategies as st

from meltemi.simulate.ask import Question

from ..given import Given
from . import around, rules
from .questions import question
from .words import ORIGINS, PODS, SECRETS, SERVED, SERVICES, Json, made, some


class RandomMesh(NamedTuple):
    documents: list[Json]
    questions: list[Question]
    served: str
    """The pod with a real sidecar; empty: nobody has one."""


_PLAIN_GATEWAY: Json = {
    "selector": {"istio": "gate"},
    "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}],
}


@st.composite
def meshes(draw: st.DrawFn, questions: int = 60) -> RandomMesh:
    """Objects, and so many questions from a few origins."""
    given = Given()
    objects = [*draw(_rules()), *draw(_around())]
    given.add({"pods": PODS, "services": SERVICES, "secrets": SECRETS, "objects": objects})
    origins = draw(st.lists(some(ORIGINS), min_size=1, max_size=3, unique=True))
    rng = Random(draw(st.integers(0, 2**32)))
    asked = [question(rng, origins[i % len(origins)]) for i in range(questions)]
    return RandomMesh(given.documents(), asked, draw(some(SERVED)))


@st.composite
def _rules(draw: st.DrawFn) -> list[Json]:
    leaf = "leaf" if draw(st.integers(0, 2)) == 0 else ""
    found = [draw(rules.virtual_service("vs-0", leaf, main=True))]
    found += [
        draw(rules.virtual_service(f"vs-{i}", leaf)) for i in range(1, draw(st.integers(1, 6)))
    ]
    if leaf:
        found.append(draw(rules.delegate(leaf)))
    found.append(draw(rules.destination_rule("dr-0", main=True)))
    found += [draw(rules.destination_rule(f"dr-{i}")) for i in range(1, draw(st.integers(1, 5)))]
    found += [draw(rules.l4_service(f"l4-{i}")) for i in range(draw(st.integers(0, 2)))]
    return found


@st.composite
def _around(draw: st.DrawFn) -> list[Json]:
    found: list[Json] = []
    if draw(st.integers(0, 2)):
        found.append(draw(around.gateway("gate", "istio-system")))
    else:
        found.append(made("Gateway", "gate", "istio-system", _PLAIN_GATEWAY))
    if draw(st.integers(0, 3)) == 0:
        found.append(draw(around.gateway("front", "default")))
    found += [draw(around.service_entry(f"se-{i}")) for i in range(draw(st.integers(0, 3)))]
    if draw(st.integers(0, 3)) == 0:
        found.append(draw(around.workload_entry("vm-0")))
    found += [draw(around.peer_authentication(f"pa-{i}")) for i in range(draw(some((0, 0, 1, 2))))]
    found += [draw(around.sidecar(f"sc-{i}")) for i in range(draw(some((0, 0, 0, 1, 2))))]
    if draw(st.integers(0, 2)) == 0:
        found.append(draw(around.mesh_config()))
    return found

"""One random mesh, asked for real and in the simulator."""

from collections import Counter

import yaml

from meltemi.base.identity import Identity
from meltemi.simulate.ask import ask
from meltemi.simulate.trace import Trace
from meltemi.simulate.world import World, raw_objects

from ..random_mesh import RandomMesh
from .agree import disagreements, is_open
from .lab import Lab
from .places import node_at

IDENTITIES = [
    Identity("cluster.local", space, account)
    for space in ("default", "far", "istio-system")
    for account in ("client", "reviews", "ratings", "odd", "db", "stock", "gate", "safe")
]
_RULES = frozenset(
    {"VirtualService", "DestinationRule", "Gateway", "PeerAuthentication", "ServiceEntry"}
)


async def compare(mesh: RandomMesh, lab: Lab, counted: Counter[str]) -> str:
    """What the first disagreement is, with all it takes to see it again; empty: there is none."""
    raw = raw_objects(mesh.documents)
    world = World(raw)
    by_proxy: dict[str, list[Trace]] = {}
    for question in mesh.questions:
        trace = ask(world, question)
        by_proxy.setdefault(trace.proxy, []).append(trace)
    for proxy, traces in by_proxy.items():
        await lab.configure(raw, node_at(world, proxy), None)
        asked = [t for t in traces for _ in range(2 if is_open(t) else 1)]
        for trace, seen in zip(asked, await lab.ask_all(asked), strict=True):
            counted["pairs"] += 1
            counted[_outcome(trace)] += 1
            wrong = disagreements(trace, seen)
            if wrong:
                rules = [d for d in mesh.documents if d["kind"] in _RULES]
                parts = [trace.request, trace.connection, proxy, seen, yaml.safe_dump_all(rules)]
                return "\n".join([*dict.fromkeys(wrong), *map(str, parts), str(trace)])
    return ""


def _outcome(trace: Trace) -> str:
    if trace.response is not None:
        return f"status {trace.response.status}"
    return "forwarded" if trace.branches and trace.branches[0].failure is None else "failed"

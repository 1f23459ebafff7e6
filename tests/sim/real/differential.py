"""One random mesh, asked for real and in the simulator."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import yaml

from meltemi.base.identity import Identity
from meltemi.compile import names
from meltemi.simulate.ask import ask
from meltemi.simulate.request import Speaks
from meltemi.simulate.trace import Place, Trace
from meltemi.simulate.world import World, raw_objects

from ..random_mesh import RandomMesh
from .agree import disagreements, is_open
from .lab import Lab
from .places import node_at

IDENTITIES = [
    Identity("cluster.local", space, account)
    for space in ("default", "far", "istio-system")
    for account in ("client", "reviews", "ratings", "odd", "db", "stock", "gate", "safe", "quiet")
]
_RULES = frozenset(
    {
        "VirtualService", "DestinationRule", "Gateway", "PeerAuthentication", "ServiceEntry",
        "WorkloadEntry", "Sidecar", "ConfigMap",
    }
)  # fmt: skip


async def compare(mesh: RandomMesh, lab: Lab, counted: Counter[str]) -> str:
    """What the first disagreement is, with all it takes to see it again; empty: there is none."""
    raw = raw_objects(mesh.documents)
    world = World(raw)
    by_proxy: dict[str, list[Trace]] = {}
    for question in mesh.questions:
        trace = ask(world, question)
        if not trace.proxy and not trace.branches[0].places:
            continue  # Without a proxy in between it is the platform that refuses: not played here.
        by_proxy.setdefault(trace.proxy, []).append(trace)
    server = node_at(world, mesh.served)
    served = server.ip if server is not None else ""
    for proxy, traces in by_proxy.items():
        await lab.configure(raw, node_at(world, proxy), server)
        plan = world.plan(world.workload(*proxy.rsplit(".", 1))) if proxy else None
        if plan is not None and plan.node.kind == "router":
            await lab.opened(listener.port for listener in plan.listeners)
        asked = [t for t in traces for _ in range(2 if is_open(t) else 1)]
        for trace, seen in zip(asked, await lab.ask_all(asked), strict=True):
            counted["pairs"] += 1
            counted[_outcome(trace)] += 1
            counted.update(_met(trace))
            wrong = disagreements(trace, seen, served)
            if wrong:
                # What rules decide stays; what a busy machine did to one connection does not.
                counted["asked again"] += 1
                wrong = disagreements(trace, (await lab.ask(trace))[0], served)
            if wrong:
                rules = [d for d in mesh.documents if d["kind"] in _RULES]
                parts = [
                    trace.request,
                    trace.connection,
                    proxy,
                    f"served: {mesh.served}",
                    seen,
                    yaml.safe_dump_all(rules),
                ]
                return "\n".join([*dict.fromkeys(wrong), *map(str, parts), str(trace)])
    return ""


def _outcome(trace: Trace) -> str:
    if trace.response is not None:
        return f"status {trace.response.status}"
    return "forwarded" if trace.branches and trace.branches[0].failure is None else "failed"


def _met(trace: Trace) -> Iterator[str]:
    """What a pair had to do with, so that a test can tell whether everything had its turn."""
    return (fact for fact, holds in FACTS.items() if holds(trace))


def _places(trace: Trace) -> Iterator[Place]:
    return (place for branch in trace.branches for place in branch.places)


def _clusters(trace: Trace) -> Iterator[str]:
    return (branch.cluster.name for branch in trace.branches)


def _encrypts(trace: Trace) -> bool:
    return trace.connection.speaks is Speaks.TLS


FACTS: Mapping[str, Callable[[Trace], bool]] = {
    "a client without a proxy": lambda t: not t.proxy,
    "a gateway": lambda t: not t.connection.source,
    "TLS at a gateway": lambda t: not t.connection.source and _encrypts(t),
    "TLS from a pod": lambda t: bool(t.connection.source) and _encrypts(t),
    "bytes": lambda t: t.connection.speaks is Speaks.OTHER,
    "an address": lambda t: t.resolved.reason == "an address",
    "a mirror": lambda t: bool(t.mirrors),
    "a fault": lambda t: bool(t.faults),
    "weights": lambda t: len(t.branches) > 1,
    "a standby": lambda t: any(branch.standby for branch in t.branches),
    "refused by the other end": lambda t: any(p.arrival and p.arrival.refused for p in _places(t)),
    "TLS that the proxy originates": lambda t: any(p.security == "tls" for p in _places(t)),
    "mutual TLS": lambda t: any(p.security == "mutual" for p in _places(t)),
    "a host outside": lambda t: any("example.com" in name for name in _clusters(t)),
    "a wildcard": lambda t: any("|*." in name for name in _clusters(t)),
    "a subset": lambda t: any("||" not in name and "|" in name for name in _clusters(t)),
    "what the mesh refuses": lambda t: names.BLACK_HOLE in _clusters(t),
}

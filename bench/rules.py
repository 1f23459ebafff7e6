"""1,000 services with 200 VirtualServices and DestinationRules, without the network."""

import gc
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from bench import world
from bench.figures import Figure, resident_mib
from meltemi.app.engine import Engine
from meltemi.base.resource import Change
from meltemi.compile.settings import MeshSettings
from meltemi.model.build import Domain
from meltemi.protos import load
from meltemi.proxy.envoy import envoy_path

SERVICES, RULES = 1000, 200
_ROUNDS = 20


def engine(publish: Callable[[Change], None]) -> Engine:
    """A control plane's engine, with Envoy's messages from the usual cache."""
    protos = load(envoy_path(), Path.home() / ".cache" / "meltemi")
    return Engine(protos, Domain(), MeshSettings(), publish)


async def run() -> AsyncIterator[Figure]:
    before = resident_mib()
    changes: list[Change] = []
    subject = engine(changes.append)
    for number in range(world.NAMESPACES):
        subject.proxies.set(world.proxy(number * 2).id, world.proxy(number * 2))
    events = list(world.world(SERVICES, RULES))
    gc.disable()  # As the control plane does until it is ready.
    started = time.perf_counter()
    subject.deliver(events)
    _propagate(subject, changes)
    full = time.perf_counter() - started
    gc.enable()
    what = f"full compile of {SERVICES} services and {RULES} rules, 10 scopes"
    yield Figure(what, full * 1000, "ms", aim=1000)
    yield Figure("memory of it", resident_mib() - before, "MiB", aim=300)
    rule = [world.Event(world.virtual_service(7, n)) for n in range(_ROUNDS)]
    yield Figure("one VirtualService changed", _best(subject, changes, rule), "ms")
    policy = [world.destination_rule(7) for _ in range(_ROUNDS)]
    for number, body in enumerate(policy):
        body["spec"]["trafficPolicy"]["connectionPool"]["tcp"]["maxConnections"] = number + 1
    events = [world.Event(body) for body in policy]
    yield Figure("one DestinationRule changed", _best(subject, changes, events), "ms")
    flaps = [world.Event(world.endpoint_slice(7, 1 + n % 2)) for n in range(_ROUNDS)]
    yield Figure("one endpoint flapped", _best(subject, changes, flaps), "ms")


def _propagate(subject: Engine, changes: list[Change]) -> None:
    """What `Engine.propagate` does, without its event loop."""
    found = subject.graph.propagate()
    changes.append(subject.compiled.change(found, subject.graph.revision))


def _best(subject: Engine, changes: list[Change], events: list[world.Event]) -> float:
    """The median in milliseconds of propagating each event alone."""
    spans = []
    for event in events:
        changes.clear()
        started = time.perf_counter()
        subject.deliver([event])
        _propagate(subject, changes)
        spans.append(time.perf_counter() - started)
        assert changes[-1].resources, f"{event.key} changed nothing"
    return sorted(spans)[len(spans) // 2] * 1000

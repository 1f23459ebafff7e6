"""Whatever happens in whatever order: what proxies are sent is what a fresh compiler would send."""

from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from meltemi.protos import Protos

from .conftest import Mesh, endpoints, pod, service

PEERS = (
    ("sidecar", "10.44.0.4", "a-1", {"app": "a"}, "default"),
    ("sidecar", "10.44.0.5", "b-1", {"app": "b"}, "default"),
    ("sidecar", "10.44.0.6", "c-1", {"app": "c"}, "tools"),
)


def _entry(name: str, namespace: str, spec: str) -> str:
    head = f"kind: ServiceEntry\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
    return head + f"spec: {spec}\n"


def _sidecar(name: str, namespace: str, spec: str) -> str:
    return f"kind: Sidecar\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"


def _table(name: str, spec: str) -> str:
    return f"kind: VirtualService\nmetadata: {{name: {name}}}\nspec: {spec}\n"


PORTS = "ports: [{number: 9080, name: p, protocol: %s}]"
CHOICES: tuple[str, ...] = (
    service("a", "http:9080", ip="10.43.0.2"),
    service("a", "tcp:9080", "web:7000", ip="10.43.0.2"),
    service("b", "http:9080", "tls:8443", ip="10.43.0.3"),
    service("b", "tcp:9080", ip="10.43.0.2"),
    service("c", "tcp:7000", ip="None"),
    service("a", "http:9080", namespace="tools", ip="10.43.1.2"),
    "kind: Service\nmetadata: {name: d}\nspec: {type: ExternalName, externalName: "
    "a.default.svc.cluster.local}\n",
    pod("c-0", "c", "v1", "10.44.0.21"),
    pod("a-1", "a", "v1", "10.44.0.4"),
    endpoints("c", "tcp:7000", "c-0=10.44.0.21"),
    endpoints("c", "tcp:7000"),
    _entry("e", "default", f"{{hosts: [x.example.com], resolution: DNS, {PORTS % 'HTTP'}}}"),
    _entry("e", "default", f"{{hosts: [x.example.com], resolution: NONE, {PORTS % 'TCP'}}}"),
    _entry(
        "f",
        "default",
        f"{{hosts: [x.example.com, y.example.com], resolution: STATIC, {PORTS % 'TCP'}, "
        "endpoints: [{address: 10.44.9.1}]}",
    ),
    _entry(
        "g",
        "tools",
        "{hosts: [x.example.com, a.default.svc.cluster.local], resolution: STATIC, "
        f"{PORTS % 'HTTP'}, workloadSelector: {{labels: {{app: a}}}}, exportTo: ['.']}}",
    ),
    _entry(
        "g",
        "tools",
        f"{{hosts: ['*.example.com'], resolution: DYNAMIC_DNS, {PORTS % 'HTTP'}}}",
    ),
    "kind: WorkloadEntry\nmetadata: {name: w}\nspec: {address: 10.44.8.1, labels: {app: a}}\n",
    "kind: WorkloadEntry\nmetadata: {name: a-1}\nspec: {address: 10.44.8.2, labels: {app: b}}\n",
    _sidecar("s", "default", "{egress: [{hosts: ['./*']}]}"),
    _sidecar("s", "default", "{egress: [{hosts: ['*/*', '~tools/*']}]}"),
    _sidecar(
        "s",
        "default",
        "{workloadSelector: {labels: {app: a}}, egress: [{port: {number: 9080, protocol: HTTP}, "
        "hosts: ['./a.default.svc.cluster.local']}, {hosts: ['./*']}], "
        "outboundTrafficPolicy: {mode: REGISTRY_ONLY}}",
    ),
    _sidecar("root", "istio-system", "{egress: [{hosts: ['tools/*']}]}"),
    _table(
        "r",
        "{hosts: [a], http: [{route: [{destination: {host: a.tools.svc.cluster.local}}]}]}",
    ),
    _table(
        "r",
        "{hosts: [a, x.example.com], tcp: [{match: [{sourceLabels: {app: b}}], "
        "route: [{destination: {host: c}}]}]}",
    ),
    "kind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: STRICT}}\n",
    "kind: DestinationRule\nmetadata: {name: q}\nspec: {host: a, trafficPolicy: {loadBalancer: "
    "{consistentHash: {useSourceIp: true}}}, subsets: [{name: v1, labels: {version: v1}}]}\n",
)
DOCUMENTS: tuple[dict[str, Any], ...] = tuple(
    document for text in CHOICES for document in yaml.safe_load_all(text) if document
)
EVENTS = st.lists(
    st.tuples(st.sampled_from(range(len(DOCUMENTS))), st.booleans(), st.booleans()),
    min_size=1,
    max_size=14,
)


class World:
    """A mesh, and the objects that are there by now."""

    def __init__(self, protos: Protos) -> None:
        self.mesh = Mesh(protos)
        self.nodes = [self.mesh.connect(*peer) for peer in PEERS]
        self.there: dict[tuple[str, str, str], dict[str, Any]] = {}

    def put(self, document: dict[str, Any]) -> None:
        meta = document["metadata"]
        key = (document["kind"], meta.get("namespace", "default"), meta["name"])
        # The age of an object is its name's: a fresh compiler sees them in another order.
        stamp = f"2026-01-01T00:00:{sum(map(ord, meta['name'])) % 60:02d}Z"
        known = {**document, "metadata": {**meta, "creationTimestamp": stamp}}
        self.there[key] = known
        self.mesh.put(known)

    def drop(self, document: dict[str, Any]) -> None:
        meta = document["metadata"]
        key = (document["kind"], meta.get("namespace", "default"), meta["name"])
        if self.there.pop(key, None) is not None:
            self.mesh.drop(key[0], key[2], key[1])

    def sent(self) -> dict[tuple[str, str, str], str]:
        """Every proxy's resources by type and name, as versions."""
        return {
            (node, type_url, name): resource.version
            for node in self.nodes
            for type_url in {key.type_url for key in self.mesh.views[node].sets}
            for name, resource in self.mesh.resources(node, type_url).items()
        }


@pytest.fixture(scope="module")
def shared(protos: Protos) -> Protos:
    return protos


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(events=EVENTS)
def test_any_order_of_events_ends_where_a_fresh_compiler_does(
    shared: Protos, events: list[tuple[int, bool, bool]]
) -> None:
    world = World(shared)
    for number, removes, propagates in events:
        if removes:
            world.drop(DOCUMENTS[number])
        else:
            world.put(DOCUMENTS[number])
        if propagates:
            world.mesh.propagate()
    world.mesh.propagate()
    world.mesh.graph.verify()
    fresh = World(shared)
    for key in sorted(world.there):
        fresh.put(world.there[key])
    fresh.mesh.propagate()
    assert world.sent() == fresh.sent()
    internal = [p for p in world.mesh.graph.problems() if "own fault" in p.message]
    assert internal == []

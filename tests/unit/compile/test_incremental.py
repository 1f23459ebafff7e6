"""The world after any sequence of changes equals the world built from nothing."""

import json
from random import Random
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meltemi.api.decode import decode
from meltemi.api.validate import validate
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Severity
from meltemi.flow.graph import Derived
from meltemi.protos import Protos

from .conftest import SHOP, Mesh

NAMES = ("reviews", "ratings", "db")
NAMESPACES = ("default", "other", "istio-system")
HOSTS = ("reviews", "ratings", "db", "web.example.com", "*.example.com")


class Maker:
    """Makes small valid objects whose names collide often."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def pick(self, *choices: Any) -> Any:
        return self._random.choice(choices)

    def object(self) -> dict[str, Any]:
        kind = self.pick(*KINDS)
        namespace = self.pick(*NAMESPACES)
        meta: dict[str, Any] = {"name": self.pick(*NAMES), "namespace": namespace}
        spec = getattr(self, f"_{kind}")(meta)
        return {"kind": kind, "metadata": meta, **spec}

    def _Namespace(self, meta: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        meta |= {"name": self.pick("default", "other"), "namespace": ""}
        meta["labels"] = self.pick({}, {"mesh": "yes"})
        return {}

    def _Service(self, meta: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        meta["annotations"] = self.pick({}, {"networking.istio.io/exportTo": "."})
        name = self.pick("http", "tcp", "grpc", "web")
        ports = [{"name": name, "port": self.pick(80, 9080), "targetPort": 9080}]
        number = 10 * NAMESPACES.index(meta["namespace"]) + NAMES.index(meta["name"])
        cluster_ip = self.pick(f"10.43.1.{number}", "None")
        return {
            "spec": {"clusterIP": cluster_ip, "selector": {"app": meta["name"]}, "ports": ports}
        }

    def _Pod(self, meta: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        number = 10 * NAMESPACES.index(meta["namespace"]) + NAMES.index(meta["name"])
        meta["labels"] = {
            "app": meta["name"],
            "version": self.pick("v1", "v2"),
            **self.pick({}, {"security.istio.io/tlsMode": "istio"}),
        }
        ready = [{"type": "Ready", "status": self.pick("True", "False")}]
        return {
            "spec": {"serviceAccountName": meta["name"], "containers": [{"name": "app"}]},
            "status": {"phase": "Running", "podIP": f"10.44.1.{number}", "conditions": ready},
        }

    def _EndpointSlice(self, meta: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        meta["labels"] = {"kubernetes.io/service-name": meta["name"]}
        number = 10 * NAMESPACES.index(meta["namespace"]) + NAMES.index(meta["name"])
        where = {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"]}
        endpoint = {
            "addresses": [f"10.44.1.{number}"],
            "conditions": {"ready": self.pick(True, False)},
            "targetRef": where,
        }
        ports = [{"name": self.pick("http", "tcp"), "port": 9080, "protocol": "TCP"}]
        return {"addressType": "IPv4", "ports": ports, "endpoints": self.pick([], [endpoint])}

    def _ConfigMap(self, meta: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        meta |= {"name": "istio", "namespace": "istio-system"}
        text = self.pick(
            "{}",
            "accessLogFile: /dev/stdout",
            "outboundTrafficPolicy: {mode: REGISTRY_ONLY}",
            "discoverySelectors: [{matchLabels: {mesh: 'yes'}}]",
            "defaultServiceExportTo: ['.']",
            "enableAutoMtls: false",
            "defaultHttpRetryPolicy: {attempts: 4}",
        )
        return {"data": {"mesh": text}}

    def _VirtualService(self, meta: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        target = {"host": self.pick("reviews", "ratings"), "subset": self.pick("", "v1", "v2")}
        rule: dict[str, Any] = {"route": [{"destination": target}]}
        if self.pick(True, False):
            rule["match"] = [{"sourceLabels": {"app": "ratings"}}, {"uri": {"prefix": "/x"}}]
        return {
            "spec": {
                "hosts": [self.pick("reviews", "ratings", "*.example.com")],
                "gateways": self.pick(["mesh"], ["mesh", "istio-system/db"], ["istio-system/db"]),
                "http": [rule],
                "exportTo": self.pick([], ["."], ["other"]),
            }
        }

    def _DestinationRule(self, meta: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        policy = self.pick(
            {},
            {"loadBalancer": {"consistentHash": {"httpHeaderName": "x"}}},
            {"connectionPool": {"tcp": {"maxConnections": 3}}},
            {"tls": {"mode": "ISTIO_MUTUAL"}},
        )
        subsets = [{"name": v, "labels": {"version": v}} for v in self.pick((), ("v1",), ("v2",))]
        spec = {"host": self.pick(*HOSTS), "trafficPolicy": policy, "subsets": subsets}
        if self.pick(True, False, False):
            spec["workloadSelector"] = {"matchLabels": {"app": "ratings"}}
        return {"spec": spec}

    def _Gateway(self, meta: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        port = {"number": self.pick(80, 8080), "name": "http", "protocol": "HTTP"}
        return {
            "spec": {
                "selector": {"istio": "ingress"},
                "servers": [{"port": port, "hosts": [self.pick("*", "web.example.com")]}],
            }
        }

    def _PeerAuthentication(self, meta: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"spec": {"mtls": {"mode": self.pick("STRICT", "PERMISSIVE", "DISABLE")}}}

    def _ServiceEntry(self, meta: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        port = {"number": self.pick(80, 443), "name": "http", "protocol": "HTTP"}
        return {
            "spec": {
                "hosts": ["web.example.com"],
                "ports": [port],
                "location": self.pick("MESH_EXTERNAL", "MESH_INTERNAL"),
                "resolution": "STATIC",
                "endpoints": [{"address": "10.9.9.9"}],
            }
        }

    def _Sidecar(self, meta: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        hosts = self.pick(["./*"], ["*/*"], ["default/*", "istio-system/*"])
        return {"spec": {"egress": [{"hosts": hosts}]}}

    def _EnvoyFilter(self, meta: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        patch = self.pick(
            {
                "applyTo": "CLUSTER",
                "patch": {"operation": "MERGE", "value": {"alt_stat_name": meta["name"]}},
            },
            {
                "applyTo": "CLUSTER",
                "patch": {"operation": "ADD", "value": {"name": "mine", "type": "STATIC"}},
            },
            {
                "applyTo": "LISTENER",
                "match": {"context": "SIDECAR_INBOUND"},
                "patch": {"operation": "MERGE", "value": {"stat_prefix": meta["name"]}},
            },
        )
        spec = {"configPatches": [patch]}
        if self.pick(True, False):
            spec["workloadSelector"] = {"labels": {"app": self.pick("reviews", "ratings")}}
        return {"spec": spec}


KINDS = tuple(name.removeprefix("_") for name in vars(Maker) if name[1:2].isupper())


def connect(mesh: Mesh) -> list[str]:
    return [
        mesh.connect("sidecar", "10.44.1.1", "ratings", {"app": "ratings"}),
        mesh.connect("sidecar", "10.44.1.0", "reviews", {"app": "reviews"}),
        mesh.connect("sidecar", "10.44.1.10", "reviews", {"app": "reviews"}, namespace="other"),
        mesh.connect("router", "10.44.9.9", "in", {"istio": "ingress"}, namespace="istio-system"),
    ]


def refused(document: dict[str, Any]) -> bool:
    """A refused object leaves the last good one in force, which a fresh start cannot know."""
    outcome = decode(document["kind"], json.dumps(document).encode())
    problems = (*outcome.problems, *(validate(outcome.value) if outcome.value else ()))
    return any(problem.severity is Severity.ERROR for problem in problems)


def everything(mesh: Mesh, nodes: list[str]) -> dict[str, dict[tuple[str, str], str]]:
    """Each proxy's whole configuration, by type and name, as versions."""
    return {
        node: {
            (key.type_url, name): resource.version
            for key in mesh.views[node].sets
            for name, resource in mesh.sets.get(key, {}).items()
        }
        for node in nodes
    }


def differing(one: dict[Any, Any], other: dict[Any, Any]) -> list[Any]:
    return sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_sequence_of_changes_equals_a_fresh_start(protos: Protos, seed: int) -> None:
    random = Random(seed)
    maker = Maker(random)
    mesh = Mesh(protos)
    nodes: list[str] = []
    alive: dict[ObjectKey, dict[str, Any]] = {}
    for step in range(60):
        if step == 20:
            nodes = connect(mesh)
        if alive and random.random() < 0.25:
            key = random.choice(sorted(alive))
            del alive[key]
            mesh.objects.raw[key.kind].drop(key)
        else:
            document = maker.object()
            if refused(document):
                continue
            meta = document["metadata"]
            key = ObjectKey(document["kind"], meta["namespace"], meta["name"])
            before = alive.get(key)
            if before is not None:
                meta["creationTimestamp"] = before["metadata"]["creationTimestamp"]
            mesh.put(document)
            alive[key] = document
        if random.random() < 0.4:
            mesh.propagate()
    mesh.propagate()
    mesh.graph.verify()
    fresh = Mesh(protos)
    connect(fresh)
    for key, document in alive.items():
        fresh.objects.raw[key.kind].set(key, json.dumps(document).encode())
    fresh.propagate()
    mine, theirs = everything(mesh, nodes), everything(fresh, nodes)
    for node in nodes:
        assert differing(mine[node], theirs[node]) == []


def runs(mesh: Mesh) -> dict[str, int]:
    return {view.name: view.runs for view in mesh.graph._derived if isinstance(view, Derived)}


def changed(mesh: Mesh, text: str) -> dict[str, int]:
    """How often each transform runs for one change; those that stay still are left out."""
    before = runs(mesh)
    for document in yaml.safe_load_all(text):
        mesh.put(document)
    mesh.propagate()
    return {name: n - before[name] for name, n in runs(mesh).items() if n != before[name]}


MANY = 40


def many(mesh: Mesh) -> None:
    """A shop with many services beside it."""
    mesh.apply(SHOP)
    for i in range(MANY):
        ports = [{"name": "http", "port": 9080, "targetPort": 9080}]
        spec = {"clusterIP": f"10.43.2.{i}", "selector": {"app": f"s{i}"}, "ports": ports}
        mesh.put({"kind": "Service", "metadata": {"name": f"s{i}"}, "spec": spec})
    mesh.propagate()
    mesh.connect("sidecar", "10.44.0.4", "ratings-v1", {"app": "ratings"})
    mesh.connect("sidecar", "10.44.0.2", "reviews-v1", {"app": "reviews"})


RULE = """
kind: DestinationRule
metadata: {name: r, creationTimestamp: "2026-02-01T00:00:00Z"}
spec: {host: reviews, trafficPolicy: {connectionPool: {tcp: {maxConnections: %d}}}}
"""
ROUTE = """
kind: VirtualService
metadata: {name: r, creationTimestamp: "2026-02-01T00:00:00Z"}
spec: {hosts: [reviews], http: [{timeout: %ds, route: [{destination: {host: reviews}}]}]}
"""


def test_a_changed_rule_recompiles_its_own_host_and_nothing_else(mesh: Mesh) -> None:
    many(mesh)
    mesh.apply(RULE % 1)
    ran = changed(mesh, RULE % 2)
    assert ran.pop("sealed clusters") == 1
    assert ran.pop("sealed endpoints") == 1
    assert "sealed listeners" not in ran
    assert ran.pop("sealed inbound") == 1, "it limits its own workload's connections, too"
    assert sum(ran.values()) < MANY


def test_a_changed_route_recompiles_its_own_host_and_nothing_else(mesh: Mesh) -> None:
    many(mesh)
    mesh.apply(ROUTE % 1)
    ran = changed(mesh, ROUTE % 2)
    assert ran.pop("sealed virtual hosts") == 1
    for still in ("sealed clusters", "sealed endpoints", "sealed listeners", "sealed inbound"):
        assert still not in ran
    assert sum(ran.values()) < MANY


def test_an_endpoint_that_flaps_recompiles_endpoints_alone(mesh: Mesh) -> None:
    many(mesh)
    slice_ = next(d for d in yaml.safe_load_all(SHOP) if d and d["kind"] == "EndpointSlice")
    slice_["endpoints"][0]["conditions"]["ready"] = False
    ran = changed(mesh, yaml.safe_dump(slice_))
    assert ran.pop("sealed endpoints") == 1
    for still in ("sealed clusters", "sealed virtual hosts", "sealed listeners", "sealed inbound"):
        assert still not in ran
    assert sum(ran.values()) < 10


def test_an_object_of_no_proxy_recompiles_nothing(mesh: Mesh) -> None:
    many(mesh)
    ran = changed(mesh, "kind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\n")
    assert set(ran) <= {"ConfigMap", "mesh config", "mesh networks", "scoping of the mesh"}

"""A compiler on its own: YAML in, what each proxy would be sent out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from meltemi.base.keys import ObjectKey
from meltemi.base.resource import Change, NodeInfo, Resource, node_from_id
from meltemi.compile.build import Compiled, compile_views
from meltemi.compile.settings import MeshSettings, settings_view
from meltemi.flow import Graph, Source
from meltemi.model.build import Domain, build
from meltemi.model.objects import objects
from meltemi.protos import Protos, load
from meltemi.proxy.envoy import envoy_path


@pytest.fixture(scope="session")
def protos(tmp_path_factory: pytest.TempPathFactory) -> Protos:
    return load(envoy_path(), tmp_path_factory.mktemp("descriptors"))


class Mesh:
    """Objects and connected proxies; `sees` is a proxy's whole configuration by type and name."""

    def __init__(self, protos: Protos) -> None:
        self.protos = protos
        self.graph = Graph()
        self.objects = objects(self.graph, "cluster.local")
        self.model = build(self.graph, self.objects, Domain())
        self.proxies: Source[str, NodeInfo] = self.graph.source("proxies")
        self.settings: Source[str, MeshSettings] = self.graph.source("start settings")
        self.settings.set("mesh", MeshSettings())
        settings = settings_view(self.graph, self.settings, self.objects.mesh.config)
        self.demands: Source[ObjectKey, frozenset[str]] = self.graph.source("demands")
        self.compiled: Compiled = compile_views(
            self.graph, self.model, self.proxies, settings, protos, self.demands
        )
        self.sets: dict[Any, dict[str, Resource]] = {}
        self.views: dict[str, Any] = {}
        self._clock = 0

    def apply(self, text: str) -> Change:
        for document in yaml.safe_load_all(text):
            if document:
                self.put(document)
        return self.propagate()

    def put(self, document: dict[str, Any]) -> None:
        meta = document["metadata"]
        meta.setdefault("namespace", "default")
        self._clock += 1
        meta.setdefault(
            "creationTimestamp",
            f"2026-01-01T{self._clock // 3600:02d}:"
            f"{self._clock // 60 % 60:02d}:{self._clock % 60:02d}Z",
        )
        key = ObjectKey(document["kind"], meta["namespace"], meta["name"])
        self.objects.raw[key.kind].set(key, json.dumps(document).encode())

    def drop(self, kind: str, name: str, namespace: str = "default") -> Change:
        self.objects.raw[kind].drop(ObjectKey(kind, namespace, name))
        return self.propagate()

    def connect(
        self, kind: str, ip: str, name: str, labels: Mapping[str, str], namespace: str = "default"
    ) -> str:
        node = f"{kind}~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local"
        self.proxies.set(node, node_from_id(node, labels, {}))
        self.propagate()
        return node

    def propagate(self) -> Change:
        change = self.compiled.change(self.graph.propagate(), self.graph.revision)
        for key, resources in change.resources.items():
            for name, resource in resources.items():
                if resource is None:
                    self.sets.get(key, {}).pop(name, None)
                else:
                    self.sets.setdefault(key, {})[name] = resource
        for node, view in change.views.items():
            if view is None:
                self.views.pop(node, None)
            else:
                self.views[node] = view
        return change

    def sees(self, node: str, type_url: str) -> dict[str, dict[str, Any]]:
        """One type of a proxy's configuration, as JSON by name."""
        found: dict[str, dict[str, Any]] = {}
        message = self.protos.message(type_url.rpartition("/")[2])
        for key in self.views[node].sets:
            if key.type_url == type_url:
                for name, resource in self.sets.get(key, {}).items():
                    assert name not in found, f"{name} is in two sets of one view"
                    parsed = message()
                    parsed.ParseFromString(resource.body)
                    self.protos._know_types({})
                    found[name] = self.protos.to_dict(parsed)
        return found

    def resources(self, node: str, type_url: str) -> dict[str, Resource]:
        return {
            name: resource
            for key in self.views[node].sets
            if key.type_url == type_url
            for name, resource in self.sets.get(key, {}).items()
        }


@pytest.fixture
def mesh(protos: Protos) -> Mesh:
    return Mesh(protos)


def service(name: str, *ports: str, namespace: str = "default", ip: str = "10.43.0.1") -> str:
    """A Service; a port is `name:number` or `name:number:target`."""
    listed = []
    for port in ports:
        label, number, *target = port.split(":")
        listed.append(
            {
                "name": label,
                "port": int(number),
                "targetPort": int(target[0]) if target else int(number),
            }
        )
    body = {
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": ip, "selector": {"app": name}, "ports": listed},
    }
    return "---\n" + yaml.safe_dump(body)


def pod(name: str, app: str, version: str, ip: str, *, namespace: str = "default") -> str:
    labels = {"app": app, "version": version, "security.istio.io/tlsMode": "istio"}
    body = {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"serviceAccountName": f"sa-{app}", "containers": [{"name": "app"}]},
        "status": {
            "phase": "Running",
            "podIP": ip,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    return "---\n" + yaml.safe_dump(body)


def endpoints(name: str, port: str, *pods: str, namespace: str = "default") -> str:
    """An EndpointSlice; a pod is `name=ip`."""
    label, number = port.split(":")
    body = {
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-slice",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": label, "port": int(number), "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [p.partition("=")[2]],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "name": p.partition("=")[0], "namespace": namespace},
            }
            for p in pods
        ],
    }
    return "---\n" + yaml.safe_dump(body)


SHOP = (
    service("reviews", "http:9080", ip="10.43.0.2")
    + service("ratings", "http:9080", ip="10.43.0.3")
    + service("db", "tcp:5432", ip="10.43.0.4")
    + service("odd", "web:7000", ip="10.43.0.5")
    + service("greeter", "grpc:50051", ip="10.43.0.6")
    + pod("reviews-v1", "reviews", "v1", "10.44.0.2")
    + pod("reviews-v2", "reviews", "v2", "10.44.0.3")
    + pod("ratings-v1", "ratings", "v1", "10.44.0.4")
    + pod("db-0", "db", "v1", "10.44.0.5")
    + endpoints("reviews", "http:9080", "reviews-v1=10.44.0.2", "reviews-v2=10.44.0.3")
    + endpoints("ratings", "http:9080", "ratings-v1=10.44.0.4")
    + endpoints("db", "tcp:5432", "db-0=10.44.0.5")
)


def samples() -> Path:
    return Path(__file__).parents[3] / "samples"

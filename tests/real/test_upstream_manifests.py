"""Manifests of the shape that the upstream Bookinfo has, image names and all, apply unchanged."""

import re
import urllib.request
from collections.abc import Iterator

import pytest
import yaml

from tests.real.conftest import Mesh, running_mesh

REGISTRIES = ("docker.io/istio", "registry.istio.io/release")
VERSIONS = (
    ("details", "v1"),
    ("ratings", "v1"),
    ("reviews", "v1"),
    ("reviews", "v2"),
    ("reviews", "v3"),
    ("productpage", "v1"),
)
WRITABLE = {"tmp": "/tmp", "wlp-output": "/opt/ibm/wlp/output"}
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: bookinfo-gateway}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8080, name: http, protocol: HTTP}
    hosts: ["*"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bookinfo}
spec:
  hosts: ["*"]
  gateways: [bookinfo-gateway]
  http:
  - match:
    - uri: {exact: /productpage}
    - uri: {prefix: /static}
    - uri: {exact: /login}
    - uri: {exact: /logout}
    - uri: {prefix: /api/v1/products}
    route:
    - destination:
        host: productpage
        port: {number: 9080}
"""


@pytest.fixture(scope="module")
def bare_mesh(own_network: None) -> Iterator[Mesh]:
    yield from running_mesh()


def manifests(registry: str) -> str:
    """Services, ServiceAccounts and Deployments under their upstream names."""
    documents: list[object] = []
    for app in dict.fromkeys(app for app, _ in VERSIONS):
        labels = {"app": app, "service": app}
        ports = [{"port": 9080, "name": "http"}]
        documents += [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": app, "labels": labels},
                "spec": {"ports": ports, "selector": {"app": app}},
            },
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": f"bookinfo-{app}", "labels": {"account": app}},
            },
        ]
    documents += [deployment(registry, app, version) for app, version in VERSIONS]
    return yaml.safe_dump_all(documents)


def deployment(registry: str, app: str, version: str) -> object:
    labels = {"app": app, "version": version}
    container: dict[str, object] = {
        "name": app,
        "image": f"{registry}/examples-bookinfo-{app}-{version}:1.20.3",
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"containerPort": 9080}],
    }
    pod: dict[str, object] = {"serviceAccountName": f"bookinfo-{app}", "containers": [container]}
    if app in ("reviews", "productpage"):
        container["volumeMounts"] = [{"name": n, "mountPath": p} for n, p in WRITABLE.items()]
        pod["volumes"] = [{"name": name, "emptyDir": {}} for name in WRITABLE]
    if app == "reviews":
        container["env"] = [{"name": "LOG_DIR", "value": "/tmp/logs"}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{app}-{version}", "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


@pytest.mark.parametrize("registry", REGISTRIES)
def test_bookinfo_under_its_upstream_names_is_served(bare_mesh: Mesh, registry: str) -> None:
    mesh = bare_mesh
    mesh.kubectl("label", "namespace", "default", "istio-injection=enabled", "--overwrite")
    mesh.kubectl("apply", "-f", "-", text=manifests(registry))
    for app, version in VERSIONS:
        mesh.kubectl("rollout", "status", f"deployment/{app}-{version}", "--timeout=60s")
    mesh.apply(GATEWAY, "virtualservice/bookinfo", "gateway/bookinfo-gateway")
    reviewers = set()
    for _ in range(30):
        with urllib.request.urlopen(f"{mesh.ingress}/productpage", timeout=10) as reply:
            assert reply.status == 200
            reviewers |= set(re.findall(r"reviews-v\d", reply.read().decode()))
    assert reviewers == {"reviews-v1", "reviews-v2", "reviews-v3"}
    assert all(proxy["rejected"] == [] for proxy in mesh.proxies())

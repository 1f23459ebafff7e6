"""Networks: what is reached directly, what through a gateway, and what not at all."""

import json
from collections import Counter
from typing import Any

import pytest
import yaml

from meltemi.base.problems import Code
from meltemi.base.resource import ENDPOINT

from .conftest import SHOP, Mesh, service

HOST = "vm.default.svc.cluster.local"
NAME = f"outbound|80||{HOST}"
NAMESPACE = """
kind: Namespace
metadata: {name: istio-system, labels: {topology.istio.io/network: near}}
"""
ENTRIES = """
kind: WorkloadEntry
metadata: {name: here, labels: {app: vm}}
spec: {address: 10.50.0.1, serviceAccount: vm}
---
kind: WorkloadEntry
metadata: {name: there, labels: {app: vm}}
spec: {address: 10.50.0.2, network: far, serviceAccount: vm, weight: 2, locality: eu/a}
---
kind: WorkloadEntry
metadata: {name: beside, labels: {app: vm}}
spec: {network: far, serviceAccount: vm, locality: eu/a}
---
kind: WorkloadEntry
metadata: {name: plain, labels: {app: vm}}
spec: {address: 10.50.0.4, network: far, locality: eu/a}
"""
LABELLED = """
kind: Service
metadata:
  name: east-west
  namespace: istio-system
  labels: {topology.istio.io/network: far, networking.istio.io/gatewayPort: "15444"}
spec: {externalIPs: [192.0.2.1, 192.0.2.2], ports: [{name: tls, port: 15444}]}
"""
VM = service("vm", "http:80", ip="10.43.3.3")


def mesh_networks(said: Any) -> str:
    meta = {"name": "istio", "namespace": "istio-system"}
    data = {"meshNetworks": yaml.safe_dump(said)}
    return yaml.safe_dump({"kind": "ConfigMap", "metadata": meta, "data": data})


@pytest.fixture
def client(mesh: Mesh) -> str:
    mesh.apply(SHOP + VM + "---" + ENTRIES + "---" + NAMESPACE)
    return mesh.connect("sidecar", "10.44.0.4", "ratings-v1", {"app": "ratings"})


def reached(mesh: Mesh, node: str, name: str = NAME) -> dict[str, int]:
    """Weights by address and port."""
    found: Counter[str] = Counter()
    for group in mesh.sees(node, ENDPOINT)[name].get("endpoints", ()):
        for item in group["lb_endpoints"]:
            address = item["endpoint"]["address"]["socket_address"]
            weight = item.get("load_balancing_weight", 1)
            found[f"{address['address']}:{address['port_value']}"] += weight
    return found


def test_without_gateways_all_addresses_are_reached(mesh: Mesh, client: str) -> None:
    assert set(reached(mesh, client)) == {"10.50.0.1:80", "10.50.0.2:80", "10.50.0.4:80"}


def test_the_gateways_of_a_network_stand_for_what_is_behind_them(mesh: Mesh, client: str) -> None:
    """With its weight, between them; what cannot be told by its SNI is not reached."""
    mesh.apply(LABELLED)
    assert reached(mesh, client) == {
        "10.50.0.1:80": 2,
        "192.0.2.1:15444": 3,
        "192.0.2.2:15444": 3,
    }
    text = json.dumps(mesh.sees(client, ENDPOINT)[NAME])
    assert text.count('"tlsMode": "istio"') == 3
    far = mesh.connect("sidecar", "10.50.0.9", "far", {"topology.istio.io/network": "far"})
    assert set(reached(mesh, far)) == {"10.50.0.1:80", "10.50.0.2:80", "10.50.0.4:80"}
    mesh.graph.verify()
    mesh.drop("Service", "east-west", "istio-system")
    assert len(reached(mesh, client)) == 3
    mesh.graph.verify()


def test_networks_of_the_config_map(mesh: Mesh, client: str) -> None:
    """By address, and gateways by address or by the name of their Service."""
    gateways: list[dict[str, Any]] = [{"address": "192.0.2.9", "port": 15443}]
    far = {"endpoints": [{"fromCidr": "10.50.0.1/32"}], "gateways": gateways}
    mesh.apply(mesh_networks({"networks": {"far": far}}))
    assert reached(mesh, client) == {"192.0.2.9:15443": 4}
    name = "east-west.istio-system.svc.cluster.local"
    gateways[0] = {"registryServiceName": name, "port": 15444}
    mesh.apply(mesh_networks({"networks": {"far": far}}))
    (problem,) = [p for p in mesh.graph.problems() if p.code is Code.UNKNOWN_HOST]
    assert problem.path == "data.meshNetworks.networks.far.gateways[0].registryServiceName"
    assert len(reached(mesh, client)) == 3
    mesh.apply(LABELLED)
    assert set(reached(mesh, client)) == {"192.0.2.1:15444", "192.0.2.2:15444"}
    mesh.graph.verify()


def test_the_network_of_the_mesh_may_be_its_registrys(mesh: Mesh, client: str) -> None:
    mesh.drop("Namespace", "istio-system")
    near = {"endpoints": [{"fromRegistry": "Kubernetes"}]}
    far = {"gateways": [{"address": "192.0.2.9"}]}
    mesh.apply(NAMESPACE.replace("{topology.istio.io/network: near}", "{}"))
    mesh.apply(mesh_networks({"networks": {"near": near, "far": far}}))
    assert set(reached(mesh, client)) == {"10.50.0.1:80", "192.0.2.9:15443"}


def test_a_rule_without_mutual_tls_reaches_no_other_network(mesh: Mesh, client: str) -> None:
    mesh.apply(LABELLED)
    rule = f"{{host: {HOST}, trafficPolicy: {{tls: {{mode: DISABLE}}}}}}"
    mesh.apply(f"kind: DestinationRule\nmetadata: {{name: vm}}\nspec: {rule}")
    assert set(reached(mesh, client)) == {"10.50.0.1:80"}


def test_what_networks_may_not_say(mesh: Mesh, client: str) -> None:
    mesh.apply(LABELLED)
    wrong = {
        "endpoints": [{"fromCidr": "everywhere"}, {}],
        "gateways": [{"address": "a.name"}, {"port": 1}, {"address": "192.0.2.1", "port": 0}],
    }
    mesh.apply(mesh_networks({"networks": {"far": wrong}}))
    found = {p.path for p in mesh.graph.problems() if p.code is Code.BAD_VALUE}
    path = "data.meshNetworks.networks.far"
    assert found == {
        f"{path}.endpoints[0].fromCidr",
        f"{path}.endpoints[1]",
        f"{path}.gateways[0].address",
        f"{path}.gateways[1]",
        f"{path}.gateways[2].port",
    }
    mesh.apply(LABELLED.replace('15444"', 'door"'))
    assert any("gatewayPort" in p.path for p in mesh.graph.problems())
    assert "192.0.2.1:15444" in reached(mesh, client)


def test_a_gateway_between_networks_passes_traffic_to_its_own(mesh: Mesh, client: str) -> None:
    mesh.apply(LABELLED)
    mesh.apply("""
kind: Gateway
metadata: {name: cross, namespace: istio-system}
spec:
  selector: {istio: eastwestgateway}
  servers:
  - port: {number: 15443, name: tls, protocol: TLS}
    hosts: ["*.local"]
    tls: {mode: AUTO_PASSTHROUGH}
""")
    passed = f"outbound_.80_._.{HOST}"
    labels = {"istio": "eastwestgateway", "topology.istio.io/network": "far"}
    far = mesh.connect("router", "10.50.1.1", "east-west", labels, namespace="istio-system")
    assert set(reached(mesh, far, passed)) == {"10.50.0.2:80"}
    labels["topology.istio.io/network"] = "near"
    near = mesh.connect("router", "10.44.1.1", "west-east", labels, namespace="istio-system")
    assert set(reached(mesh, near, passed)) == {"10.50.0.1:80"}


def test_an_inline_endpoint_may_be_of_another_network(mesh: Mesh, client: str) -> None:
    mesh.apply(LABELLED)
    mesh.apply("""
kind: ServiceEntry
metadata: {name: legacy}
spec:
  hosts: [legacy.internal]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints:
  - {address: 10.60.0.1, network: far, serviceAccount: old}
  - {address: 10.60.0.2, labels: {topology.istio.io/network: far}, serviceAccount: old}
  - {network: far, serviceAccount: old}
  - {address: 10.60.0.3, serviceAccount: old}
""")
    assert reached(mesh, client, "outbound|80||legacy.internal") == {
        "10.60.0.3:80": 2,
        "192.0.2.1:15444": 3,
        "192.0.2.2:15444": 3,
    }

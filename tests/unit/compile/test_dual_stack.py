"""IPv6 beside IPv4: what a proxy with addresses of both families is sent, and what others are."""

from typing import Any

import pytest
import yaml

from meltemi.base.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, node_from_id

from .conftest import SHOP, Mesh, endpoints, pod, service

SIX = "fd00::44:"
NODE = "sidecar~10.44.0.4~ratings-v1.default~default.svc.cluster.local"


def both(text: str, *addresses: str) -> str:
    """A Service or Pod of `text` with a further address."""
    document = yaml.safe_load(text.removeprefix("---\n"))
    if document["kind"] == "Pod":
        first = document["status"]["podIP"]
        document["status"]["podIPs"] = [{"ip": ip} for ip in (first, *addresses)]
    else:
        first = document["spec"]["clusterIP"]
        document["spec"]["clusterIPs"] = [first, *addresses]
    return "---\n" + yaml.safe_dump(document)


def of_six(text: str) -> str:
    """An EndpointSlice, as the IPv6 half of a Service's."""
    document = yaml.safe_load(text.removeprefix("---\n"))
    document["metadata"]["name"] += "-ipv6"
    document["addressType"] = "IPv6"
    return "---\n" + yaml.safe_dump(document)


DUAL = (
    SHOP
    + both(pod("ratings-v1", "ratings", "v1", "10.44.0.4"), f"{SIX}4")
    + both(pod("reviews-v1", "reviews", "v1", "10.44.0.2"), f"{SIX}2")
    + both(pod("db-0", "db", "v1", "10.44.0.5"), f"{SIX}5")
    + both(service("reviews", "http:9080", ip="10.43.0.2"), "FD00::43:0:2")
    + both(service("ratings", "http:9080", ip="10.43.0.3"), "fd00::43:3")
    + both(service("db", "tcp:5432", ip="10.43.0.4"), "fd00::43:4")
    + of_six(endpoints("reviews", "http:9080", f"reviews-v1={SIX}2"))
    + of_six(endpoints("db", "tcp:5432", f"db-0={SIX}5"))
)


def connect(mesh: Mesh, *, ipv6: bool = True) -> str:
    addresses = "10.44.0.4,fd00::44:4" if ipv6 else "10.44.0.4"
    info = node_from_id(NODE, {"app": "ratings"}, {"INSTANCE_IPS": addresses})
    mesh.proxies.set(NODE, info)
    mesh.propagate()
    return NODE


@pytest.fixture
def client(mesh: Mesh) -> str:
    mesh.apply(DUAL)
    return connect(mesh)


def also(listener: dict[str, Any]) -> list[str]:
    return [a["address"]["socket_address"]["address"] for a in listener["additional_addresses"]]


@pytest.mark.parametrize("name", ["virtualOutbound", "virtualInbound", "0.0.0.0_9080"])
def test_what_listens_at_any_address_does_so_in_both_families(
    mesh: Mesh, client: str, name: str
) -> None:
    assert also(mesh.sees(client, LISTENER)[name]) == ["::"]


def test_a_proxy_without_ipv6_is_sent_none(mesh: Mesh) -> None:
    mesh.apply(DUAL + pod("ratings-v1", "ratings", "v1", "10.44.0.4"))
    client = connect(mesh, ipv6=False)
    listeners = mesh.sees(client, LISTENER)
    assert not any(":" in name for name in listeners)
    assert not any("additional_addresses" in listener for listener in listeners.values())
    inbound = mesh.sees(client, CLUSTER)["InboundPassthroughCluster"]
    assert "extra_source_addresses" not in inbound["upstream_bind_config"]


def test_tcp_stands_at_each_address_of_its_service(mesh: Mesh, client: str) -> None:
    listeners = mesh.sees(client, LISTENER)
    assert {"10.43.0.4_5432", "fd00::43:4_5432"} <= set(listeners)


def test_a_service_answers_to_its_ipv6_address(mesh: Mesh, client: str) -> None:
    hosts = mesh.sees(client, ROUTE)["9080"]["virtual_hosts"]
    reviews = next(h for h in hosts if h["name"].startswith("reviews."))
    assert {"10.43.0.2", "[fd00::43:0:2]"} <= set(reviews["domains"])


def test_a_pod_with_two_addresses_is_one_endpoint(mesh: Mesh, client: str) -> None:
    name = "outbound|9080||reviews.default.svc.cluster.local"
    (group,) = mesh.sees(client, ENDPOINT)[name]["endpoints"]
    found = {}
    for endpoint in group["lb_endpoints"]:
        address = endpoint["endpoint"]["address"]["socket_address"]["address"]
        further = endpoint["endpoint"].get("additional_addresses", [])
        found[address] = [f["address"]["socket_address"]["address"] for f in further]
        assert endpoint["load_balancing_weight"] == 1
    assert found == {"10.44.0.2": [f"{SIX}2"], "10.44.0.3": []}
    assert group["load_balancing_weight"] == 2


def test_a_service_of_ipv6_alone_has_ipv6_endpoints(mesh: Mesh) -> None:
    six = both(pod("six-0", "six", "v1", "10.44.0.9"), f"{SIX}9")
    mesh.apply(DUAL + six + service("six", "http:80", ip="fd00::43:9"))
    mesh.apply(of_six(endpoints("six", "http:80", f"six-0={SIX}9")))
    client = connect(mesh)
    name = "outbound|80||six.default.svc.cluster.local"
    (group,) = mesh.sees(client, ENDPOINT)[name]["endpoints"]
    (endpoint,) = group["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"]["address"] == f"{SIX}9"
    assert endpoint["metadata"]["filter_metadata"]["mesh"]["workload"] == "six-0"


def test_headless_pods_are_reached_at_each_of_their_addresses(mesh: Mesh) -> None:
    headless = service("peers", "tcp:7700", ip="None")
    mesh.apply(DUAL + headless + endpoints("peers", "tcp:7700", "db-0=10.44.0.5"))
    mesh.apply(of_six(endpoints("peers", "tcp:7700", f"db-0={SIX}5")))
    listeners = mesh.sees(connect(mesh), LISTENER)
    assert {"10.44.0.5_7700", f"{SIX}5_7700"} <= set(listeners)


def test_the_application_is_reached_from_a_source_of_its_family(mesh: Mesh, client: str) -> None:
    clusters = mesh.sees(client, CLUSTER)
    for name in ("inbound|9080||", "InboundPassthroughCluster"):
        bind = clusters[name]["upstream_bind_config"]
        assert bind["source_address"]["address"] == "127.0.0.6"
        assert [s["address"]["address"] for s in bind["extra_source_addresses"]] == ["::6"]
    (group,) = clusters["inbound|9080||"]["load_assignment"]["endpoints"]
    (own,) = group["lb_endpoints"]
    further = own["endpoint"]["additional_addresses"]
    assert [f["address"]["socket_address"]["address"] for f in further] == [f"{SIX}4"]


def gateway(mesh: Mesh, *servers: str) -> dict[str, Any]:
    node = "router~10.44.0.80~edge-1.default~default.svc.cluster.local"
    listed = "".join(
        f"  - {{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*']{bind}}}\n"
        for bind in servers
    )
    mesh.apply(
        "kind: Gateway\nmetadata: {name: edge}\nspec:\n  selector: {app: edge}\n  servers:\n"
        + listed
    )
    metadata = {"INSTANCE_IPS": "10.44.0.80,fd00::44:80"}
    mesh.proxies.set(node, node_from_id(node, {"app": "edge"}, metadata))
    mesh.propagate()
    return mesh.sees(node, LISTENER)


def test_a_gateway_listens_in_both_families(mesh: Mesh) -> None:
    assert also(gateway(mesh, "")["0.0.0.0_80"]) == ["::"]


def test_a_server_that_binds_ipv6_has_it_to_itself(mesh: Mesh) -> None:
    listeners = gateway(mesh, "", ", bind: '::'")
    assert set(listeners) == {"0.0.0.0_80", "::_80"}
    assert "additional_addresses" not in listeners["0.0.0.0_80"]


def test_an_egress_listener_that_binds_ipv6_has_it_to_itself(mesh: Mesh) -> None:
    mesh.apply(DUAL)
    mesh.apply(
        """
kind: Sidecar
metadata: {name: default}
spec:
  egress:
  - {port: {number: 9080, protocol: HTTP, name: six}, bind: '::', hosts: ['./*']}
  - {hosts: ['./*']}
"""
    )
    listeners = mesh.sees(connect(mesh), LISTENER)
    assert {"0.0.0.0_9080", "::_9080"} <= set(listeners)
    assert "additional_addresses" not in listeners["0.0.0.0_9080"]


@pytest.mark.parametrize(
    ("endpoint", "address", "further"),
    [
        ("[::1]:8080", "::1", []),
        ("[::]:8080", "10.44.0.4", [f"{SIX}4"]),
        ("127.0.0.1:8080", "127.0.0.1", []),
    ],
)
def test_a_sidecar_names_the_application_in_either_family(
    mesh: Mesh, endpoint: str, address: str, further: list[str]
) -> None:
    mesh.apply(DUAL)
    mesh.apply(
        f"""
kind: Sidecar
metadata: {{name: ratings}}
spec:
  workloadSelector: {{labels: {{app: ratings}}}}
  ingress: [{{port: {{number: 9080, protocol: HTTP, name: http}}, defaultEndpoint: '{endpoint}'}}]
"""
    )
    cluster = mesh.sees(connect(mesh), CLUSTER)["inbound|9080||"]
    (group,) = cluster["load_assignment"]["endpoints"]
    found = group["lb_endpoints"][0]["endpoint"]
    assert found["address"]["socket_address"]["address"] == address
    others = found.get("additional_addresses", [])
    assert [a["address"]["socket_address"]["address"] for a in others] == further


def test_without_ipv6_the_loopback_is_called_from_itself(mesh: Mesh) -> None:
    mesh.apply(SHOP)
    mesh.apply(
        """
kind: Sidecar
metadata: {name: ratings}
spec:
  ingress: [{port: {number: 9080, protocol: HTTP, name: http}, defaultEndpoint: '[::1]:8080'}]
"""
    )
    cluster = mesh.sees(connect(mesh, ipv6=False), CLUSTER)["inbound|9080||"]
    assert cluster["upstream_bind_config"]["source_address"]["address"] == "::1"

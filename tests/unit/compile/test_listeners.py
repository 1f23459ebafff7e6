"""Outbound listeners: who stands where, what shares one, what conflicts, what a change touches."""

from pathlib import Path
from typing import Any

import pytest

from meltemi.base.problems import Code
from meltemi.base.resource import LISTENER, ROUTE

from .conftest import SHOP, Mesh, endpoints, pod, service
from .test_compile import accepted, static_bootstrap

TLS_ROUTES = """
kind: VirtualService
metadata: {name: vault}
spec:
  hosts: [vault, other.vault.example]
  tls:
  - match: [{sniHosts: [other.vault.example]}]
    route: [{destination: {host: db}}]
  - match: [{sniHosts: [vault.default.svc.cluster.local]}]
    route: [{destination: {host: vault}}]
"""
TCP_ROUTES = """
kind: VirtualService
metadata: {name: db}
spec:
  hosts: [db]
  tcp:
  - match: [{destinationSubnets: [10.43.0.4/32], sourceLabels: {app: ratings}}]
    route:
    - {destination: {host: db}, weight: 20}
    - {destination: {host: odd}, weight: 80}
"""
HEADLESS = (
    service("peers", "tcp:7700", ip="None")
    + pod("peers-0", "peers", "v1", "10.44.0.21")
    + pod("peers-1", "peers", "v1", "10.44.0.22")
    + endpoints("peers", "tcp:7700", "peers-0=10.44.0.21", "peers-1=10.44.0.22")
)


@pytest.fixture
def client(mesh: Mesh) -> str:
    mesh.apply(SHOP)
    return mesh.connect("sidecar", "10.44.0.4", "ratings-v1", {"app": "ratings"})


def tcp_of(chain: dict[str, Any]) -> dict[str, Any]:
    return next(f for f in chain["filters"] if f["name"].endswith("tcp_proxy"))["typed_config"]


def test_http_services_share_a_port_and_others_stand_at_their_address(
    mesh: Mesh, client: str
) -> None:
    listeners = mesh.sees(client, LISTENER)
    assert set(listeners) - {"virtualOutbound", "virtualInbound"} == {
        "0.0.0.0_9080",
        "0.0.0.0_50051",
        "10.43.0.4_5432",
        "10.43.0.5_7000",
    }
    shared = listeners["0.0.0.0_9080"]
    assert shared["filter_chains"][0]["filter_chain_match"] == {
        "transport_protocol": "raw_buffer",
        "application_protocols": ["http/1.0", "http/1.1", "h2c"],
    }
    assert shared["default_filter_chain"]["name"] == "PassthroughFilterChain"
    plain = listeners["10.43.0.4_5432"]
    assert "listener_filters" not in plain
    assert tcp_of(plain["default_filter_chain"])["cluster"].startswith("outbound|5432||db.")


def test_a_sniffed_port_marks_its_tcp_for_the_other_end(mesh: Mesh, client: str) -> None:
    odd = mesh.sees(client, LISTENER)["10.43.0.5_7000"]
    manager = odd["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["rds"]["route_config_name"] == "odd.default.svc.cluster.local:7000"
    names = [f["name"] for f in odd["default_filter_chain"]["filters"]]
    assert names == ["envoy.filters.network.set_filter_state", "envoy.filters.network.tcp_proxy"]


def test_tls_routes_are_told_apart_by_their_sni(mesh: Mesh, client: str) -> None:
    mesh.apply(service("vault", "tls:8200", ip="10.43.0.9") + "---" + TLS_ROUTES)
    listener = mesh.sees(client, LISTENER)["10.43.0.9_8200"]
    found = {
        tuple(c["filter_chain_match"]["server_names"]): tcp_of(c)["cluster"]
        for c in listener["filter_chains"]
    }
    assert found == {
        ("other.vault.example",): "outbound|5432||db.default.svc.cluster.local",
        ("vault.default.svc.cluster.local",): "outbound|8200||vault.default.svc.cluster.local",
    }
    assert listener["default_filter_chain"]["name"] == "PassthroughFilterChain"
    assert [f["name"] for f in listener["listener_filters"]] == [
        "envoy.filters.listener.tls_inspector"
    ]


def test_tcp_routes_bind_only_the_clients_they_name(mesh: Mesh, client: str) -> None:
    mesh.apply(TCP_ROUTES)
    other = mesh.connect("sidecar", "10.44.0.2", "reviews-v1", {"app": "reviews"})
    routed = mesh.sees(client, LISTENER)["10.43.0.4_5432"]
    (chain,) = routed["filter_chains"]
    assert chain["filter_chain_match"]["prefix_ranges"] == [
        {"address_prefix": "10.43.0.4", "prefix_len": 32}
    ]
    weighted = tcp_of(chain)["weighted_clusters"]["clusters"]
    assert [(c["name"].split("|")[3].split(".")[0], c["weight"]) for c in weighted] == [
        ("db", 20),
        ("odd", 80),
    ]
    assert "filter_chains" not in mesh.sees(other, LISTENER)["10.43.0.4_5432"]


def test_a_headless_service_is_met_at_each_of_its_pods(mesh: Mesh, client: str) -> None:
    mesh.apply(HEADLESS)
    assert {"10.44.0.21_7700", "10.44.0.22_7700"} <= mesh.sees(client, LISTENER).keys()
    mesh.apply(endpoints("peers", "tcp:7700", "peers-1=10.44.0.22"))
    assert "10.44.0.21_7700" not in mesh.sees(client, LISTENER)
    mesh.graph.verify()


def test_the_oldest_keeps_an_address_and_the_younger_is_reported(mesh: Mesh, client: str) -> None:
    mesh.apply(service("late", "tcp:5432", ip="10.43.0.4"))
    listener = mesh.sees(client, LISTENER)["10.43.0.4_5432"]
    assert "|db." in tcp_of(listener["default_filter_chain"])["cluster"]
    (problem,) = [p for p in mesh.graph.problems() if p.code is Code.PORT_CONFLICT]
    assert problem.about.name == "late"
    assert "Service/db.default" in problem.message
    mesh.drop("Service", "db")
    listener = mesh.sees(client, LISTENER)["10.43.0.4_5432"]
    assert "|late." in tcp_of(listener["default_filter_chain"])["cluster"]
    assert not [p for p in mesh.graph.problems() if p.code is Code.PORT_CONFLICT]


def test_one_service_touches_only_the_listeners_it_claims(mesh: Mesh, client: str) -> None:
    planned = mesh.compiled.outbound.listeners
    sealed = mesh.compiled.sealed.listeners
    before = planned.runs, sealed.runs  # type: ignore[attr-defined]
    change = mesh.apply(service("queue", "tcp:5672", ip="10.43.0.7"))
    assert (planned.runs, sealed.runs) == (before[0] + 1, before[1] + 1)  # type: ignore[attr-defined]
    touched = {n for k, v in change.resources.items() if k.type_url == LISTENER for n in v}
    assert touched == {"10.43.0.7_5672"}
    change = mesh.apply(service("more", "http:9080", ip="10.43.0.8"))
    assert not [k for k in change.resources if k.type_url == LISTENER]
    assert [k for k in change.resources if k.type_url == ROUTE]
    mesh.graph.verify()


def test_scopes_share_equal_listeners(mesh: Mesh, client: str) -> None:
    other = mesh.connect("sidecar", "10.44.0.9", "shell", {"app": "shell"}, namespace="tools")
    mine, theirs = mesh.resources(client, LISTENER), mesh.resources(other, LISTENER)
    assert mine["10.43.0.4_5432"] is theirs["10.43.0.4_5432"]
    assert mine["0.0.0.0_9080"] is theirs["0.0.0.0_9080"]


def test_envoy_accepts_every_kind_of_listener(mesh: Mesh, client: str, tmp_path: Path) -> None:
    mesh.apply(
        HEADLESS
        + service("vault", "tls:8200", ip="10.43.0.9")
        + service("docs", "mongo:27018", ip="10.43.0.10")
        + f"---{TLS_ROUTES}---{TCP_ROUTES}"
    )
    accepted(mesh.protos, static_bootstrap(mesh, client), tmp_path)

"""On-demand scope: what a proxy starts with, what it learns, and who decides."""

from typing import Any

import msgspec
import pytest

from meltemi.base.keys import ObjectKey
from meltemi.base.resource import CLUSTER, LISTENER, ROUTE, VIRTUAL_HOST, node_from_id
from meltemi.compile.demand.learn import KIND
from meltemi.simulate.world import World

from .conftest import SHOP, Mesh
from .test_compile import RULE

HOST = "reviews.default.svc.cluster.local"
REVIEWS = f"outbound|9080||{HOST}"
NODE = "sidecar~10.44.0.4~ratings-v1.default~default.svc.cluster.local"
WORKLOAD = ObjectKey(KIND, "default", "ratings")


def connect(mesh: Mesh, **annotations: str) -> str:
    metadata: dict[str, Any] = {"WORKLOAD_NAME": "ratings", "ANNOTATIONS": annotations}
    mesh.proxies.set(NODE, node_from_id(NODE, {"app": "ratings"}, metadata))
    mesh.propagate()
    return NODE


@pytest.mark.parametrize(("addresses", "also"), [("10.44.0.4", 0), ("10.44.0.4,fd00::4", 1)])
def test_listeners_that_ask_are_of_the_proxy_s_families(
    mesh: Mesh, addresses: str, also: int
) -> None:
    mesh.apply(SHOP)
    node = connect(mesh, **{"meltemi.dev/scope": "on-demand"})
    info = mesh.proxies.items()[node]
    metadata = {**info.metadata, "INSTANCE_IPS": addresses}
    mesh.proxies.set(node, msgspec.structs.replace(info, metadata=metadata))
    mesh.propagate()
    listeners = mesh.sees(node, LISTENER)
    for name in ("0.0.0.0_9080", "virtualOutbound"):
        assert len(listeners[name].get("additional_addresses", ())) == also


def ask(mesh: Mesh, *names: str) -> None:
    known = mesh.demands.get(WORKLOAD) or frozenset()
    mesh.demands.set(WORKLOAD, known | frozenset(names))
    mesh.propagate()


@pytest.fixture
def node(mesh: Mesh) -> str:
    mesh.apply(SHOP)
    return connect(mesh, **{"meltemi.dev/scope": "on-demand"})


def outbound(mesh: Mesh, node: str) -> set[str]:
    return {n for n in mesh.sees(node, CLUSTER) if n.startswith("outbound|")}


def test_a_proxy_starts_with_its_own_inbound_and_what_is_not_http(mesh: Mesh, node: str) -> None:
    assert outbound(mesh, node) == {
        "outbound|5432||db.default.svc.cluster.local",
        "outbound|7000||odd.default.svc.cluster.local",
    }
    assert "inbound|9080||" in mesh.sees(node, CLUSTER)
    listeners = mesh.sees(node, LISTENER)
    assert {"virtualOutbound", "virtualInbound", "0.0.0.0_9080", "0.0.0.0_50051"} <= set(listeners)
    assert "10.43.0.4_5432" in listeners
    manager = listeners["0.0.0.0_9080"]["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["http_filters"][0]["name"] == "envoy.filters.http.on_demand"
    route = mesh.sees(node, ROUTE)["9080"]
    assert "virtual_hosts" not in route
    assert "vhds" in route
    assert mesh.sees(node, VIRTUAL_HOST) == {}


@pytest.mark.parametrize(
    "host",
    [
        "reviews",
        "reviews:9080",
        "reviews.default",
        "reviews.default.svc:9080",
        HOST,
        "10.43.0.2:9080",
        "REVIEWS",
    ],
)
def test_a_service_is_learned_by_any_of_its_names(mesh: Mesh, node: str, host: str) -> None:
    ask(mesh, f"9080/{host}")
    assert REVIEWS in outbound(mesh, node)
    assert "outbound|9080||ratings.default.svc.cluster.local" not in outbound(mesh, node)
    found = mesh.sees(node, VIRTUAL_HOST)[f"9080/{host}"]
    assert found["domains"] == [host]
    assert found["routes"][0]["route"]["cluster"] == REVIEWS
    mesh.graph.verify()


def test_learned_routes_follow_their_rules(mesh: Mesh, node: str) -> None:
    ask(mesh, "9080/reviews")
    mesh.apply(RULE)
    mesh.apply(
        """
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {prefix: /stars}}]
    route: [{destination: {host: ratings}}]
  - route: [{destination: {host: reviews, subset: v1}}]
"""
    )
    routes = mesh.sees(node, VIRTUAL_HOST)["9080/reviews"]["routes"]
    assert [r["route"]["cluster"] for r in routes] == [
        "outbound|9080||ratings.default.svc.cluster.local",
        f"outbound|9080|v1|{HOST}",
    ]
    assert "outbound|9080||ratings.default.svc.cluster.local" in outbound(mesh, node)
    mesh.graph.verify()


def test_an_unknown_host_is_treated_as_the_mesh_says(mesh: Mesh, node: str) -> None:
    ask(mesh, "9080/example.com")
    found = mesh.sees(node, VIRTUAL_HOST)["9080/example.com"]
    assert found["routes"][0]["route"]["cluster"] == "PassthroughCluster"
    mesh.apply(
        "kind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
        "data: {mesh: 'outboundTrafficPolicy: {mode: REGISTRY_ONLY}'}"
    )
    found = mesh.sees(node, VIRTUAL_HOST)["9080/example.com"]
    assert found["routes"][0]["direct_response"]["status"] == 502


def test_other_proxies_notice_nothing(mesh: Mesh, node: str) -> None:
    other = mesh.connect("sidecar", "10.44.0.2", "reviews-v1", {"app": "reviews"})
    assert REVIEWS in outbound(mesh, other)
    assert len(mesh.sees(other, ROUTE)["9080"]["virtual_hosts"]) == 3
    change_before = {k for k in mesh.views[other].sets}
    ask(mesh, "9080/reviews")
    assert {k for k in mesh.views[other].sets} == change_before


def test_what_was_learned_is_there_at_the_next_start(mesh: Mesh, node: str) -> None:
    ask(mesh, "9080/reviews")
    mesh.proxies.drop(node)
    mesh.propagate()
    connect(mesh, **{"meltemi.dev/scope": "on-demand"})
    assert REVIEWS in outbound(mesh, node)
    assert "9080/reviews" in mesh.sees(node, VIRTUAL_HOST)


NAMESPACE = """
kind: Namespace
metadata: {name: default, namespace: "", annotations: {meltemi.dev/scope: %s}}
"""
WHOLE = """
kind: ConfigMap
metadata: {name: istio, namespace: istio-system, annotations: {meltemi.dev/scope: on-demand}}
data: {mesh: "{}"}
"""


def test_the_pod_decides_then_its_namespace_then_the_mesh(mesh: Mesh) -> None:
    mesh.apply(SHOP)
    node = connect(mesh)
    assert REVIEWS in outbound(mesh, node)
    mesh.apply(WHOLE)
    assert REVIEWS not in outbound(mesh, node)
    mesh.apply(NAMESPACE % "full")
    assert REVIEWS in outbound(mesh, node)
    mesh.apply(NAMESPACE % "on-demand")
    assert REVIEWS not in outbound(mesh, node)
    connect(mesh, **{"meltemi.dev/scope": "full"})
    assert REVIEWS in outbound(mesh, node)
    mesh.graph.verify()


def test_a_sidecar_object_is_the_users_own_word(mesh: Mesh, node: str) -> None:
    mesh.apply("kind: Sidecar\nmetadata: {name: s}\nspec: {egress: [{hosts: ['./*']}]}")
    assert REVIEWS in outbound(mesh, node)
    assert "virtual_hosts" in mesh.sees(node, ROUTE)["9080"]


def test_a_port_that_comes_and_goes_is_listened_on(mesh: Mesh, node: str) -> None:
    from .conftest import service

    mesh.apply(service("new", "http:8123", ip="10.43.0.77"))
    assert "0.0.0.0_8123" in mesh.sees(node, LISTENER)
    ask(mesh, "8123/new")
    assert "outbound|8123||new.default.svc.cluster.local" in outbound(mesh, node)
    mesh.drop("Service", "new")
    assert "0.0.0.0_8123" not in mesh.sees(node, LISTENER)
    assert "8123" not in mesh.sees(node, ROUTE)


def test_patches_reach_what_was_learned(mesh: Mesh, node: str) -> None:
    ask(mesh, "9080/reviews")
    mesh.apply(
        f"""
kind: EnvoyFilter
metadata: {{name: f}}
spec:
  configPatches:
  - applyTo: HTTP_ROUTE
    match:
      context: SIDECAR_OUTBOUND
      routeConfiguration: {{name: "9080", vhost: {{name: "{HOST}:9080"}}}}
    patch: {{operation: MERGE, value: {{route: {{timeout: 7s}}}}}}
  - applyTo: HTTP_FILTER
    match: {{context: SIDECAR_OUTBOUND}}
    patch: {{operation: INSERT_FIRST, value: {{name: mine}}}}
"""
    )
    found = mesh.sees(node, VIRTUAL_HOST)["9080/reviews"]
    assert found["routes"][0]["route"]["timeout"] == "7s"
    assert found["name"] == "9080/reviews"
    manager = mesh.sees(node, LISTENER)["0.0.0.0_9080"]["filter_chains"][0]["filters"][0]
    assert manager["typed_config"]["http_filters"][0]["name"] == "mine"
    assert list(mesh.compiled.problems()) == []


ADDING = """
kind: EnvoyFilter
metadata: {name: f}
spec:
  configPatches:
  - applyTo: VIRTUAL_HOST
    match: {context: SIDECAR_OUTBOUND, routeConfiguration: {name: "9080"}}
    patch:
      operation: ADD
      value:
        name: added
        domains: ["DOMAIN"]
        routes: [{match: {prefix: /}, direct_response: {status: 418}}]
"""


def test_added_hosts_stand_beside_those_that_are_asked_for(mesh: Mesh, node: str) -> None:
    mesh.apply(ADDING.replace("DOMAIN", "added.example.com"))
    asking = mesh.sees(node, ROUTE)["9080"]
    assert [host["name"] for host in asking["virtual_hosts"]] == ["added"]
    assert "vhds" in asking
    assert list(mesh.compiled.problems()) == []


def test_an_added_wildcard_would_take_what_is_asked_for_and_is_told(mesh: Mesh, node: str) -> None:
    mesh.apply(ADDING.replace("DOMAIN", "*.example.com"))
    assert "virtual_hosts" not in mesh.sees(node, ROUTE)["9080"]
    (problem,) = mesh.compiled.problems()
    assert (problem.about.name, problem.path) == ("f", "spec.configPatches[0]")
    assert "name the domains, or give these proxies full scope" in problem.message


def test_a_simulation_sees_what_a_first_request_would(mesh: Mesh) -> None:
    mesh.apply(SHOP)
    mesh.apply(NAMESPACE % "on-demand")
    raw = {k: v for source in mesh.objects.raw.values() for k, v in source.items().items()}
    world = World(raw)
    plan = world.plan(world.workload("ratings-v1"))
    assert plan is not None
    assert REVIEWS in plan.clusters

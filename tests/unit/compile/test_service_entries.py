"""ServiceEntries: what each resolution becomes, who is behind it, whose host it is."""

from pathlib import Path
from typing import Any

import pytest

from meltemi.base.problems import Code
from meltemi.base.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE

from .conftest import SHOP, Mesh, pod, service
from .test_compile import GATEWAY, accepted, static_bootstrap
from .test_listeners import tcp_of

EXTERNAL = """
kind: ServiceEntry
metadata: {name: external}
spec:
  hosts: [api.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  ports:
  - {number: 80, name: http, protocol: HTTP, targetPort: 8080}
  - {number: 443, name: tls, protocol: TLS}
"""
ROUND_ROBIN = """
kind: ServiceEntry
metadata: {name: robin}
spec:
  hosts: [robin.example.com]
  resolution: DNS_ROUND_ROBIN
  ports: [{number: 81, name: http, protocol: HTTP}]
  endpoints: [{address: backend.example.com, ports: {http: 8181}}]
"""
WILD = """
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: ["*.example.org"]
  resolution: DYNAMIC_DNS
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 443, name: tls, protocol: TLS}
"""
UNRESOLVED = """
kind: ServiceEntry
metadata: {name: unresolved}
spec:
  hosts: ["*.example.net"]
  resolution: NONE
  ports:
  - {number: 82, name: http, protocol: HTTP}
  - {number: 444, name: tls, protocol: TLS}
"""
STATIC = """
kind: ServiceEntry
metadata: {name: legacy}
spec:
  hosts: [legacy.internal]
  addresses: [10.99.0.1, 10.98.0.0/16]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 7000, name: tcp, protocol: TCP}]
  endpoints:
  - {address: 10.44.7.1, ports: {tcp: 7001}, labels: {version: v1}, serviceAccount: old, weight: 3,
     locality: eu/a/1}
  - {address: 10.44.7.2, labels: {version: v2}}
"""
SELECTED = """
kind: ServiceEntry
metadata: {name: mixed}
spec:
  hosts: [mixed.internal]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 9090, name: http, protocol: HTTP, targetPort: 9080}]
  workloadSelector: {labels: {app: ratings}}
---
kind: WorkloadEntry
metadata: {name: vm-1}
spec: {address: 10.44.8.1, labels: {app: ratings}, ports: {http: 9999}, serviceAccount: vm}
"""


@pytest.fixture
def client(mesh: Mesh) -> str:
    mesh.apply(SHOP)
    return mesh.connect("sidecar", "10.44.0.4", "ratings-v1", {"app": "ratings"})


def addresses(assignment: dict[str, Any]) -> dict[str, int]:
    return {
        e["endpoint"]["address"]["socket_address"]["address"]: e["endpoint"]["address"][
            "socket_address"
        ]["port_value"]
        for group in assignment.get("endpoints", ())
        for e in group["lb_endpoints"]
    }


def test_each_resolution_has_its_kind_of_cluster(mesh: Mesh, client: str) -> None:
    mesh.apply("---".join((EXTERNAL, ROUND_ROBIN, WILD, UNRESOLVED, STATIC)))
    found = mesh.sees(client, CLUSTER)
    dns = found["outbound|80||api.example.com"]
    assert dns["type"] == "STRICT_DNS"
    assert addresses(dns["load_assignment"]) == {"api.example.com": 8080}
    assert "transport_socket_matches" not in dns
    one = found["outbound|81||robin.example.com"]
    assert one["type"] == "LOGICAL_DNS"
    assert addresses(one["load_assignment"]) == {"backend.example.com": 8181}
    wild = found["outbound|80||*.example.org"]
    assert wild["cluster_type"]["name"] == "envoy.clusters.dynamic_forward_proxy"
    assert found["outbound|82||*.example.net"]["type"] == "ORIGINAL_DST"
    static = mesh.sees(client, ENDPOINT)["outbound|7000||legacy.internal"]
    assert addresses(static) == {"10.44.7.1": 7001, "10.44.7.2": 7000}
    (inside,) = [g for g in static["endpoints"] if g.get("locality")]
    assert inside["locality"] == {"region": "eu", "zone": "a", "sub_zone": "1"}
    (endpoint,) = inside["lb_endpoints"]
    assert endpoint["load_balancing_weight"] == 3
    matched = endpoint["metadata"]["filter_metadata"]["envoy.transport_socket_match"]
    assert matched == {"tlsMode": "istio"}
    mesh.graph.verify()


def test_wildcards_are_resolved_by_the_traffic_itself(mesh: Mesh, client: str) -> None:
    mesh.apply(WILD)
    listeners = mesh.sees(client, LISTENER)
    http = listeners["0.0.0.0_80"]["filter_chains"][0]["filters"][0]["typed_config"]
    names = [f["name"] for f in http["http_filters"]]
    assert names[-2:] == [
        "envoy.filters.http.dynamic_forward_proxy",
        "envoy.filters.http.router",
    ]
    (chain,) = listeners["0.0.0.0_443"]["filter_chains"]
    assert chain["filter_chain_match"]["server_names"] == ["*.example.org"]
    kinds = [f["name"].rpartition(".")[2] for f in chain["filters"]]
    assert kinds == ["sni_dynamic_forward_proxy", "tcp_proxy"]
    (host,) = [
        h for h in mesh.sees(client, ROUTE)["80"]["virtual_hosts"] if h["name"] != "allow_any"
    ]
    assert host["domains"] == ["*.example.org"]


def test_addresses_and_ranges_stand_apart(mesh: Mesh, client: str) -> None:
    mesh.apply(STATIC)
    listeners = mesh.sees(client, LISTENER)
    own = listeners["10.99.0.1_7000"]["default_filter_chain"]
    assert tcp_of(own)["cluster"] == "outbound|7000||legacy.internal"
    (ranged,) = listeners["0.0.0.0_7000"]["filter_chains"]
    assert ranged["filter_chain_match"]["prefix_ranges"] == [
        {"address_prefix": "10.98.0.0", "prefix_len": 16}
    ]
    assert listeners["0.0.0.0_7000"]["default_filter_chain"]["name"] == "PassthroughFilterChain"


def test_a_selector_finds_pods_and_entries(mesh: Mesh, client: str) -> None:
    mesh.apply(SELECTED)
    found = mesh.sees(client, ENDPOINT)["outbound|9090||mixed.internal"]
    assert addresses(found) == {"10.44.0.4": 9080, "10.44.8.1": 9999}
    mesh.drop("WorkloadEntry", "vm-1")
    found = mesh.sees(client, ENDPOINT)["outbound|9090||mixed.internal"]
    assert addresses(found) == {"10.44.0.4": 9080}
    mesh.graph.verify()


def test_a_kubernetes_service_selects_workload_entries(mesh: Mesh, client: str) -> None:
    mesh.apply(SELECTED)
    found = mesh.sees(client, ENDPOINT)["outbound|9080||ratings.default.svc.cluster.local"]
    assert addresses(found) == {"10.44.0.4": 9080, "10.44.8.1": 9999}


def test_an_unhealthy_entry_gets_no_traffic(mesh: Mesh, client: str) -> None:
    mesh.apply(
        SELECTED + "status: {conditions: [{type: Healthy, status: 'False'}]}\n",
    )
    found = mesh.sees(client, ENDPOINT)["outbound|9090||mixed.internal"]
    assert addresses(found) == {"10.44.0.4": 9080}


def test_the_own_namespace_then_kubernetes_then_age_decides_a_host(mesh: Mesh, client: str) -> None:
    def entry(name: str, namespace: str, port: int) -> str:
        return f"""
kind: ServiceEntry
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  hosts: [ratings.default.svc.cluster.local, shared.example.com]
  resolution: STATIC
  ports: [{{number: {port}, name: http, protocol: HTTP}}]
  endpoints: [{{address: 10.44.3.3}}]
"""

    far = mesh.connect("sidecar", "10.44.6.6", "far", {}, namespace="far")
    mesh.apply(entry("one", "other", 6001) + "---" + entry("two", "default", 6002))
    mine, theirs = mesh.sees(client, CLUSTER), mesh.sees(far, CLUSTER)
    assert "outbound|9080||ratings.default.svc.cluster.local" in mine.keys() & theirs.keys()
    assert "outbound|6002||shared.example.com" in mine
    assert "outbound|6001||shared.example.com" in theirs
    assert "outbound|6002||shared.example.com" not in theirs
    mesh.graph.verify()


def test_entries_of_one_host_join_when_they_agree(mesh: Mesh, client: str) -> None:
    more = EXTERNAL.replace("external", "more").replace(" 80,", " 8000,").replace("443", "8443")
    odd = EXTERNAL.replace("external", "odd").replace("DNS", "DNS_ROUND_ROBIN")
    mesh.apply(EXTERNAL + "---" + more + "---" + odd)
    found = {n for n in mesh.sees(client, CLUSTER) if n.endswith("api.example.com")}
    assert found == {f"outbound|{port}||api.example.com" for port in (80, 443, 8000, 8443)}
    (problem,) = [p for p in mesh.graph.problems() if p.code is Code.HOST_CONFLICT]
    assert problem.about.name == "odd"


def test_tcp_without_an_address_conflicts_and_http_joins(mesh: Mesh, client: str) -> None:
    mesh.apply(service("web", "http:7000", ip="10.43.0.20"))
    bare = STATIC.replace("addresses: [10.99.0.1, 10.98.0.0/16]", "")
    no_address = "labels: {networking.istio.io/enable-autoallocate-ip: 'false'}"
    first = bare.replace("{name: legacy}", f"{{name: legacy, {no_address}}}")
    second = first.replace("legacy", "newer")
    mesh.apply(first + "---" + second)
    listener = mesh.sees(client, LISTENER)["0.0.0.0_7000"]
    assert len(listener["filter_chains"]) == 1
    assert tcp_of(listener["default_filter_chain"])["cluster"].endswith("legacy.internal")
    (problem,) = [p for p in mesh.graph.problems() if p.code is Code.PORT_CONFLICT]
    assert problem.about.name == "newer"


def test_a_host_without_address_gets_one_that_stays(mesh: Mesh, client: str) -> None:
    bare = STATIC.replace("addresses: [10.99.0.1, 10.98.0.0/16]", "")
    mesh.apply(bare)
    (name,) = [n for n in mesh.sees(client, LISTENER) if n.endswith("_7000") and "240." in n]
    mesh.apply("\n---\n".join(bare.replace("legacy", f"more{i}") for i in range(20)))
    assert name in mesh.sees(client, LISTENER)
    held = "status: {addresses: [{value: 240.240.1.2, host: held.internal}]}\n"
    mesh.apply(bare.replace("legacy", "held") + held)
    assert "240.240.1.2_7000" in mesh.sees(client, LISTENER)
    mesh.graph.verify()


def test_an_alias_leads_to_the_service_it_names(mesh: Mesh, client: str) -> None:
    alias = """
kind: Service
metadata: {name: stars}
spec: {type: ExternalName, externalName: ratings.default.svc.cluster.local}
"""
    mesh.apply(alias)
    assert not [n for n in mesh.sees(client, CLUSTER) if "stars" in n]
    hosts = mesh.sees(client, ROUTE)["9080"]["virtual_hosts"]
    (stars,) = [h for h in hosts if h["name"].startswith("stars.")]
    assert "stars" in stars["domains"]
    target = stars["routes"][0]["route"]["cluster"]
    assert target == "outbound|9080||ratings.default.svc.cluster.local"


def test_a_headless_service_speaks_mutual_tls_when_all_of_it_does(mesh: Mesh, client: str) -> None:
    from .test_listeners import HEADLESS

    mesh.apply(HEADLESS)
    name = "outbound|7700||peers.default.svc.cluster.local"
    assert mesh.sees(client, CLUSTER)[name]["transport_socket"]["name"].endswith("tls")
    plain = pod("peers-0", "peers", "v1", "10.44.0.21").replace("istio", "none")
    mesh.apply(plain)
    assert "transport_socket" not in mesh.sees(client, CLUSTER)[name]


def test_bad_entries_are_refused_with_the_reason(mesh: Mesh, client: str) -> None:
    bad = """
kind: ServiceEntry
metadata: {name: bad}
spec:
  hosts: ["*", "*.x.com"]
  addresses: [10.0.0.0/8, nonsense]
  resolution: DNS
  ports:
  - {number: 80, name: a, protocol: HTTP}
  - {number: 80, name: a, protocol: SMTP}
"""
    mesh.apply(bad)
    found = {p.path for p in mesh.graph.problems() if p.about.name == "bad"}
    assert found == {
        "spec.hosts[0]",
        "spec.hosts[1]",
        "spec.addresses[0]",
        "spec.addresses[1]",
        "spec.ports[1].protocol",
        "spec.ports[1].name",
        "spec.ports[1].number",
    }


def test_envoy_accepts_every_resolution(mesh: Mesh, client: str, tmp_path: Path) -> None:
    originate = """
kind: DestinationRule
metadata: {name: api}
spec:
  host: api.example.com
  trafficPolicy: {tls: {mode: SIMPLE}}
"""
    unix = STATIC.replace("legacy", "sock").replace("10.44.7.2", "unix:///run/app.sock")
    mesh.apply("---".join((EXTERNAL, ROUND_ROBIN, WILD, UNRESOLVED, STATIC, unix, originate)))
    accepted(mesh.protos, static_bootstrap(mesh, client), tmp_path)


def test_subsets_choose_inline_endpoints(mesh: Mesh, client: str) -> None:
    rule = """
kind: DestinationRule
metadata: {name: legacy}
spec: {host: legacy.internal, subsets: [{name: v1, labels: {version: v1}}]}
"""
    mesh.apply(STATIC + "---" + rule)
    found = mesh.sees(client, ENDPOINT)["outbound|7000|v1|legacy.internal"]
    assert addresses(found) == {"10.44.7.1": 7001}


def test_an_entry_is_seen_where_it_is_exported(mesh: Mesh, client: str) -> None:
    far = mesh.connect("sidecar", "10.44.6.6", "far", {}, namespace="far")
    mesh.apply(EXTERNAL + '  exportTo: ["."]\n')
    assert "outbound|80||api.example.com" in mesh.sees(client, CLUSTER)
    assert "outbound|80||api.example.com" not in mesh.sees(far, CLUSTER)
    mesh.apply(EXTERNAL + "  exportTo: [far]\n")
    assert "outbound|80||api.example.com" not in mesh.sees(client, CLUSTER)
    assert "outbound|80||api.example.com" in mesh.sees(far, CLUSTER)


def test_an_entry_says_whom_its_clients_meet(mesh: Mesh, client: str) -> None:
    rule = """
kind: DestinationRule
metadata: {name: api}
spec: {host: api.example.com, trafficPolicy: {tls: {mode: SIMPLE}}}
"""
    mesh.apply(EXTERNAL + "  subjectAltNames: [real.example.com]\n---" + rule)
    socket = mesh.sees(client, CLUSTER)["outbound|80||api.example.com"]["transport_socket"]
    assert "real.example.com" in str(socket)


def test_a_name_is_an_endpoint_only_where_names_are_resolved(mesh: Mesh, client: str) -> None:
    named = SELECTED.replace("10.44.8.1", "vm.example.com")
    mesh.apply(named)
    static = mesh.sees(client, ENDPOINT)["outbound|9090||mixed.internal"]
    assert set(addresses(static)) == {"10.44.0.4"}
    mesh.apply(named.replace("STATIC", "DNS"))
    dns = mesh.sees(client, CLUSTER)["outbound|9090||mixed.internal"]["load_assignment"]
    assert set(addresses(dns)) == {"10.44.0.4", "vm.example.com"}


def test_an_entry_says_where_it_is_and_who(mesh: Mesh, client: str) -> None:
    more = ", weight: 5, locality: eu/a/1, "
    mesh.apply(SELECTED.replace(", ports: {http: 9999}, ", more))
    name = "outbound|9090||mixed.internal"
    (group,) = [
        g
        for g in mesh.sees(client, ENDPOINT)[name]["endpoints"]
        if "region" in g.get("locality", {})
    ]
    assert group["lb_endpoints"][0]["load_balancing_weight"] == 5
    assert "sa/vm" in str(mesh.sees(client, CLUSTER)[name])


def test_a_gateway_resolves_wildcards_where_its_routes_lead_to_one(
    mesh: Mesh, client: str, tmp_path: Path
) -> None:
    def resolves() -> bool:
        (listener,) = [x for n, x in mesh.sees(front, LISTENER).items() if n.endswith("8080")]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        return any("dynamic_forward_proxy" in f["name"] for f in manager["http_filters"])

    mesh.apply(GATEWAY + "---" + WILD)
    labels = {"istio": "ingress"}
    front = mesh.connect("router", "10.44.9.9", "front-1", labels, namespace="istio-system")
    assert not resolves()
    leads = GATEWAY.replace("host: reviews, port: {number: 9080}", "host: '*.example.org'")
    mesh.apply(leads.replace("'*.example.org'", "'*.example.org', port: {number: 80}"))
    assert resolves()
    accepted(mesh.protos, static_bootstrap(mesh, front), tmp_path)
    mesh.graph.verify()


SHOP_TO_WILD = """
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - rewrite: {authority: a.example.org}
    route: [{destination: {host: "*.example.org", port: {number: 80}}}]
"""


def test_a_sidecar_resolves_wildcards_where_a_route_leads_to_one(
    mesh: Mesh, client: str, tmp_path: Path
) -> None:
    def resolves(port: int) -> bool:
        managers = [
            f["typed_config"]
            for name, listener in mesh.sees(client, LISTENER).items()
            if name.endswith(f"_{port}")
            for chain in listener.get("filter_chains", ())
            for f in chain["filters"]
            if "http_filters" in f["typed_config"]
        ]
        return any("dynamic_forward" in f["name"] for m in managers for f in m["http_filters"])

    mesh.apply(WILD)
    assert not resolves(9080)
    mesh.apply(SHOP_TO_WILD)
    assert resolves(9080)
    accepted(mesh.protos, static_bootstrap(mesh, client), tmp_path)
    mesh.graph.verify()
    mesh.drop("ServiceEntry", "wild")
    assert not resolves(9080)
    mesh.graph.verify()

"""Sidecar objects: which one applies, what it lets a proxy see, where it listens."""

from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.certificates import Authority, tls_secret

from meltemi.base.problems import Code
from meltemi.base.resource import CLUSTER, LISTENER, ROUTE, SECRET

from .conftest import SHOP, Mesh, endpoints, pod, service
from .test_compile import accepted, static_bootstrap
from .test_listeners import tcp_of

TOOLS = service("tool", "http:8000", namespace="tools", ip="10.43.1.1") + service(
    "hidden", "http:8000", namespace="tools", ip="10.43.1.2"
)


def sidecar(name: str, spec: str, namespace: str = "default") -> str:
    return f"---\nkind: Sidecar\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"


@pytest.fixture
def client(mesh: Mesh) -> str:
    mesh.apply(SHOP + TOOLS)
    return mesh.connect("sidecar", "10.44.0.4", "ratings-v1", {"app": "ratings"})


def reached(mesh: Mesh, node: str) -> set[str]:
    """The short names of the services a proxy has clusters for."""
    return {
        n.split("|")[3].split(".")[0] for n in mesh.sees(node, CLUSTER) if n.startswith("outbound|")
    }


def hosts_of(mesh: Mesh, node: str, name: str) -> set[str]:
    configuration = mesh.sees(node, ROUTE)[name]
    return {h["name"].split(".")[0].split(":")[0] for h in configuration["virtual_hosts"]}


def test_hosts_choose_services_by_namespace_and_name(mesh: Mesh, client: str) -> None:
    mesh.apply(
        sidecar("only", "{egress: [{hosts: ['./db.default.svc.cluster.local', 'tools/*']}]}")
    )
    assert reached(mesh, client) == {"db", "tool", "hidden"}
    mesh.apply(sidecar("only", "{egress: [{hosts: ['*/*', '~tools/hidden']}]}"))
    assert "hidden" not in reached(mesh, client)
    assert "tool" in reached(mesh, client)
    mesh.apply(sidecar("only", "{egress: [{hosts: ['~/*']}]}"))
    assert reached(mesh, client) == set()
    mesh.drop("Sidecar", "only")
    assert "reviews" in reached(mesh, client)
    mesh.graph.verify()


def test_a_selector_beats_the_namespace_which_beats_the_root(mesh: Mesh, client: str) -> None:
    other = mesh.connect("sidecar", "10.44.0.2", "reviews-v1", {"app": "reviews"})
    far = mesh.connect("sidecar", "10.44.6.6", "shell", {}, namespace="tools")
    mesh.apply(
        sidecar("default", "{egress: [{hosts: ['./*']}]}", "istio-system")
        + sidecar(
            "chosen",
            "{workloadSelector: {labels: {app: ratings}}, egress: [{hosts: ['tools/*']}]}",
        )
    )
    assert reached(mesh, client) == {"tool", "hidden"}
    assert "db" in reached(mesh, other)
    assert "tool" not in reached(mesh, other)
    assert reached(mesh, far) == {"tool", "hidden"}
    mesh.apply(sidecar("mine", "{egress: [{hosts: ['./db.default.svc.cluster.local']}]}"))
    assert reached(mesh, other) == {"db"}
    assert reached(mesh, client) == {"tool", "hidden"}
    mesh.graph.verify()


def test_a_route_table_brings_its_destinations_along(mesh: Mesh, client: str) -> None:
    mesh.apply(
        """
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: tool.tools.svc.cluster.local}}]}]
"""
        + sidecar("only", "{egress: [{hosts: ['./reviews.default.svc.cluster.local']}]}")
    )
    assert reached(mesh, client) == {"reviews", "tool"}
    assert hosts_of(mesh, client, "9080") == {"reviews", "allow_any"}
    assert "8000" not in mesh.sees(client, ROUTE)


def test_tables_of_other_namespaces_must_be_imported(mesh: Mesh, client: str) -> None:
    table = """
kind: VirtualService
metadata: {name: reviews, namespace: tools}
spec:
  hosts: [reviews.default.svc.cluster.local]
  http: [{fault: {abort: {httpStatus: 418, percentage: {value: 100}}},
          route: [{destination: {host: reviews.default.svc.cluster.local}}]}]
"""
    mesh.apply(table)

    def faulty() -> bool:
        hosts = mesh.sees(client, ROUTE)["9080"]["virtual_hosts"]
        (reviews,) = [h for h in hosts if h["name"].startswith("reviews")]
        return "typed_per_filter_config" in reviews["routes"][0]

    assert faulty()
    mesh.apply(sidecar("only", "{egress: [{hosts: ['./*']}]}"))
    assert not faulty()


def test_a_way_out_with_a_port_serves_only_that_port(mesh: Mesh, client: str) -> None:
    mesh.apply(
        sidecar(
            "ports",
            """
  egress:
  - port: {number: 9080, protocol: HTTP, name: http}
    hosts: ['./ratings.default.svc.cluster.local']
  - hosts: ['./*']
""",
        )
    )
    assert hosts_of(mesh, client, "9080") == {"ratings", "allow_any"}
    assert "0.0.0.0_50051" in mesh.sees(client, LISTENER)
    mesh.graph.verify()


def test_each_way_out_applies_the_routes_it_imports(mesh: Mesh, client: str) -> None:
    def leads(port: str) -> str:
        hosts = mesh.sees(client, ROUTE)[port]["virtual_hosts"]
        (box,) = [h for h in hosts if h["name"].startswith("box.")]
        return str(box["routes"][0]["route"]["cluster"].split("|")[3].split(".")[0])

    ways = "{port: {number: 7000, protocol: HTTP}, hosts: ['./*']}"
    mesh.apply(service("box", "http:7000", "http:7001", ip="10.43.2.1"))
    for namespace, target in (("tools", "reviews"), ("default", "ratings")):
        mesh.apply(
            f"kind: VirtualService\nmetadata: {{name: box, namespace: {namespace}}}\n"
            "spec: {hosts: [box.default.svc.cluster.local], http: [{route: [{destination: "
            f"{{host: {target}.default.svc.cluster.local}}}}]}}]}}\n"
        )
    assert (leads("7000"), leads("7001")) == ("reviews", "reviews")
    mesh.apply(sidecar("ways", f"{{egress: [{ways}, {{hosts: ['*/*']}}]}}"))
    assert (leads("7000"), leads("7001")) == ("ratings", "reviews")
    mesh.apply(sidecar("ways", f"{{egress: [{ways}, {{hosts: ['./*']}}]}}"))
    assert (leads("7000"), leads("7001")) == ("ratings", "ratings")
    mesh.apply(sidecar("ways", "{egress: [{hosts: ['*/*']}]}"))
    assert (leads("7000"), leads("7001")) == ("reviews", "reviews")
    mesh.graph.verify()


def test_uncaptured_listeners_open_their_own_address(mesh: Mesh, client: str) -> None:
    mesh.apply(
        sidecar(
            "open",
            """
  egress:
  - port: {number: 9080, protocol: HTTP, name: http}
    bind: 127.0.0.1
    captureMode: NONE
    hosts: ['./*']
  - port: {number: 5432, protocol: TCP, name: tcp}
    captureMode: NONE
    hosts: ['./db.default.svc.cluster.local']
  - port: {number: 0, protocol: HTTP, name: unix}
    bind: unix:///run/mesh.sock
    hosts: ['./ratings.default.svc.cluster.local']
""",
        )
    )
    listeners = mesh.sees(client, LISTENER)
    http = listeners["127.0.0.1_9080"]
    assert http.get("bind_to_port", True)
    assert http["default_filter_chain"]["filters"][0]["typed_config"]["rds"] == {
        "route_config_name": "9080",
        "config_source": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
    }
    proxy = tcp_of(listeners["127.0.0.1_5432"]["default_filter_chain"])
    assert proxy["cluster"] == "outbound|5432||db.default.svc.cluster.local"
    unix = listeners["unix:///run/mesh.sock"]
    assert unix["address"] == {"pipe": {"path": "/run/mesh.sock"}}
    assert hosts_of(mesh, client, "unix:///run/mesh.sock") == {"ratings", "allow_any"}


def test_unknown_hosts_go_where_the_sidecar_says(mesh: Mesh, client: str) -> None:
    mesh.apply(sidecar("strict", "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}"))
    assert "block_all" in hosts_of(mesh, client, "9080")
    root = mesh.sees(client, LISTENER)["virtualOutbound"]
    assert tcp_of(root["default_filter_chain"])["cluster"] == "BlackHoleCluster"
    mesh.apply(
        sidecar(
            "strict",
            "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: "
            "{host: tool.tools.svc.cluster.local, port: {number: 8000}}}}",
        )
    )
    root = mesh.sees(client, LISTENER)["virtualOutbound"]
    proxy = "outbound|8000||tool.tools.svc.cluster.local"
    assert tcp_of(root["default_filter_chain"])["cluster"] == proxy
    (last,) = [
        h for h in mesh.sees(client, ROUTE)["9080"]["virtual_hosts"] if h["name"] == "allow_any"
    ]
    assert last["routes"][0]["route"]["cluster"] == proxy
    mesh.graph.verify()


def test_a_name_belongs_to_one_virtual_host(mesh: Mesh, client: str) -> None:
    entry = """
kind: ServiceEntry
metadata: {name: twin}
spec:
  hosts: [twin.example.com]
  addresses: [10.43.0.2]
  resolution: STATIC
  ports: [{number: 9080, name: http, protocol: HTTP}]
  endpoints: [{address: 10.44.0.2}]
"""
    mesh.apply(entry)
    hosts = mesh.sees(client, ROUTE)["9080"]["virtual_hosts"]
    domains = [d for h in hosts for d in h["domains"]]
    assert len(domains) == len(set(domains))
    assert "10.43.0.2" in domains


def test_envoy_accepts_what_sidecars_say(mesh: Mesh, client: str, tmp_path: Path) -> None:
    mesh.apply(
        sidecar(
            "open",
            """
  egress:
  - port: {number: 9080, protocol: HTTP, name: http}
    captureMode: NONE
    hosts: ['./*']
  - port: {number: 0, protocol: HTTP, name: unix}
    bind: unix:///run/mesh.sock
    hosts: ['./*']
  - hosts: ['*/*']
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
""",
        )
        + pod("odd-0", "odd", "v1", "10.44.0.9")
        + endpoints("odd", "web:7000", "odd-0=10.44.0.9")
    )
    accepted(mesh.protos, static_bootstrap(mesh, client), tmp_path)


INGRESS = """
  inboundConnectionPool: {http: {http2MaxRequests: 7}}
  ingress:
  - port: {number: 9080, protocol: HTTP, name: http}
    defaultEndpoint: 127.0.0.1:8080
  - port: {number: 9443, protocol: HTTPS, name: https}
    defaultEndpoint: 0.0.0.0:8443
    connectionPool: {tcp: {maxConnections: 3}}
  - port: {number: 9000, protocol: TCP, name: raw}
    defaultEndpoint: unix:///run/raw.sock
  - port: {number: 9444, protocol: HTTP, name: secure}
    tls: {mode: SIMPLE, serverCertificate: CERT, privateKey: KEY}
  - port: {number: 9999, protocol: HTTP, name: own}
    captureMode: NONE
"""


def matches_of(mesh: Mesh, node: str, port: int) -> list[dict[str, object]]:
    chains = mesh.sees(node, LISTENER)["virtualInbound"]["filter_chains"]
    found = [c.get("filter_chain_match", {}) for c in chains]
    return [m for m in found if m.get("destination_port") == port]


def test_ingress_replaces_what_services_declare(mesh: Mesh, client: str) -> None:
    assert matches_of(mesh, client, 9080)
    mesh.apply(sidecar("in", INGRESS))
    found = {n: c for n, c in mesh.sees(client, CLUSTER).items() if n.startswith("inbound|")}
    assert set(found) == {f"inbound|{p}||" for p in (9080, 9443, 9000, 9444, 9999)}

    def where(port: int) -> dict[str, object]:
        (group,) = found[f"inbound|{port}||"]["load_assignment"]["endpoints"]
        address: dict[str, object] = group["lb_endpoints"][0]["endpoint"]["address"]
        return address

    assert where(9080) == {"socket_address": {"address": "127.0.0.1", "port_value": 8080}}
    assert where(9443) == {"socket_address": {"address": "10.44.0.4", "port_value": 8443}}
    assert where(9000) == {"pipe": {"path": "/run/raw.sock"}}
    assert "upstream_bind_config" not in found["inbound|9000||"]
    limits = {p: found[f"inbound|{p}||"]["circuit_breakers"]["thresholds"][0] for p in (9080, 9443)}
    assert limits[9080]["max_requests"] == 7
    assert limits[9443]["max_connections"] == 3
    own = mesh.sees(client, LISTENER)["0.0.0.0_9999_opened"]
    assert own["address"]["socket_address"]["port_value"] == 9999
    mesh.graph.verify()


def test_the_rule_of_a_service_limits_its_own_pods(mesh: Mesh, client: str) -> None:
    mesh.apply("""
kind: DestinationRule
metadata: {name: ratings}
spec: {host: ratings, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 5}}}}
""")
    cluster = mesh.sees(client, CLUSTER)["inbound|9080||"]
    assert cluster["circuit_breakers"]["thresholds"][0]["max_requests"] == 5


def test_the_oldest_service_says_what_a_port_speaks(mesh: Mesh, client: str) -> None:
    again = service("raw", "tcp:9090:9080", ip="10.43.0.30").replace("app: raw", "app: ratings")
    mesh.apply(again)
    problems = [p for p in mesh.graph.problems() if p.about.name == "raw"]
    assert [p.path for p in problems] == ["spec.ports[0]"]
    assert "speak http" in problems[0].message
    protocols = [m.get("transport_protocol") for m in matches_of(mesh, client, 9080)]
    assert sorted(map(str, protocols)) == ["raw_buffer", "tls"]


def test_envoy_accepts_ingress(mesh: Mesh, client: str, tmp_path: Path) -> None:
    from tests import certificates

    files = {"CERT": tmp_path / "cert.pem", "KEY": tmp_path / "key.pem"}
    pair = certificates.Authority().sign("ratings.example.com")
    files["CERT"].write_bytes(pair.certificate)
    files["KEY"].write_bytes(pair.key)
    text = INGRESS
    for word, path in files.items():
        text = text.replace(word, str(path))
    mesh.apply(sidecar("in", text))
    accepted(mesh.protos, static_bootstrap(mesh, client), tmp_path)


def test_an_ingress_limits_its_connections(mesh: Mesh, client: str) -> None:
    mesh.apply(
        sidecar(
            "in",
            """
  ingress:
  - port: {number: 9080, protocol: HTTP, name: http}
    connectionPool: &pool
      tcp: {maxConnections: 3, connectTimeout: 2s, maxConnectionDuration: 60s, idleTimeout: 9s,
            tcpKeepalive: {probes: 4, time: 5s, interval: 6s}}
      http: {http1MaxPendingRequests: 7, http2MaxRequests: 8, maxRequestsPerConnection: 9,
             maxRetries: 10, idleTimeout: 11s}
  - port: {number: 9000, protocol: TCP, name: raw}
    connectionPool: *pool
""",
        )
    )
    cluster = mesh.sees(client, CLUSTER)["inbound|9080||"]
    limits = cluster["circuit_breakers"]["thresholds"][0]
    assert limits["max_connections"] == 3
    assert limits["max_pending_requests"] == 7
    assert limits["max_requests"] == 8
    assert limits["max_retries"] == 10
    assert cluster["connect_timeout"] == "2s"
    assert cluster["upstream_connection_options"]["tcp_keepalive"] == {
        "keepalive_probes": 4,
        "keepalive_time": 5,
        "keepalive_interval": 6,
    }
    (options,) = cluster["typed_extension_protocol_options"].values()
    assert options["common_http_protocol_options"] == {
        "idle_timeout": "11s",
        "max_requests_per_connection": 9,
        "max_connection_duration": "60s",
    }
    chains = mesh.sees(client, LISTENER)["virtualInbound"]["filter_chains"]
    raw = [c for c in chains if c.get("filter_chain_match", {}).get("destination_port") == 9000]
    assert {tcp_of(c)["idle_timeout"] for c in raw} == {"9s"}
    assert {tcp_of(c)["max_downstream_connection_duration"] for c in raw} == {"60s"}


SPKI, HASH = "A" * 43 + "=", "ab" * 32


def test_ingress_tls_says_all_of_it(mesh: Mesh, client: str) -> None:
    mesh.apply(
        sidecar(
            "in",
            """
  ingress:
  - port: {number: 9080, protocol: HTTP, name: http}
    tls:
      mode: MUTUAL
      tlsCertificates:
      - {serverCertificate: /a.pem, privateKey: /a.key, caCertificates: /authority.pem}
      - {serverCertificate: /b.pem, privateKey: /b.key}
      caCrl: /revoked.pem
      subjectAltNames: [friend.example.com]
      verifyCertificateSpki: [{spki}]
      verifyCertificateHash: [{hash}]
      minProtocolVersion: TLSV1_2
      maxProtocolVersion: TLSV1_2
      cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]
""".replace("{spki}", SPKI).replace("{hash}", HASH),
        )
    )
    chains = mesh.sees(client, LISTENER)["virtualInbound"]["filter_chains"]
    (own,) = [
        c
        for c in chains
        if c.get("filter_chain_match") == {"destination_port": 9080, "transport_protocol": "tls"}
    ]
    context = own["transport_socket"]["typed_config"]
    assert context["require_client_certificate"] is True
    common = context["common_tls_context"]
    assert [s["name"] for s in common["tls_certificate_sds_secret_configs"]] == [
        "file-cert:/a.pem~/a.key",
        "file-cert:/b.pem~/b.key",
    ]
    assert common["tls_params"]["cipher_suites"] == ["ECDHE-RSA-AES128-GCM-SHA256"]
    assert common["tls_params"]["tls_maximum_protocol_version"] == "TLSv1_2"
    combined = common["combined_validation_context"]
    named = combined["validation_context_sds_secret_config"]["name"]
    assert named == "file-root:/authority.pem~/revoked.pem"
    trust = combined["default_validation_context"]
    assert trust["verify_certificate_spki"] == [SPKI]
    assert trust["verify_certificate_hash"] == [HASH]
    assert "friend.example.com" in str(trust["match_typed_subject_alt_names"])
    assert not [
        m for m in matches_of(mesh, client, 9080) if m.get("transport_protocol") == "raw_buffer"
    ]


def test_ingress_takes_certificates_of_secrets(mesh: Mesh, client: str) -> None:
    """The agent hands them out, once the account may read them."""
    authority = Authority()
    keys = {"ec": None, "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048)}
    for name, key in keys.items():
        signed = authority.sign("box.example.com", key=key)
        mesh.apply(tls_secret(name, signed, namespace="default"))
    mesh.apply(tls_secret("friends", None, authority=authority.pem, namespace="default"))
    port = "{number: 9080, protocol: HTTP, name: http}"
    tls = "{mode: MUTUAL, credentialNames: [ec, rsa], caCertCredentialName: friends}"
    mesh.apply(sidecar("in", f"{{ingress: [{{port: {port}, tls: {tls}}}]}}"))
    assert set(mesh.compiled.plans.in_need) == {client}
    problems = [p for p in mesh.graph.problems() if p.code is Code.UNKNOWN_SECRET]
    assert {p.path for p in problems} == {"spec.ingress[0].tls.credentialName"}
    assert "service account" in problems[0].message
    own = {"destination_port": 9080, "transport_protocol": "tls"}
    assert own not in matches_of(mesh, client, 9080)
    assert not [m for m in matches_of(mesh, client, 9080) if not m.get("server_names")]
    node = mesh.proxies.get(client)
    assert node is not None
    mesh.proxies.set(client, msgspec.structs.replace(node, reads_secrets=True))
    mesh.propagate()
    chains = mesh.sees(client, LISTENER)["virtualInbound"]["filter_chains"]
    (chain,) = [c for c in chains if c.get("filter_chain_match") == own]
    common = chain["transport_socket"]["typed_config"]["common_tls_context"]
    shown = [s["name"] for s in common["tls_certificate_sds_secret_configs"]]
    assert shown == ["kubernetes://ec", "kubernetes://rsa"]
    trust = common["combined_validation_context"]["validation_context_sds_secret_config"]
    assert trust["name"] == "kubernetes://friends-cacert"
    assert "sds-grpc" in str(trust)
    assert set(shown) <= mesh.resources(client, SECRET).keys()
    mesh.graph.verify()


def test_a_port_of_ingress_may_be_named_for_its_protocol(mesh: Mesh, client: str) -> None:
    mesh.apply(sidecar("in", "{ingress: [{port: {number: 9080, name: tcp-raw}}]}"))
    chains = mesh.sees(client, LISTENER)["virtualInbound"]["filter_chains"]
    own = [c for c in chains if c.get("filter_chain_match", {}).get("destination_port") == 9080]
    assert own
    assert all(tcp_of(chain) for chain in own)


def test_unknown_traffic_may_go_to_a_subset(mesh: Mesh, client: str) -> None:
    mesh.apply(
        sidecar(
            "out",
            "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: "
            "{host: tool.tools.svc.cluster.local, subset: v1, port: {number: 8000}}}}",
        )
    )
    root = mesh.sees(client, LISTENER)["virtualOutbound"]
    proxy = "outbound|8000|v1|tool.tools.svc.cluster.local"
    assert tcp_of(root["default_filter_chain"])["cluster"] == proxy


def test_a_unix_socket_leads_to_one_port_of_each_service(mesh: Mesh, client: str) -> None:
    mesh.apply(service("both", "tcp:1", "http:81", "http-more:82", ip="10.43.0.40"))
    mesh.apply(
        sidecar(
            "unix",
            """
  egress:
  - port: {number: 0, protocol: HTTP, name: unix}
    bind: unix:///run/mesh.sock
    hosts: ['./both.default.svc.cluster.local']
""",
        )
    )
    hosts = mesh.sees(client, ROUTE)["unix:///run/mesh.sock"]["virtual_hosts"]
    assert [h["name"] for h in hosts] == ["both.default.svc.cluster.local:81", "allow_any"]

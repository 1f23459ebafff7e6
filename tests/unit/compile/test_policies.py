"""What every block of a DestinationRule becomes in Envoy, field by field."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from meltemi.base.problems import Code
from meltemi.base.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE

from .conftest import SHOP, Mesh
from .test_compile import accepted, static_bootstrap

HOST = "reviews.default.svc.cluster.local"
NAME = f"outbound|9080||{HOST}"
HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
OPTIONS = f"typed_extension_protocol_options/{HTTP}"
LIMITS = "circuit_breakers/thresholds/0"
SOCKET = "transport_socket/typed_config"
COMMON = f"{SOCKET}/common_tls_context"
AUTHORITY_NAME = f"{COMMON}/combined_validation_context/validation_context_sds_secret_config/name"
CERTIFICATE_NAME = f"{COMMON}/tls_certificate_sds_secret_configs/0/name"
CA = "/etc/ssl/certs/ca-certificates.crt"
Json = dict[str, Any]


@pytest.fixture
def client(mesh: Mesh) -> str:
    mesh.apply(SHOP)
    return mesh.connect("sidecar", "10.44.0.4", "ratings-v1", {"app": "ratings"})


def rule(policy: str, host: str = "reviews", more: str = "") -> str:
    body = yaml.safe_load(policy)
    spec = {"host": host, "trafficPolicy": body} | (yaml.safe_load(more) or {})
    return yaml.safe_dump({"kind": "DestinationRule", "metadata": {"name": host}, "spec": spec})


def at(message: Any, path: str) -> Any:
    """The part of a message under a path, None where it is absent."""
    for step in path.split("/") if "HttpProtocolOptions" not in path else _steps(path):
        if isinstance(message, list):
            message = message[int(step)] if int(step) < len(message) else None
        else:
            message = (message or {}).get(step)
    return message


def _steps(path: str) -> list[str]:
    head, rest = path.split(f"{HTTP}", 1)
    return [head.strip("/"), HTTP, *(s for s in rest.split("/") if s)]


FIELDS: list[tuple[str, str, Any]] = [
    ("loadBalancer: {simple: LEAST_REQUEST}", "lb_policy", "LEAST_REQUEST"),
    ("loadBalancer: {simple: LEAST_CONN}", "lb_policy", "LEAST_REQUEST"),
    ("loadBalancer: {simple: UNSPECIFIED}", "lb_policy", "LEAST_REQUEST"),
    ("loadBalancer: {simple: RANDOM}", "lb_policy", "RANDOM"),
    ("loadBalancer: {simple: ROUND_ROBIN}", "lb_policy", None),
    ("loadBalancer: {simple: PASSTHROUGH}", "type", "ORIGINAL_DST"),
    ("loadBalancer: {simple: PASSTHROUGH}", "lb_policy", "CLUSTER_PROVIDED"),
    ("loadBalancer: {consistentHash: {httpHeaderName: x}}", "lb_policy", "RING_HASH"),
    (
        "loadBalancer: {consistentHash: {httpHeaderName: x}}",
        "ring_hash_lb_config/minimum_ring_size",
        "1024",
    ),
    (
        "loadBalancer: {consistentHash: {httpHeaderName: x, ringHash: {minimumRingSize: 64}}}",
        "ring_hash_lb_config/minimum_ring_size",
        "64",
    ),
    (
        "loadBalancer: {consistentHash: {httpHeaderName: x, minimumRingSize: 32}}",
        "ring_hash_lb_config/minimum_ring_size",
        "32",
    ),
    (
        "loadBalancer: {consistentHash: {httpHeaderName: x, maglev: {tableSize: 101}}}",
        "maglev_lb_config/table_size",
        "101",
    ),
    (
        "loadBalancer: {warmupDurationSecs: 30s}",
        "least_request_lb_config/slow_start_config/slow_start_window",
        "30s",
    ),
    (
        "loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s, minimumPercent: 5}}",
        "round_robin_lb_config/slow_start_config/min_weight_percent/value",
        5.0,
    ),
    (
        "loadBalancer: {warmup: {duration: 30s, aggression: 2}}",
        "least_request_lb_config/slow_start_config/aggression/default_value",
        2.0,
    ),
    ("connectionPool: {tcp: {maxConnections: 7}}", f"{LIMITS}/max_connections", 7),
    ("connectionPool: {tcp: {}}", f"{LIMITS}/max_connections", 2**32 - 1),
    ("connectionPool: {tcp: {connectTimeout: 3s}}", "connect_timeout", "3s"),
    (
        "connectionPool: {tcp: {tcpKeepalive: {probes: 4, time: 60s, interval: 5s}}}",
        "upstream_connection_options/tcp_keepalive",
        {"keepalive_probes": 4, "keepalive_time": 60, "keepalive_interval": 5},
    ),
    (
        "connectionPool: {tcp: {maxConnectionDuration: 9s}}",
        f"{OPTIONS}/common_http_protocol_options/max_connection_duration",
        "9s",
    ),
    (
        "connectionPool: {tcp: {idleTimeout: 8s}}",
        f"{OPTIONS}/common_http_protocol_options/idle_timeout",
        "8s",
    ),
    (
        "connectionPool: {tcp: {idleTimeout: 8s}, http: {idleTimeout: 0s}}",
        f"{OPTIONS}/common_http_protocol_options/idle_timeout",
        "0s",
    ),
    (
        "connectionPool: {http: {http1MaxPendingRequests: 3}}",
        f"{LIMITS}/max_pending_requests",
        3,
    ),
    ("connectionPool: {http: {http2MaxRequests: 4}}", f"{LIMITS}/max_requests", 4),
    ("connectionPool: {http: {maxRetries: 5}}", f"{LIMITS}/max_retries", 5),
    ("connectionPool: {http: {maxRetries: 0}}", f"{LIMITS}/max_retries", 2**32 - 1),
    (
        "connectionPool: {http: {maxRequestsPerConnection: 6}}",
        f"{OPTIONS}/common_http_protocol_options/max_requests_per_connection",
        6,
    ),
    (
        "connectionPool: {http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 50}}",
        f"{OPTIONS}/explicit_http_config/http2_protocol_options/max_concurrent_streams",
        50,
    ),
    (
        "connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE, maxConcurrentStreams: 50}}",
        f"{OPTIONS}/explicit_http_config/http_protocol_options",
        {},
    ),
    (
        "connectionPool: {http: {useClientProtocol: true}}",
        f"{OPTIONS}/use_downstream_protocol_config/http2_protocol_options",
        {},
    ),
    (
        "connectionPool: "
        "{http: {h2UpgradePolicy: UPGRADE, http2KeepAlive: {interval: 7s, timeout: 2s}}}",
        f"{OPTIONS}/explicit_http_config/http2_protocol_options/connection_keepalive",
        {"interval": "7s", "timeout": "2s"},
    ),
    (
        "outlierDetection: {consecutiveErrors: 4}",
        "outlier_detection/consecutive_gateway_failure",
        4,
    ),
    (
        "outlierDetection: {consecutiveGatewayErrors: 4}",
        "outlier_detection/enforcing_consecutive_gateway_failure",
        100,
    ),
    (
        "outlierDetection: {consecutiveGatewayErrors: 0}",
        "outlier_detection/enforcing_consecutive_gateway_failure",
        0,
    ),
    ("outlierDetection: {consecutive5xxErrors: 3}", "outlier_detection/consecutive_5xx", 3),
    (
        "outlierDetection: {consecutive5xxErrors: 0}",
        "outlier_detection/enforcing_consecutive_5xx",
        0,
    ),
    ("outlierDetection: {interval: 4s}", "outlier_detection/interval", "4s"),
    ("outlierDetection: {interval: 4s}", "outlier_detection/enforcing_success_rate", 0),
    ("outlierDetection: {baseEjectionTime: 5s}", "outlier_detection/base_ejection_time", "5s"),
    ("outlierDetection: {baseEjectionTime: 600s}", "outlier_detection/max_ejection_time", "600s"),
    ("outlierDetection: {maxEjectionPercent: 40}", "outlier_detection/max_ejection_percent", 40),
    ("outlierDetection: {}", "common_lb_config/healthy_panic_threshold", {}),
    (
        "outlierDetection: {minHealthPercent: 30}",
        "common_lb_config/healthy_panic_threshold/value",
        30.0,
    ),
    (
        "outlierDetection: "
        "{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2}",
        "outlier_detection/consecutive_local_origin_failure",
        2,
    ),
    (
        "outlierDetection: {outlierDetectionHttpErrorCodes: [429]}",
        f"{OPTIONS}/outlier_detection/error_matcher/http_response_headers_match/headers/0"
        "/string_match/safe_regex/regex",
        r"5\d\d|429",
    ),
    ("tls: {mode: DISABLE}", "transport_socket", None),
    ("tls: {mode: DISABLE}", "transport_socket_matches", None),
    ("tls: {mode: ISTIO_MUTUAL}", f"{SOCKET}/sni", f"outbound_.9080_._.{HOST}.meltemi"),
    ("tls: {mode: ISTIO_MUTUAL, sni: own.example}", f"{SOCKET}/sni", "own.example.meltemi"),
    (
        "tls: {mode: ISTIO_MUTUAL, subjectAltNames: ['spiffe://x/y']}",
        f"{COMMON}/combined_validation_context/default_validation_context"
        "/match_typed_subject_alt_names/0/matcher/exact",
        "spiffe://x/y",
    ),
    ("tls: {mode: SIMPLE}", f"{OPTIONS}/upstream_http_protocol_options/auto_sni", True),
    (
        "tls: {mode: SIMPLE}",
        f"{OPTIONS}/upstream_http_protocol_options/auto_san_validation",
        True,
    ),
    ("tls: {mode: SIMPLE}", AUTHORITY_NAME, "file-root:system"),
    ("tls: {mode: SIMPLE, sni: a.example}", f"{SOCKET}/sni", "a.example"),
    (
        "tls: {mode: SIMPLE, caCertificates: /ca.pem, caCrl: /crl.pem}",
        AUTHORITY_NAME,
        "file-root:/ca.pem~/crl.pem",
    ),
    (
        "tls: {mode: SIMPLE, caCertificates: /ca.pem}",
        AUTHORITY_NAME,
        "file-root:/ca.pem",
    ),
    (
        "tls: {mode: SIMPLE, subjectAltNames: [a.example]}",
        f"{COMMON}/combined_validation_context/default_validation_context/match_typed_subject_alt_names/0/matcher/exact",
        "a.example",
    ),
    (
        "tls: {mode: SIMPLE, insecureSkipVerify: true}",
        f"{COMMON}/combined_validation_context",
        None,
    ),
    (
        "tls: {mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem}",
        CERTIFICATE_NAME,
        "file-cert:/c.pem~/k.pem",
    ),
    (
        "proxyProtocol: {version: V2}",
        "transport_socket_matches/1/transport_socket/name",
        "envoy.transport_sockets.upstream_proxy_protocol",
    ),
    (
        "retryBudget: {percent: {value: 30}, minRetryConcurrency: 5, budgetInterval: 2s}",
        f"{LIMITS}/retry_budget",
        {
            "budget_percent": {"value": 30.0},
            "min_retry_concurrency": 5,
            "budget_interval": "2s",
        },
    ),
    (
        "retryBudget: {}",
        f"{LIMITS}/retry_budget",
        {"budget_percent": {"value": 20.0}, "min_retry_concurrency": 3},
    ),
]


@pytest.mark.parametrize(("policy", "path", "expected"), FIELDS, ids=lambda v: str(v)[:60])
def test_a_field_becomes_envoys_setting(
    mesh: Mesh, client: str, policy: str, path: str, expected: Any
) -> None:
    mesh.apply(rule(policy))
    assert not mesh.graph.problems() or "LEAST_CONN" in policy
    assert at(mesh.sees(client, CLUSTER)[NAME], path) == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("{httpHeaderName: x-user}", {"header": {"header_name": "x-user"}}),
        ("{httpQueryParameterName: user}", {"query_parameter": {"name": "user"}}),
        ("{useSourceIp: true}", {"connection_properties": {"source_ip": True}}),
        (
            "{httpCookie: {name: u, path: /p, ttl: 60s, attributes: [{name: Secure, value: ''}]}}",
            {
                "cookie": {
                    "name": "u",
                    "path": "/p",
                    "ttl": "60s",
                    "attributes": [{"name": "Secure"}],
                }
            },
        ),
    ],
)
def test_routes_say_what_a_hash_is_taken_of(
    mesh: Mesh, client: str, key: str, expected: Json
) -> None:
    mesh.apply(rule(f"loadBalancer: {{consistentHash: {key}}}"))
    hosts = mesh.sees(client, ROUTE)["9080"]["virtual_hosts"]
    (reviews,) = [h for h in hosts if h["name"].startswith("reviews")]
    route = reviews["routes"][0]["route"]
    assert route["hash_policy"] == [expected]
    assert "retry_host_predicate" not in route["retry_policy"]


def test_tcp_connections_are_kept_as_the_rule_says(mesh: Mesh, client: str) -> None:
    policy = """
connectionPool: {tcp: {idleTimeout: 5s, maxConnectionDuration: 60s}}
loadBalancer: {consistentHash: {useSourceIp: true}}
tunnel: {protocol: POST, targetHost: far.example, targetPort: 443}
"""
    mesh.apply(rule(policy, "db"))
    listener = mesh.sees(client, LISTENER)["10.43.0.4_5432"]
    chain = listener.get("default_filter_chain") or listener["filter_chains"][0]
    proxy = chain["filters"][-1]["typed_config"]
    assert proxy["idle_timeout"] == "5s"
    assert proxy["max_downstream_connection_duration"] == "60s"
    assert proxy["hash_policy"] == [{"source_ip": {}}]
    assert proxy["tunneling_config"]["hostname"] == "far.example:443"
    assert proxy["tunneling_config"]["use_post"] is True


CREDENTIAL = "tls: {mode: MUTUAL, credentialName: outside}"


def test_credentials_are_for_gateways_and_for_sidecars_that_are_selected(
    mesh: Mesh, client: str
) -> None:
    mesh.apply(rule(CREDENTIAL))
    front = mesh.connect("router", "10.44.9.9", "front-1", {"istio": "ingress"})
    assert "transport_socket" not in mesh.sees(client, CLUSTER)[NAME]
    common = at(mesh.sees(front, CLUSTER)[NAME], COMMON)
    (pair,) = common["tls_certificate_sds_secret_configs"]
    assert pair["name"] == "kubernetes://outside"
    authority = common["combined_validation_context"]["validation_context_sds_secret_config"]
    assert authority["name"] == "kubernetes://outside-cacert"
    assert authority["sds_config"]["initial_fetch_timeout"] == "5s"
    found = {(p.code, p.path) for p in mesh.graph.problems()}
    path = "spec.trafficPolicy.tls.credentialName"
    assert found == {(Code.NOT_SUPPORTED, path), (Code.UNKNOWN_SECRET, path)}
    mesh.apply(rule(CREDENTIAL, more="workloadSelector: {matchLabels: {app: ratings}}"))
    assert at(mesh.sees(client, CLUSTER)[NAME], COMMON) == common
    mesh.graph.verify()


def test_envoy_takes_files_and_proxy_protocol(mesh: Mesh, client: str, tmp_path: Path) -> None:
    mesh.apply(rule(f"tls: {{mode: SIMPLE, caCertificates: {CA}}}\nproxyProtocol: {{version: V1}}"))
    accepted(mesh.protos, static_bootstrap(mesh, client), tmp_path)


# Localities

PLACES = {"10.44.0.2": "r1.z1.s1", "10.44.0.3": "r1.z2.s1", "10.44.0.7": "r2.z1.s1"}
OUTLIER = "outlierDetection: {interval: 1s}\n"


@pytest.fixture
def spread(mesh: Mesh) -> str:
    """A client in r1/z1/s1; reviews in its own locality, in the next zone, in another region."""
    slices: list[Json] = []
    for i, (ip, place) in enumerate(PLACES.items()):
        labels = {"app": "reviews", "version": f"v{i}", "istio-locality": place}
        mesh.put(_pod(f"reviews-{i}", ip, labels))
        ref = {"kind": "Pod", "name": f"reviews-{i}", "namespace": "default"}
        slices.append({"addresses": [ip], "conditions": {"ready": True}, "targetRef": ref})
    mesh.put(_pod("client", "10.44.0.9", {"app": "client", "istio-locality": "r1.z1.s1"}))
    mesh.put(
        {
            "kind": "Service",
            "metadata": {"name": "reviews"},
            "spec": {"clusterIP": "10.43.0.2", "ports": [{"name": "http", "port": 9080}]},
        }
    )
    mesh.put(
        {
            "kind": "EndpointSlice",
            "metadata": {"name": "r", "labels": {"kubernetes.io/service-name": "reviews"}},
            "ports": [{"name": "http", "port": 9080, "protocol": "TCP"}],
            "endpoints": slices,
        }
    )
    mesh.propagate()
    return mesh.connect("sidecar", "10.44.0.9", "client", {"app": "client"})


def _pod(name: str, ip: str, labels: Json) -> Json:
    return {
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"nodeName": "node-1", "containers": [{"name": "app"}]},
        "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def priorities(mesh: Mesh, node: str) -> dict[str, tuple[int, int]]:
    """Each address's priority and its locality's weight."""
    found = {}
    for group in mesh.sees(node, ENDPOINT)[NAME]["endpoints"]:
        for item in group["lb_endpoints"]:
            address = item["endpoint"]["address"]["socket_address"]["address"]
            found[address] = (group.get("priority", 0), group["load_balancing_weight"])
    return found


NEAR, NEXT, FAR = PLACES


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("", {NEAR: 0, NEXT: 1, FAR: 2}),
        ("enabled: true", {NEAR: 0, NEXT: 1, FAR: 2}),
        ("enabled: false", {NEAR: 0, NEXT: 0, FAR: 0}),
        ("failover: [{from: r1, to: r3}]", {NEAR: 0, NEXT: 1, FAR: 2}),
        ("failoverPriority: [topology.kubernetes.io/region]", {NEAR: 0, NEXT: 0, FAR: 1}),
        ("failoverPriority: [version=v2]", {NEAR: 1, NEXT: 1, FAR: 0}),
        ("failoverPriority: [app]", {NEAR: 0, NEXT: 0, FAR: 0}),
        (
            "failoverPriority: [topology.kubernetes.io/region, topology.kubernetes.io/zone]",
            {NEAR: 0, NEXT: 1, FAR: 2},
        ),
    ],
)
def test_locality_settings_make_priorities(
    mesh: Mesh, spread: str, setting: str, expected: dict[str, int]
) -> None:
    balancer = f"loadBalancer: {{localityLbSetting: {{{setting}}}}}\n" if setting else ""
    mesh.apply(rule(OUTLIER + balancer))
    assert {a: p for a, (p, _) in priorities(mesh, spread).items()} == expected
    mesh.graph.verify()


def test_failover_goes_to_the_region_that_is_named_first(mesh: Mesh, spread: str) -> None:
    mesh.put(_pod("third", "10.44.0.8", {"app": "reviews", "istio-locality": "r3.z1.s1"}))
    key = {"kind": "Pod", "name": "third", "namespace": "default"}
    mesh.put(
        {
            "kind": "EndpointSlice",
            "metadata": {"name": "r3", "labels": {"kubernetes.io/service-name": "reviews"}},
            "ports": [{"name": "http", "port": 9080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.44.0.8"], "conditions": {"ready": True}, "targetRef": key}
            ],
        }
    )
    setting = "loadBalancer: {localityLbSetting: {failover: [{from: r1, to: r3}]}}"
    mesh.apply(rule(OUTLIER + setting))
    found = priorities(mesh, spread)
    assert found["10.44.0.8"][0] < found[FAR][0]


def test_without_outlier_detection_nothing_fails_over(mesh: Mesh, spread: str) -> None:
    mesh.apply(rule("loadBalancer: {simple: ROUND_ROBIN}"))
    assert {p for p, _ in priorities(mesh, spread).values()} == {0}


def test_distribution_makes_weights_and_leaves_the_rest_out(mesh: Mesh, spread: str) -> None:
    setting = "distribute: [{from: r1/z1/*, to: {'r1/z1/*': 80, 'r2/z1/s1': 20}}]"
    mesh.apply(rule(f"loadBalancer: {{localityLbSetting: {{{setting}}}}}"))
    assert priorities(mesh, spread) == {NEAR: (0, 8000), FAR: (0, 2000)}
    config = mesh.sees(spread, CLUSTER)[NAME]["common_lb_config"]
    assert config["locality_weighted_lb_config"] == {}


def test_a_service_may_prefer_what_is_close(mesh: Mesh, spread: str) -> None:
    mesh.put(
        {
            "kind": "Service",
            "metadata": {"name": "reviews"},
            "spec": {
                "clusterIP": "10.43.0.2",
                "trafficDistribution": "PreferClose",
                "ports": [{"name": "http", "port": 9080}],
            },
        }
    )
    mesh.propagate()
    assert {a: p for a, (p, _) in priorities(mesh, spread).items()} == {NEAR: 0, NEXT: 1, FAR: 2}


def test_clients_share_a_scope_unless_a_rule_asks_where_they_are(mesh: Mesh, spread: str) -> None:
    mesh.put(_pod("away", "10.44.0.10", {"app": "client", "istio-locality": "r2.z1.s1"}))
    mesh.propagate()
    away = mesh.connect("sidecar", "10.44.0.10", "away", {"app": "client"})
    assert mesh.views[away].sets[1] == mesh.views[spread].sets[1]
    mesh.apply(rule(OUTLIER))
    assert mesh.views[away].sets[1] != mesh.views[spread].sets[1]
    assert priorities(mesh, away)[FAR][0] == 0


def test_a_node_says_where_its_pods_are(mesh: Mesh, spread: str) -> None:
    labels = {"topology.kubernetes.io/region": "r9", "topology.kubernetes.io/zone": "z9"}
    mesh.put({"kind": "Node", "metadata": {"name": "node-1", "namespace": "", "labels": labels}})
    mesh.put(_pod("reviews-0", NEAR, {"app": "reviews"}))
    mesh.propagate()
    groups = mesh.sees(spread, ENDPOINT)[NAME]["endpoints"]
    assert {"region": "r9", "zone": "z9"} in [g.get("locality") for g in groups]


ZONES = "zoneAwareLbSetting"


def test_zones_come_after_labels_and_regions(mesh: Mesh, spread: str) -> None:
    """Regions make priorities, even without outlier detection; zones are Envoy's."""
    mesh.apply(rule(f"loadBalancer: {{{ZONES}: {{enabled: true}}}}"))
    assert {a: p for a, (p, _) in priorities(mesh, spread).items()} == {NEAR: 0, NEXT: 0, FAR: 1}
    mesh.apply(rule(f"loadBalancer: {{{ZONES}: {{failoverPriority: [version=v2]}}}}"))
    assert {a: p for a, (p, _) in priorities(mesh, spread).items()} == {NEAR: 1, NEXT: 1, FAR: 0}
    mesh.apply(rule(f"loadBalancer: {{{ZONES}: {{enabled: false}}}}"))
    assert {a: p for a, (p, _) in priorities(mesh, spread).items()} == dict.fromkeys(PLACES, 0)
    mesh.graph.verify()


def test_only_who_knows_its_peers_is_told_of_zones(mesh: Mesh, spread: str) -> None:
    def told() -> Any:
        return at(mesh.sees(spread, CLUSTER)[NAME], "common_lb_config/zone_aware_lb_config")

    mesh.apply(rule(f"loadBalancer: {{{ZONES}: {{minClusterSize: 3}}}}"))
    assert told() is None
    assert "local_cluster" not in mesh.sees(spread, ENDPOINT)
    node = mesh.proxies.get(spread)
    assert node is not None
    metadata = {**node.metadata, "ENABLE_SELF_DISCOVERY": "true"}
    mesh.proxies.set(spread, msgspec.structs.replace(node, metadata=metadata))
    mesh.propagate()
    assert told() == {"routing_enabled": {"value": 100}, "min_cluster_size": "3"}
    (group,) = mesh.sees(spread, ENDPOINT)["local_cluster"]["endpoints"]
    assert group["locality"] == {"region": "r1", "zone": "z1", "sub_zone": "s1"}
    mesh.drop("DestinationRule", "reviews")
    assert told() == {"routing_enabled": {}}
    mesh.graph.verify()


def test_the_mesh_may_prefer_zones(mesh: Mesh, spread: str) -> None:
    """Where the rule says nothing of localities."""

    def said(text: str) -> None:
        body = {"mesh": text}
        meta = {"name": "istio", "namespace": "istio-system"}
        mesh.put({"kind": "ConfigMap", "metadata": meta, "data": body})
        mesh.propagate()

    regions = {NEAR: 0, NEXT: 0, FAR: 1}
    for setting in ("enabled: true", "minClusterSize: 3", "failover: [{from: r1, to: r2}]"):
        said(f"{ZONES}: {{{setting}}}")
        assert {a: p for a, (p, _) in priorities(mesh, spread).items()} == regions
    mesh.apply(rule(OUTLIER + "loadBalancer: {localityLbSetting: {enabled: true}}"))
    assert {a: p for a, (p, _) in priorities(mesh, spread).items()} == {NEAR: 0, NEXT: 1, FAR: 2}
    mesh.drop("DestinationRule", "reviews")
    said(f"{ZONES}: {{failoverPriority: [topology.kubernetes.io/zone], minClusterSize: -1}}")
    found = {p.path for p in mesh.graph.problems() if p.code is Code.BAD_VALUE}
    path = f"data.mesh.{ZONES}"
    assert found == {f"{path}.minClusterSize", f"{path}.failoverPriority[0]"}

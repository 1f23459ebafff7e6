"""MeshConfig from its ConfigMap: what each field changes, and what a bad one does."""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from meltemi.base.problems import Code, Problem
from meltemi.base.resource import CLUSTER, LISTENER, ROUTE

from .conftest import SHOP, Mesh, service

HOST = "reviews.default.svc.cluster.local"
REVIEWS = f"outbound|9080||{HOST}"


def config(text: str) -> str:
    """The ConfigMap that holds a MeshConfig."""
    body = {
        "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": text},
    }
    return "---\n" + yaml.safe_dump(body)


@pytest.fixture
def client(mesh: Mesh) -> str:
    mesh.apply(SHOP)
    return mesh.connect("sidecar", "10.44.0.4", "ratings-v1", {"app": "ratings"})


def managers(listener: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The HTTP connection managers of a listener."""
    chains = [*listener["filter_chains"], listener.get("default_filter_chain", {})]
    filters = [f for chain in chains for f in chain.get("filters", ())]
    return [f["typed_config"] for f in filters if f["name"].endswith("http_connection_manager")]


def problems(mesh: Mesh) -> list[Problem]:
    return [p for p in mesh.graph.problems() if p.about.kind == "ConfigMap"]


def test_access_logs_go_where_the_mesh_says(mesh: Mesh, client: str) -> None:
    def logs() -> list[dict[str, Any]]:
        manager = managers(mesh.sees(client, LISTENER)["0.0.0.0_9080"])[0]
        return [a for a in manager["access_log"] if "stats" not in a["name"]]

    assert logs() == []
    mesh.apply(config("accessLogFile: /dev/stdout"))
    assert logs()[0]["name"] == "envoy.access_loggers.stdout"
    mesh.apply(config("accessLogFile: /tmp/a.log\naccessLogFormat: '%PROTOCOL%'"))
    assert logs()[0]["typed_config"]["path"] == "/tmp/a.log"
    source = logs()[0]["typed_config"]["log_format"]["text_format_source"]
    assert source["inline_string"] == "%PROTOCOL%\n"
    mesh.apply(config("accessLogFile: /dev/stdout\naccessLogEncoding: JSON"))
    assert logs()[0]["typed_config"]["log_format"]["json_format"]["method"] == "%REQ(:METHOD)%"
    layout = 'accessLogFile: /dev/stdout\naccessLogEncoding: JSON\naccessLogFormat: \'{"a": "b"}\''
    mesh.apply(config(layout))
    assert logs()[0]["typed_config"]["log_format"]["json_format"] == {"a": "b"}
    mesh.apply(config("{}"))
    assert logs() == []
    mesh.graph.verify()


def test_unknown_hosts_are_refused_in_registry_only(mesh: Mesh, client: str) -> None:
    mesh.apply(config("outboundTrafficPolicy: {mode: REGISTRY_ONLY}"))
    hosts = mesh.sees(client, ROUTE)["9080"]["virtual_hosts"]
    assert hosts[-1]["name"] == "block_all"
    through = mesh.sees(client, LISTENER)["virtualOutbound"]["default_filter_chain"]
    assert through["filters"][0]["typed_config"]["cluster"] == "BlackHoleCluster"
    mesh.drop("ConfigMap", "istio", "istio-system")
    assert mesh.sees(client, ROUTE)["9080"]["virtual_hosts"][-1]["name"] == "allow_any"


def test_requests_to_unknown_hosts_may_be_resolved(mesh: Mesh, client: str) -> None:
    """By a cluster of its own, which may speak TLS; nothing else is resolved."""
    name = "AllowAnyDynamicDNSCluster"

    def resolves() -> bool:
        managers = [
            f["typed_config"]
            for chain in mesh.sees(client, LISTENER)["0.0.0.0_9080"]["filter_chains"]
            for f in chain["filters"]
            if "http_filters" in f["typed_config"]
        ]
        return all(any("dynamic_forward" in f["name"] for f in m["http_filters"]) for m in managers)

    assert name not in mesh.sees(client, CLUSTER)
    mesh.apply(config("outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}"))
    last = mesh.sees(client, ROUTE)["9080"]["virtual_hosts"][-1]
    assert last["routes"][0]["route"]["cluster"] == name
    assert resolves()
    assert "transport_socket" not in mesh.sees(client, CLUSTER)[name]
    through = mesh.sees(client, LISTENER)["virtualOutbound"]["default_filter_chain"]
    assert through["filters"][0]["typed_config"]["cluster"] == "PassthroughCluster"
    tls = "mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem, caCertificates: /ca.pem"
    more = "caCrl: /crl.pem, sni: outside.example.com, subjectAltNames: [a.example.com]"
    both = f"{{{tls}, {more}}}"
    mesh.apply(config(f"outboundTrafficPolicy: {{mode: ALLOW_ANY_DYNAMIC_DNS, tls: {both}}}"))
    context = mesh.sees(client, CLUSTER)[name]["transport_socket"]["typed_config"]
    said = str(context)
    for part in ("file-cert:/c.pem~/k.pem", "file-root:/ca.pem~/crl.pem", "a.example.com"):
        assert part in said
    assert context["sni"] == "outside.example.com"
    mesh.apply(config("outboundTrafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}"))
    assert name not in mesh.sees(client, CLUSTER)
    problems = {p.path: p.code for p in mesh.graph.problems()}
    assert problems["data.mesh.outboundTrafficPolicy.tls"] is Code.NOT_SUPPORTED
    for wrong in ("mode: ISTIO_MUTUAL", "mode: MUTUAL, credentialName: a", "mode: LOUD"):
        bad = f"outboundTrafficPolicy: {{mode: ALLOW_ANY_DYNAMIC_DNS, tls: {{{wrong}}}}}"
        mesh.apply(config(bad))
        assert any(
            p.path.startswith("data.mesh.outboundTrafficPolicy.tls.") and p.code is Code.BAD_VALUE
            for p in mesh.graph.problems()
        )
    mesh.graph.verify()


def test_local_inbound_goes_to_the_loopback_address(mesh: Mesh, client: str) -> None:
    def target() -> str:
        cluster = mesh.sees(client, CLUSTER)["inbound|9080||"]
        found = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        return str(found["address"]["socket_address"]["address"])

    assert target() == "10.44.0.4"
    mesh.apply(config("inboundTrafficPolicy: {mode: LOCALHOST}"))
    assert target() == "127.0.0.1"


def test_cluster_settings_reach_every_outbound_cluster(mesh: Mesh, client: str) -> None:
    mesh.apply(
        config(
            """
connectTimeout: 3s
tcpKeepalive: {time: 60s, interval: 5s, probes: 4}
h2UpgradePolicy: UPGRADE
enableAutoMtls: false
outboundClusterStatName: "%SERVICE%_%SERVICE_PORT_NAME%_%SERVICE_PORT%_%SUBSET_NAME%"
inboundClusterStatName: "in_%SERVICE_FQDN%_%TARGET_PORT%"
defaultTrafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}
"""
        )
    )
    cluster = mesh.sees(client, CLUSTER)[REVIEWS]
    assert cluster["connect_timeout"] == "3s"
    keepalive = cluster["upstream_connection_options"]["tcp_keepalive"]
    assert keepalive == {"keepalive_probes": 4, "keepalive_time": 60, "keepalive_interval": 5}
    options = next(iter(cluster["typed_extension_protocol_options"].values()))
    assert "http2_protocol_options" in options["explicit_http_config"]
    assert "transport_socket_matches" not in cluster
    assert cluster["alt_stat_name"] == "reviews.default_http_9080_"
    assert cluster["circuit_breakers"]["thresholds"][0]["max_connections"] == 7
    own = mesh.sees(client, CLUSTER)["inbound|9080||"]
    assert own["alt_stat_name"] == "in_ratings.default.svc.cluster.local_9080"


def test_a_destination_rule_beats_the_mesh(mesh: Mesh, client: str) -> None:
    mesh.apply(config("h2UpgradePolicy: UPGRADE\ntcpKeepalive: {time: 60s}"))
    mesh.apply(
        """
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy:
    connectionPool:
      http: {h2UpgradePolicy: DO_NOT_UPGRADE}
      tcp: {tcpKeepalive: {time: 9s}}
"""
    )
    cluster = mesh.sees(client, CLUSTER)[REVIEWS]
    options = next(iter(cluster["typed_extension_protocol_options"].values()))
    assert "http_protocol_options" in options["explicit_http_config"]
    assert cluster["upstream_connection_options"]["tcp_keepalive"]["keepalive_time"] == 9


@pytest.mark.parametrize(
    ("word", "normal", "merged", "slashes"),
    [
        ("NONE", False, None, None),
        ("BASE", True, None, None),
        ("MERGE_SLASHES", True, True, None),
        ("DECODE_AND_MERGE_SLASHES", True, True, "UNESCAPE_AND_FORWARD"),
    ],
)
def test_paths_are_normalized_as_the_mesh_says(
    mesh: Mesh, client: str, word: str, normal: bool, merged: bool | None, slashes: str | None
) -> None:
    mesh.apply(config(f"pathNormalization: {{normalization: {word}}}"))
    for name in ("0.0.0.0_9080", "virtualInbound"):
        manager = managers(mesh.sees(client, LISTENER)[name])[0]
        assert manager["normalize_path"] is normal
        assert manager.get("merge_slashes") == merged
        action = manager.get("path_with_escaped_slashes_action", "KEEP_UNCHANGED")
        assert action == (slashes or "KEEP_UNCHANGED")


def test_inbound_tls_has_the_meshs_floor_and_aliases(mesh: Mesh, client: str) -> None:
    mesh.apply(config("trustDomainAliases: [old.mesh]\nmeshMTLS: {minProtocolVersion: TLSV1_3}"))
    chains = mesh.sees(client, LISTENER)["virtualInbound"]["filter_chains"]
    context = next(c for c in chains if "transport_socket" in c)["transport_socket"]
    common = context["typed_config"]["common_tls_context"]
    assert common["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_3"
    combined = common["combined_validation_context"]["default_validation_context"]
    prefixes = [m["matcher"]["prefix"] for m in combined["match_typed_subject_alt_names"]]
    assert prefixes == ["spiffe://cluster.local/", "spiffe://old.mesh/"]


def test_zero_detection_timeout_keeps_ours(mesh: Mesh, client: str) -> None:
    mesh.apply(config("protocolDetectionTimeout: 0s"))
    assert mesh.sees(client, LISTENER)["0.0.0.0_9080"]["listener_filters_timeout"] == "5s"
    mesh.apply(config("protocolDetectionTimeout: 1.5s"))
    assert mesh.sees(client, LISTENER)["0.0.0.0_9080"]["listener_filters_timeout"] == "1.500s"


def test_export_defaults_hide_what_says_nothing_itself(mesh: Mesh, client: str) -> None:
    mesh.apply(service("far", "http:80", namespace="other", ip="10.43.7.7"))
    far = "outbound|80||far.other.svc.cluster.local"
    assert far in mesh.sees(client, CLUSTER)
    mesh.apply(config('defaultServiceExportTo: ["."]'))
    assert far not in mesh.sees(client, CLUSTER)
    assert REVIEWS in mesh.sees(client, CLUSTER)
    mesh.apply(config("{}"))
    assert far in mesh.sees(client, CLUSTER)
    mesh.apply(
        """
kind: VirtualService
metadata: {name: far, namespace: other}
spec: {hosts: [far], http: [{directResponse: {status: 418}}]}
---
kind: DestinationRule
metadata: {name: far, namespace: other}
spec: {host: far, subsets: [{name: v1}]}
"""
    )
    subset = "outbound|80|v1|far.other.svc.cluster.local"

    def answers() -> list[dict[str, Any]]:
        host = mesh.sees(client, ROUTE)["80"]["virtual_hosts"][0]
        return [r for r in host["routes"] if "direct_response" in r]

    assert answers()
    assert subset in mesh.sees(client, CLUSTER)
    mesh.apply(
        config('defaultVirtualServiceExportTo: ["."]\ndefaultDestinationRuleExportTo: ["."]')
    )
    assert not answers()
    assert subset not in mesh.sees(client, CLUSTER)
    mesh.graph.verify()


NAMESPACES = """
kind: Namespace
metadata: {name: default, namespace: "", labels: {mesh: "yes"}}
---
kind: Namespace
metadata: {name: other, namespace: "", labels: {team: a}}
"""


def test_namespaces_that_are_not_discovered_are_not_there(mesh: Mesh, client: str) -> None:
    mesh.apply(NAMESPACES + service("far", "http:80", namespace="other", ip="10.43.7.7"))
    far = "outbound|80||far.other.svc.cluster.local"
    mesh.apply(config("discoverySelectors: [{matchLabels: {mesh: 'yes'}}]"))
    assert far not in mesh.sees(client, CLUSTER)
    assert REVIEWS in mesh.sees(client, CLUSTER)
    mesh.apply(NAMESPACES.replace("team: a", "mesh: 'yes'"))
    assert far in mesh.sees(client, CLUSTER)
    expression = "{key: team, operator: NotIn, values: [a]}"
    mesh.apply(NAMESPACES)
    mesh.apply(config(f"discoverySelectors: [{{matchExpressions: [{expression}]}}]"))
    assert far not in mesh.sees(client, CLUSTER)
    mesh.graph.verify()


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("connectTimeout: soon", "data.mesh.connectTimeout", "duration"),
        ("outboundTrafficPolicy: {mode: SOME}", "data.mesh.outboundTrafficPolicy.mode", "none of"),
        ("[]", "data.mesh", "mapping"),
        ("a: [", "data.mesh", "not YAML"),
        ("a: &a [x]\nb: *a", "data.mesh", "aliases"),
        ("accessLogEncoding: JSON\naccessLogFormat: x", "data.mesh.accessLogFormat", "JSON"),
        ("connectTimeout: 0.1ms", "data.mesh.connectTimeout", "1ms"),
        ("a: " + "[" * 3000, "data.mesh", "YAML"),
        ("a" * 300_000, "data.mesh", "longer"),
    ],
)
def test_a_bad_config_keeps_the_last_good_one(
    mesh: Mesh, client: str, text: str, path: str, words: str
) -> None:
    mesh.apply(config("connectTimeout: 3s"))
    mesh.apply(config(text))
    assert mesh.sees(client, CLUSTER)[REVIEWS]["connect_timeout"] == "3s"
    found = problems(mesh)
    assert [p.path for p in found] == [path]
    assert words in found[0].message
    mesh.apply(config("connectTimeout: 4s"))
    assert problems(mesh) == []
    assert mesh.sees(client, CLUSTER)[REVIEWS]["connect_timeout"] == "4s"


def test_fields_that_change_nothing_are_reported(mesh: Mesh, client: str) -> None:
    mesh.apply(
        config(
            """
extensionProviders: []
conectTimeout: 1s
rootNamespace: elsewhere
trustDomain: other.domain
serviceSettings: [{settings: {clusterLocal: true}, hosts: ["*"]}]
defaultTrafficPolicy: {portLevelSettings: [{port: {number: 80}}]}
"""
        )
    )
    found = {p.path: p.code for p in problems(mesh)}
    assert found == {
        "data.mesh.trustDomain": Code.BAD_VALUE,
        "data.mesh.serviceSettings": Code.NOT_SUPPORTED,
        "data.mesh.defaultTrafficPolicy.portLevelSettings": Code.NOT_SUPPORTED,
        "data.mesh.extensionProviders": Code.NOT_SUPPORTED,
        "data.mesh.conectTimeout": Code.UNKNOWN_FIELD,
        "data.mesh.rootNamespace": Code.BAD_VALUE,
    }


def test_a_field_recompiles_only_what_reads_it(mesh: Mesh, client: str) -> None:
    sealed = mesh.compiled.sealed
    views = {
        "clusters": sealed.clusters,
        "endpoints": sealed.endpoints,
        "hosts": sealed.hosts,
        "listeners": sealed.listeners,
        "inbound": sealed.inbound,
    }

    def reran(text: str) -> set[str]:
        before = {name: view.runs for name, view in views.items()}  # type: ignore[attr-defined]
        mesh.apply(config(text))
        return {n for n, view in views.items() if view.runs != before[n]}  # type: ignore[attr-defined]

    mesh.apply(config("{}"))
    assert reran("accessLogFile: /dev/stdout") == {"listeners", "inbound"}
    assert reran("accessLogFile: /dev/stdout\nconnectTimeout: 3s") == {"clusters", "inbound"}
    assert reran("accessLogFile: /dev/stdout\nconnectTimeout: 3s\ningressClass: x") == set()


def test_the_meshs_retry_policy_is_every_silent_routes(mesh: Mesh, client: str) -> None:
    mesh.apply(
        config(
            """
defaultHttpRetryPolicy:
  attempts: 5
  perTryTimeout: 2s
  retryOn: connect-failure,503
  retryRemoteLocalities: true
  retryIgnorePreviousHosts: false
  backoff: 100ms
"""
        )
    )

    def policy() -> dict[str, Any]:
        hosts = mesh.sees(client, ROUTE)["9080"]["virtual_hosts"]
        reviews = next(h for h in hosts if h["name"] == f"{HOST}:9080")
        found: dict[str, Any] = reviews["routes"][0]["route"]["retry_policy"]
        return found

    assert policy()["num_retries"] == 5
    assert policy()["per_try_timeout"] == "2s"
    assert "connect-failure" in policy()["retry_on"]
    assert policy()["retriable_status_codes"] == [503]
    assert "retry_priority" in policy()
    assert "retry_host_predicate" not in policy()
    assert policy()["retry_back_off"]["base_interval"] == "0.100s"
    mesh.apply(
        "kind: VirtualService\nmetadata: {name: r}\nspec: {hosts: [reviews], http: [{retries: "
        "{attempts: 1}, route: [{destination: {host: reviews}}]}]}"
    )
    assert policy()["num_retries"] == 1


ENTRY = """
kind: ServiceEntry
metadata: {name: out}
spec:
  hosts: [out.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 443, name: tls, protocol: TLS}]
---
kind: DestinationRule
metadata: {name: out}
spec: {host: out.example.com, trafficPolicy: {tls: {mode: SIMPLE}}}
"""


def test_dns_clusters_refresh_as_the_mesh_says(mesh: Mesh, client: str) -> None:
    mesh.apply(ENTRY)
    mesh.apply(config("dnsRefreshRate: 7s"))
    assert mesh.sees(client, CLUSTER)["outbound|443||out.example.com"]["dns_refresh_rate"] == "7s"


def test_originated_tls_has_the_meshs_floor(mesh: Mesh, client: str) -> None:
    mesh.apply(ENTRY)
    mesh.apply(config("tlsDefaults: {minProtocolVersion: TLSV1_3, ecdhCurves: [P-256]}"))
    cluster = mesh.sees(client, CLUSTER)["outbound|443||out.example.com"]
    common = cluster["transport_socket"]["typed_config"]["common_tls_context"]
    assert common["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_3"
    assert common["tls_params"]["ecdh_curves"] == ["P-256"]


def test_the_meshs_locality_setting_orders_endpoints(mesh: Mesh, client: str) -> None:
    from meltemi.base.resource import ENDPOINT

    mesh.apply(
        "kind: DestinationRule\nmetadata: {name: r}\n"
        "spec: {host: reviews, trafficPolicy: {outlierDetection: {interval: 5s}}}"
    )

    def priorities() -> list[int]:
        found = mesh.sees(client, ENDPOINT)[REVIEWS].get("endpoints", [])
        return [group.get("priority", 0) for group in found]

    assert set(priorities()) == {0}
    mesh.apply(config("localityLbSetting: {failoverPriority: [version]}"))
    assert sorted(priorities()) != [0, 0] or len(priorities()) == 1
    mesh.apply(config('localityLbSetting: {failoverPriority: ["version=v2"]}'))
    assert sorted(priorities()) == [0, 1]
    mesh.apply(config("localityLbSetting: {enabled: false}"))
    assert set(priorities()) == {0}

"""EnvoyFilters: what they match, what they change, for whom, and what becomes of bad ones."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from meltemi.base.problems import Code, Problem
from meltemi.base.resource import CLUSTER, EXTENSION, LISTENER, ROUTE

from .conftest import SHOP, Mesh
from .test_compile import GATEWAY, accepted, static_bootstrap

HOST = "reviews.default.svc.cluster.local"
REVIEWS = f"outbound|9080||{HOST}"
HCM = "envoy.filters.network.http_connection_manager"
TYPES = "type.googleapis.com/envoy.extensions.filters"


def envoy_filter(
    *patches: str, name: str = "f", namespace: str = "default", more: str = "{}"
) -> str:
    """An EnvoyFilter; a patch is YAML of applyTo, match and patch."""
    spec = yaml.safe_load(more) | {"configPatches": [yaml.safe_load(p) for p in patches]}
    body = {
        "kind": "EnvoyFilter",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
    return "---\n" + yaml.safe_dump(body, sort_keys=False)


@pytest.fixture
def client(mesh: Mesh) -> str:
    mesh.apply(SHOP)
    return mesh.connect("sidecar", "10.44.0.4", "ratings-v1", {"app": "ratings"})


def managers(mesh: Mesh, node: str, listener: str) -> list[dict[str, Any]]:
    found = mesh.sees(node, LISTENER)[listener]
    chains = [*found.get("filter_chains", ()), found.get("default_filter_chain", {})]
    filters = [f for chain in chains for f in chain.get("filters", ())]
    return [f["typed_config"] for f in filters if f["name"] == HCM]


def http_filters(mesh: Mesh, node: str, listener: str) -> list[str]:
    return [f["name"] for f in managers(mesh, node, listener)[0]["http_filters"]]


def problems(mesh: Mesh) -> list[Problem]:
    found = [*mesh.graph.problems(), *mesh.compiled.problems()]
    return [p for p in found if p.about.kind == "EnvoyFilter"]


def recipe(text: str) -> str:
    return text.replace("$HCM", HCM).replace("$TYPES", TYPES)


LUA = recipe("""
applyTo: HTTP_FILTER
match:
  context: SIDECAR_OUTBOUND
  listener: {filterChain: {filter: {name: $HCM, subFilter: {name: envoy.filters.http.router}}}}
patch:
  operation: INSERT_BEFORE
  value:
    name: envoy.filters.http.lua
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
      default_source_code:
        inline_string: |
          function envoy_on_response(handle)
            handle:headers():add("x-lua", "yes")
          end
""")
RATE_LIMIT = recipe("""
applyTo: HTTP_FILTER
match:
  context: SIDECAR_INBOUND
  listener: {filterChain: {filter: {name: $HCM}}}
patch:
  operation: INSERT_BEFORE
  value:
    name: envoy.filters.http.local_ratelimit
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
      stat_prefix: http_local_rate_limiter
      token_bucket: {max_tokens: 3, tokens_per_fill: 3, fill_interval: 60s}
      filter_enabled: {default_value: {numerator: 100, denominator: HUNDRED}}
      filter_enforced: {default_value: {numerator: 100, denominator: HUNDRED}}
""")
KEEPALIVE = recipe("""
applyTo: LISTENER
match: {context: SIDECAR_INBOUND, listener: {name: virtualInbound}}
patch:
  operation: MERGE
  value:
    socket_options:
    - {level: 1, name: 9, int_value: 1, state: STATE_PREBIND}
""")
ACCESS_LOG = recipe("""
applyTo: NETWORK_FILTER
match: {listener: {filterChain: {filter: {name: $HCM}}}}
patch:
  operation: MERGE
  value:
    typed_config:
      "@type": $TYPES.network.http_connection_manager.v3.HttpConnectionManager
      access_log:
      - name: envoy.access_loggers.stdout
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
""")
IDLE = recipe("""
applyTo: NETWORK_FILTER
match: {context: SIDECAR_OUTBOUND, listener: {filterChain: {filter: {name: $HCM}}}}
patch:
  operation: MERGE
  value:
    typed_config:
      "@type": $TYPES.network.http_connection_manager.v3.HttpConnectionManager
      stream_idle_timeout: 45s
      common_http_protocol_options: {idle_timeout: 30s}
      merge_slashes: true
      normalize_path: false
""")
GZIP = recipe("""
applyTo: HTTP_FILTER
match: {context: GATEWAY, listener: {filterChain: {filter: {name: $HCM}}}}
patch:
  operation: INSERT_FIRST
  value:
    name: envoy.filters.http.compressor
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor
      compressor_library:
        name: text_optimized
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip
""")


def test_popular_recipes_are_accepted_by_envoy(mesh: Mesh, client: str, tmp_path: Path) -> None:
    mesh.apply(GATEWAY)
    mesh.apply(
        envoy_filter(LUA, RATE_LIMIT, KEEPALIVE, ACCESS_LOG, IDLE, GZIP, namespace="istio-system")
    )
    assert problems(mesh) == []
    front = mesh.connect(
        "router", "10.44.9.9", "front-1", {"istio": "ingress"}, namespace="istio-system"
    )
    assert http_filters(mesh, client, "0.0.0.0_9080")[-2:] == [
        "envoy.filters.http.lua",
        "envoy.filters.http.router",
    ]
    assert http_filters(mesh, client, "virtualInbound")[0] == "envoy.filters.http.local_ratelimit"
    assert "envoy.filters.http.lua" not in http_filters(mesh, client, "virtualInbound")
    assert http_filters(mesh, front, "0.0.0.0_8080")[0] == "envoy.filters.http.compressor"
    assert mesh.sees(client, LISTENER)["virtualInbound"]["socket_options"]
    manager = managers(mesh, client, "0.0.0.0_9080")[0]
    assert manager["stream_idle_timeout"] == "45s"
    assert manager["common_http_protocol_options"]["idle_timeout"] == "30s"
    assert manager["normalize_path"] is False
    accepted(mesh.protos, static_bootstrap(mesh, client), tmp_path)
    accepted(mesh.protos, static_bootstrap(mesh, front), tmp_path)
    mesh.graph.verify()


def test_only_selected_proxies_get_their_own_copies(mesh: Mesh, client: str) -> None:
    other = mesh.connect("sidecar", "10.44.0.2", "reviews-v1", {"app": "reviews"})
    shared = set(mesh.views[client].sets) & set(mesh.views[other].sets)
    selector = "workloadSelector: {labels: {app: reviews}}"
    mesh.apply(envoy_filter(LUA, more=selector))
    assert "envoy.filters.http.lua" in http_filters(mesh, other, "0.0.0.0_9080")
    assert "envoy.filters.http.lua" not in http_filters(mesh, client, "0.0.0.0_9080")
    assert shared <= set(mesh.views[client].sets)
    still = {k for k in mesh.views[other].sets if k.type_url == CLUSTER}
    assert still <= set(mesh.views[other].sets)
    mesh.drop("EnvoyFilter", "f")
    assert set(mesh.views[client].sets) & set(mesh.views[other].sets) == shared
    assert not [key for key in mesh.sets if key.owner.endswith("~sidecar") and mesh.sets[key]]


def test_patched_resources_follow_what_they_are_patched_from(mesh: Mesh, client: str) -> None:
    mesh.apply(
        envoy_filter(
            f"applyTo: CLUSTER\nmatch: {{cluster: {{service: {HOST}}}}}\n"
            "patch: {operation: MERGE, value: {per_connection_buffer_limit_bytes: 4096}}"
        )
    )
    assert mesh.sees(client, CLUSTER)[REVIEWS]["per_connection_buffer_limit_bytes"] == 4096
    mesh.apply(
        "kind: DestinationRule\nmetadata: {name: r}\n"
        "spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}"
    )
    found = mesh.sees(client, CLUSTER)
    assert found[f"outbound|9080|v1|{HOST}"]["per_connection_buffer_limit_bytes"] == 4096
    mesh.drop("DestinationRule", "r")
    assert f"outbound|9080|v1|{HOST}" not in mesh.sees(client, CLUSTER)
    ratings = mesh.sees(client, CLUSTER)["outbound|9080||ratings.default.svc.cluster.local"]
    assert "per_connection_buffer_limit_bytes" not in ratings


def test_clusters_listeners_and_extensions_are_added_and_removed(mesh: Mesh, client: str) -> None:
    added = envoy_filter(
        "applyTo: CLUSTER\npatch: {operation: ADD, value: {name: mine, type: STATIC}}",
        "applyTo: LISTENER\nmatch: {context: SIDECAR_OUTBOUND}\n"
        "patch: {operation: ADD, value: {name: extra}}",
        "applyTo: EXTENSION_CONFIG\npatch: {operation: ADD, value: {name: ext, typed_config: "
        f'{{"@type": {TYPES}.http.cors.v3.Cors}}}}}}',
        f"applyTo: CLUSTER\nmatch: {{cluster: {{name: '{REVIEWS}'}}}}\n"
        "patch: {operation: REMOVE}",
        "applyTo: LISTENER\nmatch: {listener: {portNumber: 50051}}\npatch: {operation: REMOVE}",
    )
    mesh.apply(added)
    assert problems(mesh) == []
    assert mesh.sees(client, CLUSTER)["mine"]["name"] == "mine"
    assert "extra" in mesh.sees(client, LISTENER)
    assert "ext" in mesh.sees(client, EXTENSION)
    assert REVIEWS not in mesh.sees(client, CLUSTER)
    assert "0.0.0.0_50051" not in mesh.sees(client, LISTENER)
    mesh.drop("EnvoyFilter", "f")
    assert "mine" not in mesh.sees(client, CLUSTER)
    assert REVIEWS in mesh.sees(client, CLUSTER)
    assert mesh.sees(client, EXTENSION) == {}


def test_routes_hosts_and_configurations_are_patched_by_name(mesh: Mesh, client: str) -> None:
    vhost = f"{HOST}:9080"
    where = f"{{portNumber: 9080, vhost: {{name: '{vhost}'}}}}"
    mesh.apply(
        envoy_filter(
            "applyTo: ROUTE_CONFIGURATION\nmatch: {routeConfiguration: {name: '9080'}}\n"
            "patch: {operation: MERGE, value: {response_headers_to_remove: [server]}}",
            f"applyTo: VIRTUAL_HOST\nmatch: {{routeConfiguration: {where}}}\n"
            "patch: {operation: MERGE, value: {request_headers_to_remove: [x-secret]}}",
            "applyTo: HTTP_ROUTE\nmatch: {routeConfiguration: {vhost: {route: {action: ROUTE}, "
            f"name: '{vhost}'}}}}}}\n"
            "patch: {operation: MERGE, value: {route: {timeout: 7s}}}",
            f"applyTo: HTTP_ROUTE\nmatch: {{routeConfiguration: {where}}}\n"
            "patch: {operation: INSERT_FIRST, value: {name: first, match: {prefix: /teapot}, "
            "direct_response: {status: 418}}}",
            "applyTo: HTTP_ROUTE\nmatch: {context: SIDECAR_INBOUND}\n"
            "patch: {operation: MERGE, value: {route: {timeout: 9s}}}",
        )
    )
    assert problems(mesh) == []
    found = mesh.sees(client, ROUTE)["9080"]
    assert found["response_headers_to_remove"] == ["server"]
    hosts = {h["name"]: h for h in found["virtual_hosts"]}
    assert hosts[vhost]["request_headers_to_remove"] == ["x-secret"]
    assert [r["name"] for r in hosts[vhost]["routes"]] == ["first", "default"]
    assert hosts[vhost]["routes"][1]["route"]["timeout"] == "7s"
    assert "request_headers_to_remove" not in hosts["ratings.default.svc.cluster.local:9080"]
    inbound = managers(mesh, client, "virtualInbound")[0]["route_config"]
    assert inbound["virtual_hosts"][0]["routes"][0]["route"]["timeout"] == "9s"


CORS = f'{{name: envoy.filters.http.cors, typed_config: {{"@type": {TYPES}.http.cors.v3.Cors}}}}'


@pytest.mark.parametrize(
    ("operation", "value", "expected"),
    [
        ("INSERT_FIRST", "{name: new}", ["new", "fault", "cors", "router"]),
        ("ADD", "{name: new}", ["fault", "cors", "new", "router"]),
        ("INSERT_BEFORE", "{name: new}", ["fault", "new", "cors", "router"]),
        ("INSERT_AFTER", "{name: new}", ["fault", "cors", "new", "router"]),
        ("REMOVE", "", ["fault", "router"]),
        ("REPLACE", "{name: new}", ["fault", "new", "router"]),
    ],
)
def test_http_filters_are_edited_in_place(
    mesh: Mesh, client: str, operation: str, value: str, expected: list[str]
) -> None:
    mesh.apply(
        envoy_filter(
            "applyTo: HTTP_FILTER\nmatch: {context: SIDECAR_OUTBOUND, listener: {portNumber: 9080, "
            f"filterChain: {{filter: {{name: {HCM}, "
            "subFilter: {name: envoy.filters.http.cors}}}}}\n"
            f"patch: {{operation: {operation}{', value: ' + value if value else ''}}}"
        )
    )
    found = [n.rpartition(".")[2] for n in http_filters(mesh, client, "0.0.0.0_9080")]
    assert [n for n in found if n in ("fault", "cors", "new", "router")] == expected
    untouched = [n.rpartition(".")[2] for n in http_filters(mesh, client, "0.0.0.0_50051")]
    assert "new" not in untouched


def test_merging_appends_to_lists_or_replaces_them(mesh: Mesh, client: str) -> None:
    def logs(operation: str) -> int:
        mesh.apply(envoy_filter(ACCESS_LOG.replace("operation: MERGE", f"operation: {operation}")))
        return len(managers(mesh, client, "0.0.0.0_9080")[0]["access_log"])

    plain = len(managers(mesh, client, "0.0.0.0_9080")[0]["access_log"])
    assert logs("MERGE") == plain + 1
    assert logs("MERGE_AND_REPLACE_LIST") == 1


def test_patches_go_by_priority_then_root_namespace_then_age(mesh: Mesh, client: str) -> None:
    def header(value: str) -> str:
        return (
            "applyTo: ROUTE_CONFIGURATION\nmatch: {routeConfiguration: {name: '9080'}}\n"
            f"patch: {{operation: MERGE, value: {{response_headers_to_remove: [{value}]}}}}"
        )

    mesh.apply(envoy_filter(header("own"), name="a"))
    mesh.apply(envoy_filter(header("root"), name="b", namespace="istio-system"))
    mesh.apply(envoy_filter(header("late"), name="c", more="priority: 5"))
    mesh.apply(envoy_filter(header("early"), name="d", more="priority: -5"))
    mesh.apply(envoy_filter(header("elsewhere"), name="e", namespace="other"))
    found = mesh.sees(client, ROUTE)["9080"]["response_headers_to_remove"]
    assert found == ["early", "root", "own", "late"]


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ("{proxyVersion: '^1\\.30.*'}", True),
        ("{proxyVersion: '^1\\.29.*'}", False),
        ("{metadata: {TEAM: a}}", True),
        ("{metadata: {TEAM: b}}", False),
    ],
)
def test_proxies_are_matched_by_version_and_metadata(
    mesh: Mesh, protos: Any, match: str, fits: bool
) -> None:
    from meltemi.base.resource import node_from_id

    mesh.apply(SHOP)
    node = "sidecar~10.44.0.4~ratings-v1.default~default.svc.cluster.local"
    told = {"ISTIO_VERSION": "1.30.0", "TEAM": "a"}
    mesh.proxies.set(node, node_from_id(node, {"app": "ratings"}, told))
    mesh.apply(
        envoy_filter(
            f"applyTo: CLUSTER\nmatch: {{proxy: {match}}}\n"
            "patch: {operation: ADD, value: {name: mine}}"
        )
    )
    assert ("mine" in mesh.sees(node, CLUSTER)) is fits


@pytest.mark.parametrize(
    ("patch", "path", "code", "words"),
    [
        (
            "applyTo: CLUSTER\npatch: {operation: MERGE, value: {conect_timeout: 1s}}",
            "patch.value",
            Code.BAD_VALUE,
            "conect_timeout",
        ),
        ("applyTo: CLUSTR\npatch: {operation: ADD}", "applyTo", Code.BAD_VALUE, "none of"),
        (
            "applyTo: BOOTSTRAP\npatch: {operation: ADD, value: {a: 1}}",
            "patch.operation",
            Code.BAD_VALUE,
            "not possible",
        ),
        ("applyTo: CLUSTER\npatch: {operation: ADD}", "patch.value", Code.BAD_VALUE, "needs"),
        (
            "applyTo: CLUSTER\npatch: {operation: REMOVE, filterClass: AUTHN}",
            "patch.filterClass",
            Code.BAD_VALUE,
            "places nothing",
        ),
        (
            "applyTo: LISTENER\nmatch: {listener: {portName: a}}\npatch: {operation: REMOVE}",
            "match.listener.portName",
            Code.BAD_VALUE,
            "port names",
        ),
        (
            "applyTo: CLUSTER\nmatch: {listener: {}}\npatch: {operation: REMOVE}",
            "match.listener",
            Code.BAD_VALUE,
            "cannot be matched",
        ),
        (
            "applyTo: HTTP_FILTER\npatch: {operation: ADD, value: {name: x, typed_config: "
            '{"@type": type.googleapis.com/no.such.Filter}}}',
            "patch.value",
            Code.NOT_SUPPORTED,
            "no.such.Filter",
        ),
        (
            "applyTo: HTTP_ROUTE\npatch: {operation: ADD, value: {match: {safe_regex: {regex: '"
            + "a" * 1025
            + "'}}}}",
            "patch.value.match.safe_regex.regex",
            Code.BAD_VALUE,
            "1024",
        ),
    ],
)
def test_a_bad_patch_is_told_and_skipped(
    mesh: Mesh, client: str, patch: str, path: str, code: Code, words: str
) -> None:
    good = "applyTo: CLUSTER\npatch: {operation: ADD, value: {name: mine}}"
    mesh.apply(envoy_filter(patch, good))
    found = problems(mesh)
    assert [(p.path, p.code) for p in found] == [(f"spec.configPatches[0].{path}", code)]
    assert words in found[0].message
    assert "mine" in mesh.sees(client, CLUSTER)


def test_a_patch_that_meets_the_wrong_thing_is_told(mesh: Mesh, client: str) -> None:
    mesh.apply(
        envoy_filter(
            "applyTo: HTTP_FILTER\nmatch: {listener: {filterChain: {filter: "
            f"{{name: {HCM}}}}}}}}}\npatch: {{operation: REMOVE}}"
        )
    )
    assert [p.path for p in problems(mesh)] == ["spec.configPatches[0]"]
    assert "REMOVE needs the name" in problems(mesh)[0].message
    mesh.drop("EnvoyFilter", "f")
    assert problems(mesh) == []


def test_listener_filters_and_chains_are_patched(mesh: Mesh, client: str) -> None:
    inbound = "match: {context: SIDECAR_INBOUND, listener: {name: virtualInbound"
    mesh.apply(
        envoy_filter(
            f"applyTo: LISTENER_FILTER\n{inbound}, listenerFilter: envoy.filters.listener."
            "tls_inspector}}\npatch: {operation: INSERT_BEFORE, value: {name: first}}",
            f"applyTo: FILTER_CHAIN\n{inbound}, filterChain: {{destinationPort: 9080, "
            "transportProtocol: tls}}}\npatch: {operation: MERGE, value: "
            "{transport_socket_connect_timeout: 3s}}",
            f"applyTo: FILTER_CHAIN\n{inbound}, portNumber: 9080, filterChain: "
            "{transportProtocol: raw_buffer}}}\npatch: {operation: REMOVE}",
            f"applyTo: FILTER_CHAIN\n{inbound}, filterChain: {{sni: nobody.example}}}}}}\n"
            "patch: {operation: REMOVE}",
            f"applyTo: FILTER_CHAIN\n{inbound}, filterChain: {{applicationProtocols: 'no,one'}}"
            "}}\npatch: {operation: REMOVE}",
            "applyTo: FILTER_CHAIN\nmatch: {listener: {name: 0.0.0.0_9080, filterChain: "
            "{name: PassthroughFilterChain}}}\npatch: {operation: REMOVE}",
            "applyTo: FILTER_CHAIN\nmatch: {context: SIDECAR_OUTBOUND, listener: "
            "{portNumber: 50051}}\npatch: {operation: ADD, value: {name: more}}",
        )
    )
    assert problems(mesh) == []
    found = mesh.sees(client, LISTENER)
    names = [f["name"] for f in found["virtualInbound"]["listener_filters"]]
    assert names[names.index("first") + 1] == "envoy.filters.listener.tls_inspector"
    chains = found["virtualInbound"]["filter_chains"]
    own = [c for c in chains if c.get("filter_chain_match", {}).get("destination_port") == 9080]
    assert [c["transport_socket_connect_timeout"] for c in own] == ["3s"]
    assert "default_filter_chain" not in found["0.0.0.0_9080"]
    assert found["0.0.0.0_50051"]["filter_chains"][-1]["name"] == "more"


def test_targets_select_gateways_by_their_label(mesh: Mesh, client: str) -> None:
    target = "{group: gateway.networking.k8s.io, kind: Gateway, name: front}"
    patch = "applyTo: CLUSTER\npatch: {operation: ADD, value: {name: mine, type: STATIC}}"
    mesh.apply(envoy_filter(patch, more=f"targetRefs: [{target}]"))
    labels = {"gateway.networking.k8s.io/gateway-name": "front"}
    front = mesh.connect("router", "10.44.9.9", "front-1", labels)
    other = mesh.connect("router", "10.44.9.8", "other-1", {})
    assert "mine" in mesh.sees(front, CLUSTER)
    assert "mine" not in mesh.sees(other, CLUSTER)
    assert "mine" not in mesh.sees(client, CLUSTER)
    mesh.apply(envoy_filter(patch, more="targetRefs: [{kind: Service, name: reviews}]"))
    assert [p.path for p in problems(mesh)] == ["spec.targetRefs[0]"]


def test_route_configurations_are_told_by_their_names() -> None:
    from meltemi.api.envoy_filter import RouteConfigurationMatch
    from meltemi.compile.patch.matching import RouteName, route_configuration, route_name

    https = "https.443.front.shop.istio-system"
    assert route_name("9080") == RouteName(9080, "", "")
    assert route_name("a.default.svc.cluster.local:7000") == RouteName(7000, "", "")
    assert route_name("http.80") == RouteName(80, "", "")
    assert route_name("inbound|9080||") == RouteName(9080, "", "")
    assert route_name(https) == RouteName(443, "front", "istio-system/shop")
    assert route_configuration(RouteConfigurationMatch(port_name="front"), https)
    assert route_configuration(RouteConfigurationMatch(gateway="istio-system/shop"), https)
    assert not route_configuration(RouteConfigurationMatch(gateway="other/shop"), https)

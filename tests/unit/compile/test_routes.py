"""What a rule of a VirtualService becomes in Envoy's routes, where traffic does not show it."""

from typing import Any

import pytest
import yaml

from meltemi.api import networking as net
from meltemi.base.problems import Code
from meltemi.base.resource import ROUTE
from meltemi.compile.plan.destinations import Client, Resolver
from meltemi.compile.plan.routes import table_routes
from meltemi.model.route import Redirect
from meltemi.model.tables import table_from_virtual_service

from .conftest import SHOP, Mesh
from .test_policies import at

FAULT = "typed_per_filter_config/envoy.filters.http.fault"
CORS = "typed_per_filter_config/envoy.filters.http.cors"
RETRY = "route/retry_policy"
PRIORITIES = "envoy.retry_priorities.previous_priorities"


@pytest.fixture
def client(mesh: Mesh) -> str:
    mesh.apply(SHOP)
    return mesh.connect("sidecar", "10.44.0.4", "ratings-v1", {"app": "ratings"})


def routes_of(mesh: Mesh, node: str, rules: str) -> list[dict[str, Any]]:
    body = {
        "kind": "VirtualService",
        "metadata": {"name": "reviews"},
        "spec": {"hosts": ["reviews"], "http": yaml.safe_load(rules)},
    }
    mesh.apply(yaml.safe_dump(body))
    hosts = mesh.sees(node, ROUTE)["9080"]["virtual_hosts"]
    (found,) = [h for h in hosts if h["name"].startswith("reviews")]
    routes: list[dict[str, Any]] = found["routes"]
    return routes


FORWARD = "route: [{destination: {host: reviews}}]"
FIELDS: list[tuple[str, str, Any]] = [
    ("name: a, match: [{name: b, uri: {prefix: /x}}]", "name", "a.b"),
    ("name: a, match: [{uri: {prefix: /x}}]", "name", "a"),
    ("match: [{uri: {prefix: /x}}]", "name", "0.0"),
    ("match: [{uri: {prefix: /x}, statPrefix: mine}]", "stat_prefix", "mine"),
    (
        "match: [{headers: {'@request.auth.claims.groups': {exact: admin}}}]",
        "match/dynamic_metadata/0",
        {
            "filter": "envoy.filters.http.jwt_authn",
            "path": [{"key": "payload"}, {"key": "groups"}],
            "value": {
                "or_match": {
                    "value_matchers": [
                        {"string_match": {"exact": "admin"}},
                        {"list_match": {"one_of": {"string_match": {"exact": "admin"}}}},
                    ]
                }
            },
        },
    ),
    (
        "match: [{withoutHeaders: {'@request.auth.claims[a.b][c]': {}}}]",
        "match/dynamic_metadata/0",
        {
            "filter": "envoy.filters.http.jwt_authn",
            "path": [{"key": "payload"}, {"key": "a.b"}, {"key": "c"}],
            "value": {"present_match": True},
            "invert": True,
        },
    ),
    ("timeout: 3s", "route/timeout", "3s"),
    ("timeout: 3s", "route/max_grpc_timeout", "3s"),
    ("timeout: 3s", "route/max_stream_duration", None),
    ("timeout: 0s", "route/timeout", "0s"),
    ("name: none", "route/max_stream_duration/grpc_timeout_header_max", "0s"),
    ("retries: {attempts: 0}", RETRY, None),
    ("retries: {attempts: 4}", f"{RETRY}/num_retries", 4),
    ("name: none", f"{RETRY}/num_retries", 2),
    ("name: none", f"{RETRY}/retriable_status_codes", None),
    ("name: none", f"{RETRY}/host_selection_retry_max_attempts", "5"),
    ("retries: {attempts: 1, retryOn: '5xx,418'}", f"{RETRY}/retriable_status_codes", [418]),
    (
        "retries: {attempts: 1, retryOn: '5xx,418'}",
        f"{RETRY}/retry_on",
        "5xx,retriable-status-codes",
    ),
    ("retries: {attempts: 1, perTryTimeout: 2s}", f"{RETRY}/per_try_timeout", "2s"),
    (
        "retries: {attempts: 1, backoff: 50ms}",
        f"{RETRY}/retry_back_off/base_interval",
        "0.050s",
    ),
    (
        "retries: {attempts: 1, retryIgnorePreviousHosts: false}",
        f"{RETRY}/retry_host_predicate",
        None,
    ),
    (
        "retries: {attempts: 1, retryRemoteLocalities: true}",
        f"{RETRY}/retry_priority/name",
        PRIORITIES,
    ),
    (
        "fault: {abort: {grpcStatus: NOT_FOUND, percentage: {value: 12.5}}}",
        f"{FAULT}/abort/grpc_status",
        5,
    ),
    (
        "fault: {abort: {grpcStatus: NOT_FOUND, percentage: {value: 12.5}}}",
        f"{FAULT}/abort/percentage",
        {"numerator": 125_000, "denominator": "MILLION"},
    ),
    ("fault: {abort: {httpStatus: 500}}", "typed_per_filter_config", None),
    ("fault: {delay: {fixedDelay: 2s, percent: 30}}", f"{FAULT}/delay/fixed_delay", "2s"),
    (
        "fault: {delay: {fixedDelay: 2s, percent: 30, percentage: {value: 0.01}}}",
        f"{FAULT}/delay/percentage",
        {"numerator": 100, "denominator": "MILLION"},
    ),
    ("fault: {delay: {fixedDelay: 2s}}", "typed_per_filter_config", None),
    (
        "corsPolicy: {allowOrigins: [{exact: '*'}, {regex: 'https://.*'}]}",
        f"{CORS}/allow_origin_string_match",
        [{"exact": "*"}, {"safe_regex": {"regex": "https://.*"}}],
    ),
    (
        "corsPolicy: {allowOrigin: [https://a.example]}",
        f"{CORS}/allow_origin_string_match",
        [{"exact": "https://a.example"}],
    ),
    ("corsPolicy: {allowMethods: [GET, PUT]}", f"{CORS}/allow_methods", "GET,PUT"),
    ("corsPolicy: {allowHeaders: [x-a, x-b]}", f"{CORS}/allow_headers", "x-a,x-b"),
    ("corsPolicy: {exposeHeaders: [x-a]}", f"{CORS}/expose_headers", "x-a"),
    ("corsPolicy: {maxAge: 24h}", f"{CORS}/max_age", "86400"),
    ("corsPolicy: {allowCredentials: true}", f"{CORS}/allow_credentials", True),
    ("corsPolicy: {}", f"{CORS}/forward_not_matching_preflights", True),
    (
        "corsPolicy: {unmatchedPreflights: IGNORE}",
        f"{CORS}/forward_not_matching_preflights",
        False,
    ),
    (
        "mirror: {host: ratings}",
        "route/request_mirror_policies/0/disable_shadow_host_suffix_append",
        True,
    ),
    ("mirror: {host: ratings}", "route/request_mirror_policies/0/trace_sampled", False),
]


@pytest.mark.parametrize(("rule", "path", "expected"), FIELDS, ids=lambda v: str(v)[:60])
def test_a_field_becomes_envoys_route(
    mesh: Mesh, client: str, rule: str, path: str, expected: Any
) -> None:
    (route,) = routes_of(mesh, client, f"[{{{rule}, {FORWARD}}}]")
    assert not mesh.graph.problems()
    assert _at(route, path) == expected


def _at(message: Any, path: str) -> Any:
    for name in (FAULT, CORS):
        head, _, filtered = name.partition("/")
        if path.startswith(name):
            return at(message.get(head, {}).get(filtered), path.removeprefix(name).strip("/"))
    return at(message, path)


def test_the_mesh_retries_as_its_own_policy_says_where_a_rule_is_silent(
    mesh: Mesh, client: str
) -> None:
    text = "defaultHttpRetryPolicy: {attempts: 7, retryOn: reset}"
    meta = {"name": "istio", "namespace": "istio-system"}
    mesh.put({"kind": "ConfigMap", "metadata": meta, "data": {"mesh": text}})
    own_rule = f"match: [{{uri: {{prefix: /o}}}}], retries: {{attempts: 1}}, {FORWARD}"
    rules = f"[{{{own_rule}}}, {{{FORWARD}}}]"
    own, silent = routes_of(mesh, client, rules)
    assert own["route"]["retry_policy"]["num_retries"] == 1
    assert silent["route"]["retry_policy"]["num_retries"] == 7
    assert silent["route"]["retry_policy"]["retry_on"] == "reset"


@pytest.mark.parametrize(
    ("port", "tls", "expected"),
    [(80, False, None), (443, True, None), (443, False, 443), (80, True, 80), (8080, False, 8080)],
)
def test_a_derived_port_is_left_out_where_the_scheme_implies_it(
    port: int, tls: bool, expected: int | None
) -> None:
    spec = net.VirtualServiceSpec(
        hosts=("a",),
        http=(net.HTTPRoute(redirect=net.HTTPRedirect(derive_port="FROM_REQUEST_PORT")),),
    )
    table = table_from_virtual_service(
        net.VirtualService(spec=spec), "cluster.local", lambda _key: None
    ).value
    assert table is not None
    client = Client("mesh", "", (), port, tls)
    nothing = Resolver(lambda _host: None, lambda _host: None)
    (route,) = table_routes(table, client, nothing).routes
    assert isinstance(route.action, Redirect)
    assert route.action.port == expected


def test_rules_that_nothing_can_reach_are_reported(mesh: Mesh, client: str) -> None:
    rules = f"""
- match: [{{uri: {{prefix: /a}}}}]
  {FORWARD}
- match: [{{uri: {{exact: /a/b}}, headers: {{x: {{exact: y}}}}}}, {{uri: {{prefix: /ab}}}}]
  {FORWARD}
- match: [{{uri: {{prefix: /c}}, sourceLabels: {{a: b}}}}]
  {FORWARD}
- match: [{{uri: {{prefix: /c}}}}]
  {FORWARD}
- {FORWARD}
- match: [{{port: 9080}}]
  {FORWARD}
"""
    routes_of(mesh, client, rules)
    found = [(p.code, p.path) for p in mesh.graph.problems()]
    assert found == [
        (Code.UNREACHABLE_ROUTE, "spec.http[1]"),
        (Code.UNREACHABLE_ROUTE, "spec.http[5]"),
    ]


def test_a_delegate_follows_its_own_changes(mesh: Mesh, client: str) -> None:
    leaf = {
        "kind": "VirtualService",
        "metadata": {"name": "leaf"},
        "spec": {"http": [{"route": [{"destination": {"host": "ratings"}}]}]},
    }
    mesh.apply(yaml.safe_dump(leaf))
    (route,) = routes_of(mesh, client, "[{delegate: {name: leaf}}]")
    assert "ratings" in route["route"]["cluster"]
    leaf["spec"] = {"http": [{"route": [{"destination": {"host": "reviews"}}]}]}
    mesh.apply(yaml.safe_dump(leaf))
    (route,) = routes_of(mesh, client, "[{delegate: {name: leaf}}]")
    assert "reviews" in route["route"]["cluster"]
    mesh.drop("VirtualService", "leaf")
    assert {p.code for p in mesh.graph.problems()} == {Code.UNKNOWN_DELEGATE}
    mesh.graph.verify()

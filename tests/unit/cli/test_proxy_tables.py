"""Rows of proxy-config, from what Envoy says."""

from typing import Any

import pytest

from meltemi.cli import proxy_tables


@pytest.mark.parametrize(
    ("match", "text"),
    [
        ({"prefix": "/"}, "/*"),
        ({"path": "/a"}, "/a"),
        ({"path_separated_prefix": "/a"}, "/a[/*]"),
        ({"safe_regex": {"regex": "/v[12]"}}, "~/v[12]"),
        (
            {"prefix": "/", "headers": [{"name": ":method", "string_match": {"exact": "GET"}}]},
            "/* :method=GET",
        ),
        (
            {
                "prefix": "/",
                "headers": [
                    {"name": "user", "string_match": {"prefix": "j"}, "invert_match": True},
                    {"name": "debug", "present_match": True},
                ],
                "query_parameters": [
                    {"name": "v", "string_match": {"safe_regex": {"regex": "1+"}}}
                ],
            },
            "/* user!=j* debug ?v=~1+",
        ),
    ],
)
def test_a_match_in_a_line(match: dict[str, Any], text: str) -> None:
    route = {"match": match, "route": {"cluster": "c"}}
    host = {"name": "h", "domains": ["h.default.svc", "h", "h.default"], "routes": [route]}
    (row,) = proxy_tables.routes({"name": "80", "virtual_hosts": [host]})
    assert row["MATCH"] == text
    assert row["DOMAINS"] == "h, h.default + 1 more"
    assert tuple(row) == proxy_tables.COLUMNS["route"]


def test_where_routes_go() -> None:
    clusters = [{"name": "a", "weight": 9}, {"name": "b", "weight": 1}]
    routes = [
        {"route": {"weighted_clusters": {"clusters": clusters}}},
        {"redirect": {}},
        {"direct_response": {"status": 404}},
    ]
    host = {"name": "h", "domains": ["*"], "routes": routes}
    found = [row["TARGET"] for row in proxy_tables.routes({"virtual_hosts": [host]})]
    assert found == ["a 9, b 1", "redirect", "answers 404"]


def test_an_ejected_endpoint_is_seen() -> None:
    address = {"socket_address": {"address": "fd00::1", "port_value": 80}}
    host = {"address": address, "health_status": {"failed_outlier_check": True}}
    (row,) = proxy_tables.endpoints({"name": "c", "host_statuses": [host]})
    assert row == {
        "ENDPOINT": "[fd00::1]:80",
        "STATUS": "HEALTHY",
        "OUTLIER CHECK": "FAILED",
        "CLUSTER": "c",
    }


def test_a_listeners_chains() -> None:
    kind = f"{proxy_tables._NETWORK}.tcp_proxy.v3.TcpProxy"
    chain = {
        "filter_chain_match": {"server_names": ["a.b"], "transport_protocol": "tls"},
        "filters": [{"typed_config": {"@type": kind, "cluster": "c"}}],
    }
    (row,) = proxy_tables.listeners(
        {
            "name": "l",
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": 443}},
            "additional_addresses": [
                {"address": {"socket_address": {"address": "::", "port_value": 443}}}
            ],
            "filter_chains": [chain],
        }
    )
    assert tuple(row.values()) == ("l", "0.0.0.0, [::]", "443", "tls; sni a.b", "cluster c")

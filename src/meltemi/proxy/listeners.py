"""The proxy's own ports, as static listeners and clusters of the bootstrap.

They lead over unix sockets to Envoy's admin page and to the agent, which so needs no socket in
the pod's network. None of them uses SDS over ADS: in 1.40 that crashes (envoy-data-plane.md,
pitfall 3).
"""

from meltemi.proxy.app import App
from meltemi.proxy.node import JsonObject
from meltemi.proxy.spec import ProxySpec

ADMIN_PORT = 15000
STATUS_PORT = 15020
HEALTH_PORT = 15021
PROMETHEUS_PORT = 15090

_TYPE = "type.googleapis.com/envoy.extensions"
_INBOUND_SOURCE, _IPV6_SOURCE = "127.0.0.6", "::6"
"""Where inbound connections to the app come from; capture rules let them pass."""


def static_listeners(spec: ProxySpec, app: App) -> list[JsonObject]:
    prometheus = _http_chain("prometheus", [_route("/stats/prometheus", "prometheus_stats")])
    health = _http_chain("health", [_route("/healthz/ready", "agent")])
    return [
        _listener("admin", _tcp("127.0.0.1", ADMIN_PORT), [_tcp_chain("prometheus_stats")]),
        _open_listener(spec, "prometheus", PROMETHEUS_PORT, [prometheus]),
        _open_listener(spec, "health", HEALTH_PORT, [health]),
        _open_listener(spec, "status", STATUS_PORT, _status_chains()),
        *(
            _listener(
                f"app-{port}",
                {"pipe": {"path": spec.app_path(port), "mode": 0o600}},
                [_tcp_chain(f"app-{port}")],
            )
            for port in app.ports
        ),
    ]


def static_clusters(spec: ProxySpec, app: App) -> list[JsonObject]:
    return [
        pipe_cluster("prometheus_stats", spec.admin_path),
        pipe_cluster("agent", spec.agent_path),
        *(_app_cluster(spec, port) for port in app.ports),
    ]


def pipe_cluster(name: str, path: str) -> JsonObject:
    return static_cluster(name, {"pipe": {"path": path}})


def static_cluster(name: str, address: JsonObject, kind: str = "STATIC") -> JsonObject:
    endpoint = {"endpoint": {"address": address}}
    return {
        "name": name,
        "type": kind,
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _app_cluster(spec: ProxySpec, port: int) -> JsonObject:
    """Straight to the app as inbound traffic goes, past the capture rules."""
    cluster = static_cluster(f"app-{port}", _tcp(spec.ip, port))
    source = {"address": _IPV6_SOURCE if ":" in spec.ip else _INBOUND_SOURCE, "port_value": 0}
    cluster["upstream_bind_config"] = {"source_address": source}
    return cluster


def _status_chains() -> list[JsonObject]:
    """From the pod itself everything the agent offers; from outside what only reads."""
    anywhere = [
        _route("/stats/prometheus", "agent"),
        _route("/metrics", "agent"),
        _route("/healthz/ready", "agent"),
        _route("/app-health/", "agent", prefix=True),
    ]
    local = [*anywhere, _route("/quitquitquit", "agent"), _route("/drain", "agent")]
    loopback = [
        {"address_prefix": "127.0.0.0", "prefix_len": 8},
        {"address_prefix": "::1", "prefix_len": 128},
    ]
    inside = _http_chain("status_local", local)
    inside["filter_chain_match"] = {"direct_source_prefix_ranges": loopback}
    return [inside, _http_chain("status", anywhere)]


def _open_listener(spec: ProxySpec, name: str, port: int, chains: list[JsonObject]) -> JsonObject:
    """One that is reached from outside of the pod, over every family the pod has."""
    listener = _listener(name, _tcp("0.0.0.0", port), chains)
    if spec.has_ipv6:
        listener["additional_addresses"] = [{"address": _tcp("::", port)}]
    return listener


def _listener(name: str, address: JsonObject, chains: list[JsonObject]) -> JsonObject:
    """Health and metrics stay reachable when the proxy sheds load."""
    return {
        "name": f"meltemi-{name}",
        "address": address,
        "filter_chains": chains,
        "ignore_global_conn_limit": True,
        "bypass_overload_manager": True,
        "per_connection_buffer_limit_bytes": 1 << 20,
    }


def _tcp(address: str, port: int) -> JsonObject:
    return {"socket_address": {"address": address, "port_value": port}}


def _tcp_chain(cluster: str) -> JsonObject:
    proxy = {
        "@type": f"{_TYPE}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": cluster,
        "cluster": cluster,
        "idle_timeout": "300s",
    }
    return {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}


def _http_chain(name: str, routes: list[JsonObject]) -> JsonObject:
    router = {"@type": f"{_TYPE}.filters.http.router.v3.Router"}
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "route_config": {
            "name": name,
            "virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}],
        },
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "max_request_headers_kb": 16,
        "request_headers_timeout": "10s",
        "stream_idle_timeout": "60s",
        "common_http_protocol_options": {"idle_timeout": "300s", "max_headers_count": 64},
        "http2_protocol_options": {"max_concurrent_streams": 16},
        "generate_request_id": False,
        "server_name": "istio-envoy",
    }
    filter_ = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {"filters": [filter_]}


def _route(path: str, cluster: str, *, prefix: bool = False) -> JsonObject:
    match = {"prefix": path} if prefix else {"path": path}
    return {"match": match, "route": {"cluster": cluster, "timeout": "15s"}}

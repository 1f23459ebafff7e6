"""Network filters: the HTTP connection manager and the TCP proxy, for every direction.

The HTTP filters stand in the order of mesh-semantics 1.9; each slot says who fills it.
"""

from collections.abc import Sequence
from typing import Any

from meltemi.compile.settings import MeshSettings

TYPE = "type.googleapis.com/envoy.extensions.filters"
Json = dict[str, Any]

_ADS = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
_FAULT = {"name": "envoy.filters.http.fault", "type": "http.fault.v3.HTTPFault"}
_CORS = {"name": "envoy.filters.http.cors", "type": "http.cors.v3.Cors"}
_GRPC = {"name": "envoy.filters.http.grpc_stats", "type": "http.grpc_stats.v3.FilterConfig"}
_ROUTER = {"name": "envoy.filters.http.router", "type": "http.router.v3.Router"}

_OUTBOUND_FILTERS = (_FAULT, _CORS, _ROUTER)
_INBOUND_FILTERS = (_ROUTER,)
"""jwt_authn and RBAC stand before the router here: slots of the security issue, as ECDS."""


def access_log(settings: MeshSettings) -> list[Json]:
    """Istio's default text format, when the mesh wants access logs."""
    if not settings.access_log:
        return []
    text = (
        '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" '
        "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% "
        '%CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" '
        "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "
        '"%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" '
        '"%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% '
        "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% "
        "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
    )
    logger = {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        "log_format": {"text_format_source": {"inline_string": text}},
    }
    return [{"name": "envoy.access_loggers.stdout", "typed_config": logger}]


def connection_manager(
    prefix: str, *, loggers: Sequence[Json], outbound: bool, routes: str | Json, edge: bool = False
) -> Json:
    """An HTTP connection manager. `routes`: an RDS name, or a whole configuration.

    `edge`: it faces strangers, so it sanitises what they claim about themselves.
    """
    filters = _OUTBOUND_FILTERS if outbound else _INBOUND_FILTERS
    config: Json = {
        "@type": f"{TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": prefix,
        "http_filters": [_http_filter(f) for f in filters],
        "access_log": list(loggers),
        "use_remote_address": edge,
        "generate_request_id": True,
        "normalize_path": True,
        "merge_slashes": edge,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT" if edge else "KEEP_UNCHANGED",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "stream_idle_timeout": "0s",
        "max_request_headers_kb": 60,
        "common_http_protocol_options": {
            "idle_timeout": "3600s",
            "headers_with_underscores_action": "ALLOW",
        },
        "http_protocol_options": {"accept_http_10": True},
        "http2_protocol_options": {"max_concurrent_streams": 1000},
        "server_name": "istio-envoy",
        "server_header_transformation": "PASS_THROUGH" if outbound and not edge else "OVERWRITE",
        "request_headers_timeout": "30s" if edge else "0s",
    }
    if edge or not outbound:
        config["forward_client_cert_details"] = "SANITIZE_SET" if edge else "APPEND_FORWARD"
        config["set_current_client_cert_details"] = {"subject": True, "dns": True, "uri": True}
    if isinstance(routes, str):
        config["rds"] = {"route_config_name": routes, "config_source": _ADS}
    else:
        config["route_config"] = routes
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": config}


def _http_filter(entry: Json) -> Json:
    return {"name": entry["name"], "typed_config": {"@type": f"{TYPE}.{entry['type']}"}}


def tcp_proxy(cluster: str, *, loggers: Sequence[Json], mutual: bool = False) -> Json:
    """A TCP proxy. `mutual`: it waits for the handshake, so that the peer is known in metrics."""
    config: Json = {
        "stat_prefix": cluster,
        "cluster": cluster,
        "access_log": list(loggers),
        "access_log_options": {"flush_access_log_on_connected": True},
    }
    if mutual:
        config["upstream_connect_mode"] = "ON_DOWNSTREAM_TLS_HANDSHAKE"
        config["max_early_data_bytes"] = 65536
    config["@type"] = f"{TYPE}.network.tcp_proxy.v3.TcpProxy"
    return {"name": "envoy.filters.network.tcp_proxy", "typed_config": config}


def inspector(kind: str, *, skip_ports: Sequence[int] = ()) -> Json:
    """A listener filter: `tls_inspector`, `http_inspector` or `original_dst`.

    `skip_ports`: whose servers may speak first, so that waiting for the client would hang.
    """
    message = "".join(part.capitalize() for part in kind.split("_"))
    entry: Json = {
        "name": f"envoy.filters.listener.{kind}",
        "typed_config": {"@type": f"{TYPE}.listener.{kind}.v3.{message}"},
    }
    rules = [{"destination_port_range": {"start": p, "end": p + 1}} for p in sorted(skip_ports)]
    if len(rules) == 1:
        entry["filter_disabled"] = rules[0]
    elif rules:
        entry["filter_disabled"] = {"or_match": {"rules": rules}}
    return entry

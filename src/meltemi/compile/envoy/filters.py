"""Network filters: the HTTP connection manager and the TCP proxy, for every direction.

The HTTP filters stand in the order of mesh-semantics 1.9; each slot says who fills it.
"""

import datetime
import json
from collections.abc import Sequence
from typing import Any

from meltemi.compile import ir, names
from meltemi.compile.settings import MeshSettings, Paths
from meltemi.model.service import Protocol

TYPE = "type.googleapis.com/envoy.extensions.filters"
Json = dict[str, Any]

_ADS = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
_FAULT = {"name": "envoy.filters.http.fault", "type": "http.fault.v3.HTTPFault"}
_CORS = {"name": "envoy.filters.http.cors", "type": "http.cors.v3.Cors"}
_GRPC = {"name": "envoy.filters.http.grpc_stats", "type": "http.grpc_stats.v3.FilterConfig"}
_GRPC_WEB = {"name": "envoy.filters.http.grpc_web", "type": "http.grpc_web.v3.GrpcWeb"}
_ASK = {"name": "envoy.filters.http.on_demand", "type": "http.on_demand.v3.OnDemand"}
_ROUTER = {"name": "envoy.filters.http.router", "type": "http.router.v3.Router"}

_EDGE_WINDOWS = {
    "initial_stream_window_size": 64 * 1024,
    "initial_connection_window_size": 1024 * 1024,
}
"""What one stranger may have the proxy keep for it."""

_OUTBOUND_FILTERS = (_FAULT, _CORS, _ROUTER)
_INBOUND_FILTERS = (_ROUTER,)
"""jwt_authn and RBAC stand before the router here: slots of the security issue, as ECDS."""


_TEXT_FORMAT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" '
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% "
    '%CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" '
    "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "
    '"%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" '
    '"%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% '
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% "
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%"
)
"""The fields and their order are Istio's, which log readers know."""

_JSON_FIELDS = {
    "start_time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "route_name": "%ROUTE_NAME%",
}


def access_log(settings: MeshSettings) -> list[Json]:
    """Where and how the mesh wants access logs; nowhere by default."""
    wanted = settings.access_log
    if wanted is None:
        return []
    if wanted.is_json:
        layout: Json = {"json_format": json.loads(wanted.format) if wanted.format else _JSON_FIELDS}
    else:
        text = wanted.format or _TEXT_FORMAT
        layout = {"text_format_source": {"inline_string": text.rstrip("\n") + "\n"}}
    loggers = "type.googleapis.com/envoy.extensions.access_loggers"
    if wanted.path == "/dev/stdout":
        logger = {"@type": f"{loggers}.stream.v3.StdoutAccessLog", "log_format": layout}
        return [{"name": "envoy.access_loggers.stdout", "typed_config": logger}]
    logger = {
        "@type": f"{loggers}.file.v3.FileAccessLog",
        "path": wanted.path,
        "log_format": layout,
    }
    return [{"name": "envoy.access_loggers.file", "typed_config": logger}]


def connection_manager(plan: ir.Http, *, side: ir.Side, paths: Paths) -> Json:
    """An HTTP connection manager, without its access logs and without routes of its own.

    At the edge it faces strangers, so it sanitises what they claim about themselves.
    """
    routes = plan.routes
    edge = side is ir.Side.EDGE
    passes = side is ir.Side.CLIENT
    entries = _INBOUND_FILTERS if side is ir.Side.SERVER else _OUTBOUND_FILTERS
    http_filters = [_http_filter(entry) for entry in entries]
    if plan.protocol is Protocol.GRPC_WEB:
        http_filters.insert(0, _http_filter(_GRPC_WEB))
    if passes and isinstance(routes, str):
        # In full scope, where every host has routes, it does nothing; a proxy can so change scope
        # while connections are open.
        http_filters.insert(0, _http_filter(_ASK))
    if plan.dynamic_hosts:
        http_filters.insert(-1, _dynamic_hosts())
    config: Json = {
        "stat_prefix": plan.prefix,
        "http_filters": http_filters,
        "use_remote_address": edge,
        "generate_request_id": True,
        **_path_rules(paths, edge=edge),
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "stream_idle_timeout": "0s",
        "max_request_headers_kb": 60,
        "common_http_protocol_options": {
            "idle_timeout": "3600s",
            "headers_with_underscores_action": "ALLOW",
        },
        "http_protocol_options": {"accept_http_10": True},
        "http2_protocol_options": {"max_concurrent_streams": 1000}
        | (_EDGE_WINDOWS if edge else {}),
        "server_name": "istio-envoy",
        "server_header_transformation": "PASS_THROUGH" if passes else "OVERWRITE",
        "request_headers_timeout": "30s" if edge else "0s",
    }
    if plan.trusted_hops:
        config["xff_num_trusted_hops"] = plan.trusted_hops
    if side is not ir.Side.CLIENT:
        default = "SANITIZE_SET" if edge else "APPEND_FORWARD"
        config["forward_client_cert_details"] = plan.client_certificates or default
        config["set_current_client_cert_details"] = {"subject": True, "dns": True, "uri": True}
    if isinstance(routes, str):
        config["rds"] = {"route_config_name": routes, "config_source": _ADS}
    return config


def _path_rules(paths: Paths, *, edge: bool) -> Json:
    """An edge merges slashes and redirects escaped ones even where the mesh asks for less."""
    if paths is Paths.NONE:
        return {"normalize_path": False}
    rules: Json = {"normalize_path": True}
    rules["merge_slashes"] = edge or paths is not Paths.BASE
    if paths is Paths.DECODE_AND_MERGE_SLASHES:
        rules["path_with_escaped_slashes_action"] = "UNESCAPE_AND_FORWARD"
    else:
        rules["path_with_escaped_slashes_action"] = (
            "UNESCAPE_AND_REDIRECT" if edge else "KEEP_UNCHANGED"
        )
    return rules


def _http_filter(entry: Json) -> Json:
    return {"name": entry["name"], "typed_config": {"@type": f"{TYPE}.{entry['type']}"}}


def _dynamic_hosts() -> Json:
    """Resolves the host of a request whose route leads to a dynamic forward proxy cluster."""
    return {
        "name": "envoy.filters.http.dynamic_forward_proxy",
        "typed_config": {
            "@type": f"{TYPE}.http.dynamic_forward_proxy.v3.FilterConfig",
            "dns_cache_config": DNS_CACHE,
        },
    }


DNS_CACHE: Json = {"name": "dynamic_hosts", "dns_lookup_family": "V4_PREFERRED"}
"""Shared by every filter and cluster that resolves hosts of requests: Envoy wants them equal."""


def before_tcp(plan: ir.Tcp) -> list[Json]:
    """The filters of a TCP chain that stand before its proxy."""
    found: list[Json] = []
    config: Json
    if plan.mongo:
        config = {"@type": f"{TYPE}.network.mongo_proxy.v3.MongoProxy", "stat_prefix": plan.prefix}
        found.append({"name": "envoy.filters.network.mongo_proxy", "typed_config": config})
    if plan.marks:
        found.append(_mark_tcp())
    if plan.dynamic_port:
        kind = "sni_dynamic_forward_proxy"
        config = {
            "@type": f"{TYPE}.network.{kind}.v3.FilterConfig",
            "port_value": plan.dynamic_port,
            "dns_cache_config": DNS_CACHE,
        }
        found.append({"name": f"envoy.filters.network.{kind}", "typed_config": config})
    elif plan.forward is None:
        found.append(_cluster_by_sni())
    return found


def _cluster_by_sni() -> Json:
    """Has the TCP proxy take its cluster from the server name; any other name leads nowhere."""
    pattern = names.SNI_CLUSTER.replace("\\", "\\\\")
    cluster = f"%CEL(re.extract(connection.requested_server_name, '{pattern}', '\\\\1'))%"
    state = {
        "object_key": "envoy.tcp_proxy.cluster",
        "format_string": {"text_format_source": {"inline_string": cluster}},
    }
    return {
        "name": "envoy.filters.network.set_filter_state",
        "typed_config": {
            "@type": f"{TYPE}.network.set_filter_state.v3.Config",
            "on_new_connection": [state],
        },
    }


def _mark_tcp() -> Json:
    """Offers the mesh's ALPN for TCP on whatever connection goes upstream."""
    state = {
        "object_key": "envoy.network.application_protocols",
        "shared_with_upstream": "ONCE",
        "format_string": {"text_format_source": {"inline_string": names.MESH_TCP}},
    }
    return {
        "name": "envoy.filters.network.set_filter_state",
        "typed_config": {
            "@type": f"{TYPE}.network.set_filter_state.v3.Config",
            "on_new_connection": [state],
        },
    }


def tcp_proxy(plan: ir.Tcp, *, mutual: bool) -> Json:
    """A TCP proxy, without its access logs.

    `mutual`: it waits for the handshake, so that the peer is known in metrics.
    """
    config: Json = {
        "stat_prefix": plan.prefix,
        "access_log_options": {"flush_access_log_on_connected": True},
    }
    forward = plan.forward
    if forward is None:
        config["cluster"] = names.BLACK_HOLE
    else:
        config |= _forward(forward)
    if mutual:
        config["upstream_connect_mode"] = "ON_DOWNSTREAM_TLS_HANDSHAKE"
        config["max_early_data_bytes"] = 65536
    return config


def _forward(forward: ir.L4Forward) -> Json:
    """Which clusters, and how connections are kept."""
    found: Json = {}
    if len(forward.clusters) > 1:
        weighted = [{"name": c.cluster, "weight": c.weight} for c in forward.clusters]
        found["weighted_clusters"] = {"clusters": weighted}
    else:
        found["cluster"] = forward.clusters[0].cluster
    if forward.hash_source:
        found["hash_policy"] = [{"source_ip": {}}]
    if forward.idle_timeout is not None:
        found["idle_timeout"] = _seconds(forward.idle_timeout)
    if forward.longest is not None:
        found["max_downstream_connection_duration"] = _seconds(forward.longest)
    if forward.tunnel is not None:
        where = f"{forward.tunnel.target_host}:{forward.tunnel.target_port}"
        post = forward.tunnel.protocol.upper() == "POST"
        found["tunneling_config"] = {"hostname": where, "use_post": post}
    return found


def _seconds(span: datetime.timedelta) -> str:
    return f"{span.total_seconds():f}s"


def inspector(kind: str, *, skip_ports: Sequence[int] = ()) -> Json:
    """A listener filter: `tls_inspector`, `http_inspector`, `original_dst`, `proxy_protocol`.

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

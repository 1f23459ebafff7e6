"""The clusters of a sidecar's inbound side: to the application itself."""

from typing import Any

from meltemi.compile import ir
from meltemi.compile.envoy.filters import Json
from meltemi.compile.envoy.kit import Kit

_LOOPBACK_SOURCE = "127.0.0.6"
"""From this address capture rules let a connection through to the application."""
_CLUSTER = "envoy.config.cluster.v3.Cluster"
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_SOL_SOCKET, _SO_MARK = 1, 36
_NO_LIMIT = 2**32 - 1


def clusters(kit: Kit, inbound: ir.Inbound, mark: int | None) -> list[Any]:
    """One message for each; `mark`: what tells the proxy's own sockets apart, if not its user."""
    source: Json = {"source_address": {"address": _LOOPBACK_SOURCE, "port_value": 0}}
    if mark is not None:
        source["socket_options"] = [
            {"level": _SOL_SOCKET, "name": _SO_MARK, "int_value": mark, "state": "STATE_PREBIND"}
        ]
    return [kit.from_dict(_CLUSTER, _cluster(plan, source)) for plan in inbound.clusters]


def _cluster(plan: ir.InboundCluster, source: Json) -> Json:
    limits = dict.fromkeys(
        ("max_connections", "max_pending_requests", "max_requests", "max_retries"), _NO_LIMIT
    )
    body: Json = {
        "name": plan.name,
        "alt_stat_name": plan.stat_name,
        "connect_timeout": "10s",
        "circuit_breakers": {"thresholds": [limits]},
        "upstream_bind_config": source,
    }
    if plan.address:
        there = {"socket_address": {"address": plan.address, "port_value": plan.port}}
        where = {"endpoint": {"address": there}}
        body["type"] = "STATIC"
        body["load_assignment"] = {
            "cluster_name": plan.name,
            "endpoints": [{"lb_endpoints": [where]}],
        }
    else:
        body |= {"type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}
    if plan.destination is not None:
        service = {
            "host": plan.destination.host,
            "name": plan.destination.service,
            "namespace": plan.destination.namespace,
        }
        body["metadata"] = {"filter_metadata": {"mesh": service}}
    if plan.speaks_http:
        body["typed_extension_protocol_options"] = {_HTTP: _DOWNSTREAM_PROTOCOL}
    return body


_DOWNSTREAM_PROTOCOL: Json = {
    "@type": f"type.googleapis.com/{_HTTP}",
    "use_downstream_protocol_config": {
        "http_protocol_options": {},
        "http2_protocol_options": {},
    },
}

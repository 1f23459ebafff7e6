"""The clusters of a sidecar's inbound side: to the application itself."""

from typing import Any

from meltemi.api.networking import ConnectionPool, HTTPSettings, TCPSettings
from meltemi.compile import ir
from meltemi.compile.envoy.filters import Json
from meltemi.compile.envoy.kit import UNIX, Kit, set_address, set_duration, set_struct
from meltemi.compile.envoy.pool import keep_alive, limits
from meltemi.compile.settings import MeshSettings

_SOURCE, _IPV6_SOURCE = "127.0.0.6", "::6"
"""From these addresses capture rules let a connection through to the application."""
_EXTRA_SOURCE: Json = {
    "extra_source_addresses": [{"address": {"address": _IPV6_SOURCE, "port_value": 0}}]
}
"""Envoy takes the source of the family it connects in."""
_CLUSTER = "envoy.config.cluster.v3.Cluster"
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_SOL_SOCKET, _SO_MARK = 1, 36


def clusters(kit: Kit, inbound: ir.Inbound, mark: int | None, settings: MeshSettings) -> list[Any]:
    """One message for each; `mark`: what tells the proxy's own sockets apart, if not its user."""
    source: Json = {"source_address": {"address": _SOURCE, "port_value": 0}}
    if mark is not None:
        source["socket_options"] = [
            {"level": _SOL_SOCKET, "name": _SO_MARK, "int_value": mark, "state": "STATE_PREBIND"}
        ]
    return [_cluster(kit, plan, source, settings) for plan in inbound.clusters]


def _cluster(kit: Kit, plan: ir.InboundCluster, source: Json, settings: MeshSettings) -> Any:
    body: Json = {}
    if not plan.address.startswith(UNIX):
        body["upstream_bind_config"] = source | _of_families(plan)
    if not plan.address:
        body |= {"type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}
    message = kit.from_dict(_CLUSTER, body)
    message.name = plan.name
    message.alt_stat_name = plan.stat_name
    if plan.destination is not None:
        service = {
            "host": plan.destination.host,
            "name": plan.destination.service,
            "namespace": plan.destination.namespace,
        }
        set_struct(message.metadata.filter_metadata["mesh"], service)
    if plan.address:
        message.load_assignment.cluster_name = plan.name
        endpoint = message.load_assignment.endpoints.add().lb_endpoints.add().endpoint
        set_address(endpoint.address, plan.address, plan.port)
        for address in plan.also:
            set_address(endpoint.additional_addresses.add().address, address, plan.port)
    wanted = plan.pool or ConnectionPool()
    tcp, http = wanted.tcp or TCPSettings(), wanted.http or HTTPSettings()
    set_duration(message.connect_timeout, tcp.connect_timeout or settings.connect_timeout)
    limits(message.circuit_breakers.thresholds.add(), tcp, http)
    keepalive = tcp.tcp_keepalive or settings.keepalive
    if keepalive is not None:
        keep_alive(message.upstream_connection_options.tcp_keepalive, keepalive)
    if plan.speaks_http:
        _http(kit, message, tcp, http, http2=plan.translated)
    return message


def _of_families(plan: ir.InboundCluster) -> Json:
    """What else is said of sources: one for each family that the proxy has. Without IPv6 there
    is still the loopback, which a Sidecar may name."""
    if plan.ipv6:
        return _EXTRA_SOURCE
    if ":" in plan.address:
        return {"source_address": {"address": "::1", "port_value": 0}}
    return {}


def _http(kit: Kit, message: Any, tcp: TCPSettings, http: HTTPSettings, *, http2: bool) -> None:
    """The application is spoken to as the client speaks, unless that was translated."""
    options = kit.from_dict(_HTTP, _HTTP2 if http2 else _DOWNSTREAM_PROTOCOL)
    common = options.common_http_protocol_options
    idle = tcp.idle_timeout if http.idle_timeout is None else http.idle_timeout
    if idle is not None:
        set_duration(common.idle_timeout, idle)
    if tcp.max_connection_duration:
        set_duration(common.max_connection_duration, tcp.max_connection_duration)
    if http.max_requests_per_connection:
        common.max_requests_per_connection.value = http.max_requests_per_connection
    kit.pack(message.typed_extension_protocol_options[_HTTP], options)


_HTTP2: Json = {"explicit_http_config": {"http2_protocol_options": {}}}
_DOWNSTREAM_PROTOCOL: Json = {
    "use_downstream_protocol_config": {
        "http_protocol_options": {},
        "http2_protocol_options": {},
    },
}

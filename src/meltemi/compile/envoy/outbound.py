"""The outbound side of sidecars, and gateways' listeners."""

from typing import Any

from meltemi.compile import ir, names
from meltemi.compile.envoy import metrics
from meltemi.compile.envoy.filters import (
    Json,
    access_log,
    connection_manager,
    inspector,
    tcp_proxy,
)
from meltemi.compile.envoy.kit import Kit
from meltemi.compile.settings import MeshSettings
from meltemi.model.service import Protocol

_LISTENER = "envoy.config.listener.v3.Listener"
_CLUSTER = "envoy.config.cluster.v3.Cluster"


def address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _http_loggers(settings: MeshSettings) -> list[Json]:
    tags = metrics.source_tags(settings.cluster)
    return [*metrics.http_loggers(tags), *access_log(settings)]


def _tcp_loggers(settings: MeshSettings) -> list[Json]:
    tags = metrics.source_tags(settings.cluster)
    return [*metrics.tcp_loggers(tags), *access_log(settings)]


def common_clusters(kit: Kit, settings: MeshSettings) -> list[Any]:
    """Clusters that every sidecar has: pass through, refuse, and inbound pass through."""
    timeout = f"{settings.connect_timeout:g}s"
    limits = {"thresholds": [{name: 2**32 - 1 for name in _LIMITS}]}
    downstream = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "use_downstream_protocol_config": {
            "http_protocol_options": {},
            "http2_protocol_options": {},
        },
    }
    options = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": downstream}
    through: Json = {
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": timeout,
        "circuit_breakers": limits,
        "typed_extension_protocol_options": options,
    }
    unknown = {"filter_metadata": {"mesh": {"host": names.PASSTHROUGH, "name": names.PASSTHROUGH}}}
    refused = {"filter_metadata": {"mesh": {"host": names.BLACK_HOLE, "name": names.BLACK_HOLE}}}
    return [
        kit.from_dict(_CLUSTER, {"name": names.PASSTHROUGH, "metadata": unknown, **through}),
        kit.from_dict(
            _CLUSTER,
            {
                "name": names.BLACK_HOLE,
                "type": "STATIC",
                "connect_timeout": timeout,
                "metadata": refused,
            },
        ),
    ]


_LIMITS = ("max_connections", "max_pending_requests", "max_requests", "max_retries")


def virtual_outbound(kit: Kit, settings: MeshSettings) -> Any:
    """Takes all captured connections and hands each to the listener of its destination."""
    cluster = names.PASSTHROUGH if settings.allow_any else names.BLACK_HOLE
    loggers = _tcp_loggers(settings)
    refuse = {
        "filter_chain_match": {"destination_port": names.OUTBOUND_PORT},
        "name": "virtualOutbound-blackhole",
        "filters": [tcp_proxy(names.BLACK_HOLE, loggers=loggers)],
    }
    through = {
        "name": "virtualOutbound-catchall-tcp",
        "filters": [tcp_proxy(cluster, loggers=loggers)],
    }
    return kit.from_dict(
        _LISTENER,
        {
            "name": names.VIRTUAL_OUTBOUND,
            "address": address("0.0.0.0", names.OUTBOUND_PORT),
            "use_original_dst": True,
            "traffic_direction": "OUTBOUND",
            "filter_chains": [refuse],
            "default_filter_chain": through,
        },
    )


def http_listener(kit: Kit, port: int, settings: MeshSettings) -> Any:
    """All HTTP services of a port, told apart by their routes; other bytes pass through."""
    manager = connection_manager(
        f"outbound_0.0.0.0_{port}",
        loggers=_http_loggers(settings),
        outbound=True,
        routes=str(port),
    )
    through = names.PASSTHROUGH if settings.allow_any else names.BLACK_HOLE
    return kit.from_dict(
        _LISTENER,
        {
            "name": names.wildcard_listener(port),
            "address": address("0.0.0.0", port),
            "bind_to_port": False,
            "traffic_direction": "OUTBOUND",
            "listener_filters": [inspector("tls_inspector"), inspector("http_inspector")],
            "listener_filters_timeout": f"{settings.detection_timeout:g}s",
            "continue_on_listener_filters_timeout": True,
            "filter_chains": [
                {
                    "filter_chain_match": {
                        "transport_protocol": "raw_buffer",
                        "application_protocols": ["http/1.0", "http/1.1", "h2c"],
                    },
                    "filters": [manager],
                }
            ],
            "default_filter_chain": {
                "name": "PassthroughFilterChain",
                "filters": [tcp_proxy(through, loggers=_tcp_loggers(settings))],
            },
        },
    )


def tcp_listener(
    kit: Kit, host: str, bind: str, port: int, protocol: Protocol, settings: MeshSettings
) -> Any:
    """One port of one service, at its own address: TCP, opaque TLS, or sniffed."""
    proxy = tcp_proxy(names.outbound(port, "", host), loggers=_tcp_loggers(settings))
    body: Json = {
        "name": names.address_listener(bind, port),
        "address": address(bind, port),
        "bind_to_port": False,
        "traffic_direction": "OUTBOUND",
        "filter_chains": [{"filters": [proxy]}],
    }
    if protocol is Protocol.AUTO:
        manager = connection_manager(
            f"outbound_{bind}_{port}",
            loggers=_http_loggers(settings),
            outbound=True,
            routes=names.virtual_host(host, port),
        )
        body["listener_filters"] = [inspector("tls_inspector"), inspector("http_inspector")]
        body["listener_filters_timeout"] = f"{settings.detection_timeout:g}s"
        body["continue_on_listener_filters_timeout"] = True
        body["default_filter_chain"] = body.pop("filter_chains")[0]
        body["filter_chains"] = [
            {
                "filter_chain_match": {
                    "transport_protocol": "raw_buffer",
                    "application_protocols": ["http/1.0", "http/1.1", "h2c"],
                },
                "filters": [manager],
            }
        ]
    return kit.from_dict(_LISTENER, body)


def gateway_listener(kit: Kit, server: ir.GatewayServer, settings: MeshSettings) -> Any:
    """One plaintext port of a gateway: it faces strangers."""
    manager = connection_manager(
        f"outbound_0.0.0.0_{server.service_port}",
        loggers=_http_loggers(settings),
        outbound=True,
        routes=server.route,
        edge=True,
    )
    return kit.from_dict(
        _LISTENER,
        {
            "name": names.address_listener(server.bind, server.port),
            "address": address(server.bind, server.port),
            "traffic_direction": "OUTBOUND",
            "per_connection_buffer_limit_bytes": 32768,
            "filter_chains": [{"filters": [manager]}],
        },
    )

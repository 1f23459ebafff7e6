"""Envoy's bootstrap, a pure function of the pod. Everything else comes by ADS.

Shape and names are Istio's (`xds-grpc`, `sds-grpc`, `agent`, `prometheus_stats`; ports 15000,
15020, 15021, 15090), because tools and users' EnvoyFilters know them.
"""

import ipaddress
import json

from meltemi.base.identity import Identity
from meltemi.proxy.app import App, app_from_spec
from meltemi.proxy.errors import BadSpec
from meltemi.proxy.listeners import (
    pipe_cluster,
    static_cluster,
    static_clusters,
    static_listeners,
)
from meltemi.proxy.node import JsonObject, knows_peers, node
from meltemi.proxy.spec import (
    CERTIFICATE,
    LONGEST_SOCKET_PATH,
    ROOTS,
    UNIX_PREFIX,
    ProxySpec,
)
from meltemi.proxy.stats import FLUSH_SECONDS, eviction_seconds, stats_config
from meltemi.proxy.upstream import CONTROL_PLANE_NAME

_TYPE = "type.googleapis.com/envoy.extensions"
_SO_MARK = 36
_SOL_SOCKET = 1
_LARGEST_HEAP = 1 << 30
_MOST_CONNECTIONS = 20_000


def identity_of(spec: ProxySpec) -> Identity:
    return Identity(spec.trust_domain, spec.namespace, spec.service_account)


def bootstrap(spec: ProxySpec) -> JsonObject:
    """The configuration as JSON. Raises BadSpec for an environment that cannot work."""
    app = app_from_spec(spec)
    _check_paths(spec, app)
    config: JsonObject = {
        "node": node(spec),
        "admin": {"address": {"pipe": {"path": spec.admin_path, "mode": 0o600}}},
        "dynamic_resources": _dynamic_resources(),
        "static_resources": {
            "listeners": static_listeners(spec, app),
            "clusters": [
                *static_clusters(spec, app),
                _sds_cluster(spec),
                _xds_cluster(spec),
                *_local_clusters(spec),
            ],
        },
        "stats_config": stats_config(spec),
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        "stats_flush_interval": f"{FLUSH_SECONDS}s",
        "stats_eviction_interval": f"{eviction_seconds(spec)}s",
        "cluster_manager": _cluster_manager(spec),
        "layered_runtime": {
            "layers": [
                {"name": "static", "static_layer": _RUNTIME},
                {"name": "admin", "admin_layer": {}},
            ]
        },
        "overload_manager": _overload_manager(),
    }
    for patch in _patches(spec):
        config = _merged(config, patch)
    return config


def _patches(spec: ProxySpec) -> list[JsonObject]:
    """EnvoyFilters that apply to BOOTSTRAP, as the injector found them."""
    text = spec.env.get(_PATCHES, "")
    try:
        found = json.loads(text) if text else []
    except ValueError as e:
        raise BadSpec(f"pod {spec.name}.{spec.namespace}: env {_PATCHES} is not JSON: {e}") from e
    if not isinstance(found, list) or not all(isinstance(p, dict) for p in found):
        raise BadSpec(f"pod {spec.name}.{spec.namespace}: env {_PATCHES} is not a list of objects")
    return found


def _merged(base: JsonObject, patch: JsonObject) -> JsonObject:
    """As protobuf merges: messages field by field, lists one after the other."""
    found = dict(base)
    for name, value in patch.items():
        below = found.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            found[name] = _merged(below, value)
        elif isinstance(below, list) and isinstance(value, list):
            found[name] = [*below, *value]
        else:
            found[name] = value
    return found


_PATCHES = "MELTEMI_BOOTSTRAP_PATCHES"
_LOCAL_CLUSTER = "local_cluster"


_RUNTIME: JsonObject = {
    "re2.max_program_size.error_level": 32768,
    "re2.max_program_size.warn_level": 32768,
}


def _dynamic_resources() -> JsonObject:
    # 0 s: wait for the configuration for as long as it takes, and be not ready until then.
    ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    back_off = {"retry_back_off": {"base_interval": "0.2s", "max_interval": "5s"}}
    grpc = {"envoy_grpc": {"cluster_name": "xds-grpc", "retry_policy": back_off}}
    return {
        "lds_config": ads,
        "cds_config": ads,
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [grpc],
        },
    }


def _cluster_manager(spec: ProxySpec) -> JsonObject:
    """The mark by which capture rules know Envoy's own sockets; the cluster of its peers."""
    manager: JsonObject = {}
    if knows_peers(spec):
        manager["local_cluster_name"] = _LOCAL_CLUSTER
    if spec.socket_mark is not None:
        mark = {
            "description": "meltemi",
            "level": _SOL_SOCKET,
            "name": _SO_MARK,
            "int_value": spec.socket_mark,
            "state": "STATE_PREBIND",
        }
        manager["upstream_bind_config"] = {"socket_options": [mark]}
    return manager


def _local_clusters(spec: ProxySpec) -> list[JsonObject]:
    """The proxy's peers, by which Envoy prefers its own zone without overloading it."""
    if not knows_peers(spec):
        return []
    source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "5s"}
    return [
        {
            "name": _LOCAL_CLUSTER,
            "type": "EDS",
            "eds_cluster_config": {"eds_config": source, "service_name": _LOCAL_CLUSTER},
        }
    ]


def _sds_cluster(spec: ProxySpec) -> JsonObject:
    return pipe_cluster("sds-grpc", spec.sds_path) | {
        "typed_extension_protocol_options": _http2(keepalive=False)
    }


def _xds_cluster(spec: ProxySpec) -> JsonObject:
    """The control plane: a unix socket, or mutual TLS with the workload's own certificate."""
    if spec.xds_target.startswith(UNIX_PREFIX):
        cluster = pipe_cluster("xds-grpc", spec.xds_target.removeprefix(UNIX_PREFIX))
    else:
        host, _, port = spec.xds_target.rpartition(":")
        if not host or not port.isdecimal():
            raise BadSpec(f"xds target {spec.xds_target!r}: expected unix:PATH or host:port")
        address = {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}
        kind = "STATIC" if _is_ip(host.strip("[]")) else "STRICT_DNS"
        cluster = static_cluster("xds-grpc", address, kind)
        cluster["transport_socket"] = _control_plane_tls()
        cluster["upstream_connection_options"] = {
            "tcp_keepalive": {"keepalive_time": 30, "keepalive_interval": 10}
        }
    limits = {"max_connections": 100_000, "max_requests": 100_000, "max_pending_requests": 100_000}
    cluster["circuit_breakers"] = {
        "thresholds": [{"priority": p} | limits for p in ("DEFAULT", "HIGH")]
    }
    cluster["typed_extension_protocol_options"] = _http2(keepalive=True)
    return cluster


def _control_plane_tls() -> JsonObject:
    name = {"san_type": "DNS", "matcher": {"exact": CONTROL_PLANE_NAME}}
    context = {
        "@type": f"{_TYPE}.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": CONTROL_PLANE_NAME,
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [sds_secret(CERTIFICATE)],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": [name]},
                "validation_context_sds_secret_config": sds_secret(ROOTS),
            },
        },
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def sds_secret(name: str) -> JsonObject:
    """The one way to name a secret of the agent; the same bytes everywhere share one stream."""
    grpc = {"envoy_grpc": {"cluster_name": "sds-grpc"}}
    source = {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [grpc],
    }
    config = {
        "api_config_source": source,
        "resource_api_version": "V3",
        "initial_fetch_timeout": "0s",
    }
    return {"name": name, "sds_config": config}


def _http2(*, keepalive: bool) -> JsonObject:
    """Keepalive notices a control plane that is gone without a word."""
    options: JsonObject = {"max_concurrent_streams": 100}
    if keepalive:
        options["connection_keepalive"] = {"interval": "30s", "timeout": "10s"}
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    explicit = {"http2_protocol_options": options}
    return {kind: {"@type": f"type.googleapis.com/{kind}", "explicit_http_config": explicit}}


def _overload_manager() -> JsonObject:
    """Bounds that hold whatever clients send (security-lessons.md, class 19)."""
    monitors = f"{_TYPE}.resource_monitors"
    connections = {
        "@type": f"{monitors}.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": _MOST_CONNECTIONS,
    }
    heap = {
        "@type": f"{monitors}.fixed_heap.v3.FixedHeapConfig",
        "max_heap_size_bytes": _LARGEST_HEAP,
    }
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": connections,
            },
            {"name": "envoy.resource_monitors.fixed_heap", "typed_config": heap},
        ],
        "actions": [
            _when_heap_at(0.92, "envoy.overload_actions.shrink_heap"),
            _when_heap_at(0.96, "envoy.overload_actions.stop_accepting_requests"),
        ],
    }


def _when_heap_at(share: float, action: str) -> JsonObject:
    trigger = {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": share}}
    return {"name": action, "triggers": [trigger]}


def _check_paths(spec: ProxySpec, app: App) -> None:
    paths = [spec.sds_path, spec.agent_path, spec.admin_path, *map(spec.app_path, app.ports)]
    if spec.xds_target.startswith(UNIX_PREFIX):
        paths.append(spec.xds_target.removeprefix(UNIX_PREFIX))
    for path in paths:
        if len(path.encode()) > LONGEST_SOCKET_PATH:
            raise BadSpec(
                f"socket path {path} is longer than {LONGEST_SOCKET_PATH} bytes; "
                "use a shorter data directory"
            )


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

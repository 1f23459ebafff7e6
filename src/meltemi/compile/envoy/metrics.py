"""Istio's standard metrics, from Envoy's stats access logger (envoy-data-plane, section 4).

Names and labels are a contract with dashboards. The proxy's own identity comes from its
environment, so that listeners can be shared; its peer's, from endpoint metadata at the client and
from the peer's certificate at the server. No label ever comes from a header.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

from meltemi.compile.envoy.kit import Kit
from meltemi.compile.envoy.structs import Written, element, joined, struct_bytes
from meltemi.protos.wire import field, text

Json = dict[str, Any]
_TYPED = "type.googleapis.com/xds.type.v3.TypedStruct"
_CONFIG = "type.googleapis.com/envoy.extensions.access_loggers.stats.v3.Config"
_LOGGER = "envoy.access_loggers.stats"
_ACCESS_LOG = "envoy.config.accesslog.v3.AccessLog"

PEER_FIELDS = {"workload": "CN", "namespace": "O", "app": "OU", "version": "L"}
"""What a certificate's subject says of its workload."""

Tags = Mapping[str, str]


def own(field: str) -> str:
    """What the agent put into Envoy's environment about the workload."""
    return f"%ENVIRONMENT(MELTEMI_{field.upper()})%"


def _peer(field: str) -> str:
    return f"%FILTER_STATE(mesh.peer.{field}:PLAIN)%"


def source_tags(cluster: str) -> Tags:
    """Labels where the client's proxy reports."""

    def there(field: str) -> str:
        return f"%METADATA(UPSTREAM_HOST:mesh:{field})%"

    def service(field: str) -> str:
        return f"%METADATA(CLUSTER:mesh:{field})%"

    return {
        "reporter": "source",
        "source_workload": own("workload"),
        "source_workload_namespace": own("namespace"),
        "source_principal": own("principal"),
        "source_app": own("app"),
        "source_version": own("version"),
        "source_cluster": cluster,
        "source_canonical_service": own("service"),
        "source_canonical_revision": own("revision"),
        "destination_workload": there("workload"),
        "destination_workload_namespace": there("namespace"),
        "destination_principal": there("principal"),
        "destination_app": there("app"),
        "destination_version": there("version"),
        "destination_cluster": there("cluster"),
        "destination_canonical_service": there("service"),
        "destination_canonical_revision": there("revision"),
        "destination_service": service("host"),
        "destination_service_name": service("name"),
        "destination_service_namespace": service("namespace"),
        "connection_security_policy": "unknown",
    }


def destination_tags(
    cluster: str, *, host: str, service: str, namespace: str, mutual: bool
) -> Tags:
    """Labels where the server's proxy reports."""
    return {
        "reporter": "destination",
        "source_workload": _peer("workload"),
        "source_workload_namespace": _peer("namespace"),
        "source_principal": "%DOWNSTREAM_PEER_URI_SAN%" if mutual else "unknown",
        "source_app": _peer("app"),
        "source_version": _peer("version"),
        "source_cluster": cluster if mutual else "unknown",
        "source_canonical_service": _peer("app"),
        "source_canonical_revision": _peer("version"),
        "destination_workload": own("workload"),
        "destination_workload_namespace": own("namespace"),
        "destination_principal": own("principal") if mutual else "unknown",
        "destination_app": own("app"),
        "destination_version": own("version"),
        "destination_cluster": cluster,
        "destination_canonical_service": own("service"),
        "destination_canonical_revision": own("revision"),
        "destination_service": host or "unknown",
        "destination_service_name": service or "unknown",
        "destination_service_namespace": namespace or "unknown",
        "connection_security_policy": "mutual_tls" if mutual else "none",
    }


def http_loggers(tags: Tags, *, grpc: bool = False) -> list[dict[str, Any]]:
    """One logger for requests: a counter and three histograms."""
    protocol = "grpc" if grpc else "http"
    labels = _labels(
        dict(tags)
        | {
            "request_protocol": protocol,
            "response_code": "%RESPONSE_CODE%",
            "response_flags": "%RESPONSE_FLAGS%",
            "grpc_response_status": "%GRPC_STATUS_NUMBER%" if grpc else "",
        }
    )
    return [
        _logger(
            counters=[_counter("requests_total", labels, value_fixed=1)],
            histograms=[
                _histogram("request_duration_milliseconds", labels, "Milliseconds", "%DURATION%"),
                _histogram("request_bytes", labels, "Bytes", "%BYTES_RECEIVED%"),
                _histogram("response_bytes", labels, "Bytes", "%BYTES_SENT%"),
            ],
        )
    ]


def tcp_loggers(tags: Tags) -> list[dict[str, Any]]:
    """Two loggers for connections: one counts them when they open, one what they carried."""
    labels = _labels(dict(tags) | {"request_protocol": "tcp", "response_flags": "%RESPONSE_FLAGS%"})
    opened = _logger(counters=[_counter("tcp_connections_opened_total", labels, value_fixed=1)])
    opened["filter"] = {"log_type_filter": {"types": ["TcpUpstreamConnected"]}}
    closed = _logger(
        counters=[
            _counter("tcp_connections_closed_total", labels, value_fixed=1),
            _counter("tcp_sent_bytes_total", labels, value_format="%BYTES_SENT%"),
            _counter("tcp_received_bytes_total", labels, value_format="%BYTES_RECEIVED%"),
        ]
    )
    closed["filter"] = {"log_type_filter": {"types": ["TcpConnectionEnd"]}}
    return [opened, closed]


def set_logger(kit: Kit, target: Any, entry: Json) -> None:
    """Fill an AccessLog. The metrics' own have a Struct of many labels, which is written directly:
    that takes a fraction of the time."""
    config = entry["typed_config"]
    if config["@type"] != _TYPED:
        target.CopyFrom(kit.from_dict(_ACCESS_LOG, entry))
        return
    if "filter" in entry:
        target.CopyFrom(kit.from_dict(_ACCESS_LOG, {"filter": entry["filter"]}))
    target.name = entry["name"]
    target.typed_config.type_url = _TYPED
    body = text(1, config["type_url"]) + field(2, struct_bytes(config["value"]))
    target.typed_config.value = body


def peer_filter(*, mutual: bool) -> dict[str, Any]:
    """The network filter that keeps what the client's certificate says, once per connection."""
    states = [_peer_state(field, part, mutual=mutual) for field, part in PEER_FIELDS.items()]
    when = "on_downstream_tls_handshake" if mutual else "on_new_connection"
    return {
        "name": "envoy.filters.network.set_filter_state",
        "typed_config": {
            "@type": _TYPED,
            "type_url": "type.googleapis.com/"
            "envoy.extensions.filters.network.set_filter_state.v3.Config",
            "value": {when: states},
        },
    }


def _peer_state(field: str, part: str, *, mutual: bool) -> dict[str, Any]:
    subject = "connection.subject_peer_certificate"
    pattern = f"(?:^|,){re.escape(part)}=([^,]*)"
    value = f"%CEL(re.extract({subject}, '{pattern}', '\\\\1'))%" if mutual else "unknown"
    return {
        "object_key": f"mesh.peer.{field}",
        "factory_key": "envoy.string",
        "format_string": {"text_format_source": {"inline_string": value}},
    }


def _logger(**config: Any) -> dict[str, Any]:
    scope = {
        "prefix": "istio",
        "enable_eviction": True,
        "sharing_name": "istio",
        "max_counters": 5000,
        "max_histograms": 5000,
    }
    value = {"stats_scope": scope, **config}
    return {
        "name": _LOGGER,
        "typed_config": {"@type": _TYPED, "type_url": _CONFIG, "value": value},
    }


def _labels(tags: Tags) -> Written:
    """Labels as all stats of a logger have them."""
    return joined([_label(name, tags[name]) for name in sorted(tags) if tags[name]])


@functools.lru_cache(maxsize=4096)
def _label(name: str, value: str) -> bytes:
    """Most labels are the same for every service."""
    return element({"name": name, "value_format": value})


def _stat(name: str, labels: Written) -> dict[str, Any]:
    return {"name": name, "tags": labels}


def _counter(name: str, labels: Written, **value: Any) -> dict[str, Any]:
    return {"stat": _stat(name, labels), **value}


def _histogram(name: str, labels: Written, unit: str, value: str) -> dict[str, Any]:
    return {"stat": _stat(name, labels), "unit": unit, "value_format": value}

"""Connections to a cluster's endpoints: limits, retries' budget, and how HTTP is spoken."""

import datetime
from typing import Any

from meltemi.api.networking import (
    ConnectionPool,
    HTTPSettings,
    OutlierDetection,
    RetryBudget,
    TcpKeepalive,
    TCPSettings,
)
from meltemi.compile import ir
from meltemi.compile.envoy.kit import Kit, set_duration
from meltemi.compile.settings import MeshSettings
from meltemi.model.service import Protocol

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_NO_LIMIT = 2**32 - 1
_BUDGET, _LEAST_RETRIES = 20.0, 3
_PATIENCE = datetime.timedelta(seconds=10)
_SERVER_ERRORS = r"5\d\d"


def pool(kit: Kit, message: Any, plan: ir.Cluster, settings: MeshSettings) -> None:
    """Fill a cluster's connection settings."""
    blocks = plan.blocks
    wanted = blocks.connection_pool or ConnectionPool()
    tcp, http = wanted.tcp or TCPSettings(), wanted.http or HTTPSettings()
    set_duration(message.connect_timeout, tcp.connect_timeout or settings.connect_timeout)
    thresholds = message.circuit_breakers.thresholds.add()
    limits(thresholds, tcp, http)
    if blocks.retry_budget is not None:
        _budget(thresholds.retry_budget, blocks.retry_budget)
    keepalive = tcp.tcp_keepalive or settings.keepalive
    if keepalive is not None:
        keep_alive(message.upstream_connection_options.tcp_keepalive, keepalive)
    if _speaks_http(plan):
        upgrade = _upgrades(http, settings)
        options = _http_options(kit, plan, tcp, http, upgrade=upgrade)
        kit.pack(message.typed_extension_protocol_options[HTTP_OPTIONS], options)


def _speaks_http(plan: ir.Cluster) -> bool:
    """A cluster that originates TLS may take HTTP whatever its port is called."""
    http = plan.protocol.is_http or plan.protocol is Protocol.AUTO
    return http or plan.security is ir.Security.ORIGINATE


def limits(target: Any, tcp: TCPSettings, http: HTTPSettings) -> None:
    """Istio has no limits unless they are configured; zero means unset (mesh-semantics 1.3)."""
    target.max_connections.value = tcp.max_connections or _NO_LIMIT
    target.max_pending_requests.value = http.http1_max_pending_requests or _NO_LIMIT
    target.max_requests.value = http.http2_max_requests or _NO_LIMIT
    target.max_retries.value = http.max_retries or _NO_LIMIT
    target.track_remaining = True


def _budget(target: Any, budget: RetryBudget) -> None:
    target.budget_percent.value = budget.percent.value if budget.percent else _BUDGET
    target.min_retry_concurrency.value = budget.min_retry_concurrency or _LEAST_RETRIES
    if budget.budget_interval:
        set_duration(target.budget_interval, budget.budget_interval)


def keep_alive(target: Any, wanted: TcpKeepalive) -> None:
    target.SetInParent()
    if wanted.probes:
        target.keepalive_probes.value = wanted.probes
    if wanted.time:
        target.keepalive_time.value = int(wanted.time.total_seconds())
    if wanted.interval:
        target.keepalive_interval.value = int(wanted.interval.total_seconds())


def _upgrades(http: HTTPSettings, settings: MeshSettings) -> bool:
    """Whether HTTP/1.1 goes on as HTTP/2: the policy's word, else the mesh's."""
    if http.h2_upgrade_policy in ("", "DEFAULT"):
        return settings.h2_upgrade
    return http.h2_upgrade_policy == "UPGRADE"


def _http_options(
    kit: Kit, plan: ir.Cluster, tcp: TCPSettings, http: HTTPSettings, *, upgrade: bool
) -> Any:
    options = kit.new(HTTP_OPTIONS)
    if plan.protocol is Protocol.AUTO or http.use_client_protocol:
        options.use_downstream_protocol_config.http_protocol_options.SetInParent()
        options.use_downstream_protocol_config.http2_protocol_options.SetInParent()
    elif plan.protocol.is_http2 or upgrade:
        _http2(options.explicit_http_config.http2_protocol_options, http)
    else:
        options.explicit_http_config.http_protocol_options.SetInParent()
    common = options.common_http_protocol_options
    idle = tcp.idle_timeout if http.idle_timeout is None else http.idle_timeout
    if idle is not None:
        set_duration(common.idle_timeout, idle)
    if http.max_requests_per_connection:
        common.max_requests_per_connection.value = http.max_requests_per_connection
    if tcp.max_connection_duration:
        set_duration(common.max_connection_duration, tcp.max_connection_duration)
    if plan.security is ir.Security.ORIGINATE:
        _from_host(options.upstream_http_protocol_options, plan)
    outlier = plan.blocks.outlier_detection
    if outlier is not None and outlier.outlier_detection_http_error_codes:
        _errors(options.outlier_detection.error_matcher, outlier)
    return options


def _http2(target: Any, http: HTTPSettings) -> None:
    target.SetInParent()
    if http.max_concurrent_streams:
        target.max_concurrent_streams.value = http.max_concurrent_streams
    keepalive = http.http2_keep_alive
    if keepalive is not None and keepalive.interval:
        set_duration(target.connection_keepalive.interval, keepalive.interval)
        set_duration(target.connection_keepalive.timeout, keepalive.timeout or _PATIENCE)


def _from_host(target: Any, plan: ir.Cluster) -> None:
    """Where the policy names none, the server's name is the host of the request."""
    settings = plan.blocks.tls
    if settings is not None and not settings.sni:
        target.auto_sni = True
    if settings is not None and not settings.subject_alt_names:
        target.auto_san_validation = not settings.insecure_skip_verify


def _errors(target: Any, outlier: OutlierDetection) -> None:
    """What counts as a failure of its host: 5xx, and the codes that are named."""
    codes = sorted({str(code) for code in outlier.outlier_detection_http_error_codes})
    pattern = "|".join((_SERVER_ERRORS, *codes))
    header = target.http_response_headers_match.headers.add(name=":status")
    header.string_match.safe_regex.regex = pattern

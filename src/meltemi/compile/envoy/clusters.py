"""Clusters and their endpoints."""

from typing import Any

from meltemi.api.networking import ConnectionPool, LoadBalancer, OutlierDetection, TcpKeepalive
from meltemi.compile import ir
from meltemi.compile.envoy import tls
from meltemi.compile.envoy.filters import DNS_CACHE
from meltemi.compile.envoy.kit import Kit, set_address, set_duration, set_struct
from meltemi.compile.settings import MeshSettings
from meltemi.model.endpoint import Endpoint
from meltemi.model.service import Protocol

_NO_LIMIT = 2**32 - 1
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_STRICT_DNS, _LOGICAL_DNS, _EDS, _ORIGINAL = 1, 2, 3, 4
_V4_PREFERRED = 3
_DYNAMIC = "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig"
_ROUND_ROBIN, _LEAST_REQUEST, _RING_HASH, _RANDOM, _MAGLEV, _PROVIDED = 0, 1, 2, 3, 5, 6
_SIMPLE = {"ROUND_ROBIN": _ROUND_ROBIN, "RANDOM": _RANDOM}


def cluster(kit: Kit, plan: ir.Cluster, settings: MeshSettings) -> Any:
    """One outbound cluster."""
    message = kit.new("envoy.config.cluster.v3.Cluster", name=plan.name)
    _discovery(kit, message, plan, settings)
    pool = plan.blocks.connection_pool or ConnectionPool()
    timeout = pool.tcp.connect_timeout if pool.tcp else None
    set_duration(message.connect_timeout, timeout or settings.connect_timeout)
    _limits(message, pool)
    keepalive = (pool.tcp.tcp_keepalive if pool.tcp else None) or settings.keepalive
    if keepalive is not None:
        _keepalive(message.upstream_connection_options.tcp_keepalive, keepalive)
    if plan.blocks.outlier_detection is not None:
        _outlier(message, plan.blocks.outlier_detection)
    if plan.protocol.is_http or plan.protocol is Protocol.AUTO:
        options = _http_options(kit, plan, pool, upgrade=settings.h2_upgrade)
        kit.pack(message.typed_extension_protocol_options[_HTTP], options)
    _security(kit, message, plan)
    _metadata(message, plan)
    message.alt_stat_name = plan.stat_name
    return message


def _keepalive(target: Any, wanted: TcpKeepalive) -> None:
    target.SetInParent()
    if wanted.probes:
        target.keepalive_probes.value = wanted.probes
    if wanted.time:
        target.keepalive_time.value = int(wanted.time.total_seconds())
    if wanted.interval:
        target.keepalive_interval.value = int(wanted.interval.total_seconds())


def _discovery(kit: Kit, message: Any, plan: ir.Cluster, settings: MeshSettings) -> None:
    match plan.discovery:
        case ir.Discovery.ORIGINAL:
            message.type = _ORIGINAL
            message.lb_policy = _PROVIDED
            return
        case ir.Discovery.DYNAMIC:
            message.lb_policy = _PROVIDED
            config = kit.from_dict(_DYNAMIC, {"dns_cache_config": DNS_CACHE})
            config.allow_insecure_cluster_options = plan.security is not ir.Security.ORIGINATE
            kit.named(message.cluster_type, "envoy.clusters.dynamic_forward_proxy", config)
            return
        case ir.Discovery.ENDPOINTS:
            message.type = _EDS
            source = message.eds_cluster_config.eds_config
            source.ads.SetInParent()
            source.resource_api_version = 2
            source.initial_fetch_timeout.SetInParent()
            message.eds_cluster_config.service_name = plan.name
        case ir.Discovery.DNS | ir.Discovery.DNS_ONE:
            message.type = _STRICT_DNS if plan.discovery is ir.Discovery.DNS else _LOGICAL_DNS
            message.dns_lookup_family = _V4_PREFERRED
            message.respect_dns_ttl = True
            set_duration(message.dns_refresh_rate, settings.dns_refresh)
            wanted = ir.Assignment(plan.name, plan.endpoints)
            message.load_assignment.CopyFrom(assignment(kit, wanted, settings))
    _balancer(message, plan.blocks.load_balancer or LoadBalancer())


def _balancer(message: Any, settings: LoadBalancer) -> None:
    warmup = settings.warmup
    duration = (warmup.duration if warmup else None) or settings.warmup_duration_secs
    consistent = settings.consistent_hash
    if consistent is not None and consistent.maglev is not None:
        message.lb_policy = _MAGLEV
        if consistent.maglev.table_size:
            message.maglev_lb_config.table_size.value = consistent.maglev.table_size
    elif consistent is not None:
        message.lb_policy = _RING_HASH
        ring = consistent.ring_hash.minimum_ring_size if consistent.ring_hash else 0
        size = ring or consistent.minimum_ring_size or 1024
        message.ring_hash_lb_config.minimum_ring_size.value = size
    else:
        message.lb_policy = _SIMPLE.get(settings.simple or "", _LEAST_REQUEST)
    if duration and message.lb_policy in (_ROUND_ROBIN, _LEAST_REQUEST):
        config = (
            message.round_robin_lb_config
            if message.lb_policy == _ROUND_ROBIN
            else message.least_request_lb_config
        )
        set_duration(config.slow_start_config.slow_start_window, duration)
        least = warmup.minimum_percent if warmup and warmup.minimum_percent is not None else 10.0
        config.slow_start_config.min_weight_percent.value = least
        aggression = warmup.aggression if warmup and warmup.aggression else 1.0
        config.slow_start_config.aggression.default_value = aggression
        config.slow_start_config.aggression.runtime_key = "slow_start.aggression"


def _limits(message: Any, pool: ConnectionPool) -> None:
    """Istio has no limits unless they are configured; zero means unset (mesh-semantics 1.3)."""
    http, tcp = pool.http, pool.tcp
    limits = message.circuit_breakers.thresholds.add()
    limits.max_connections.value = (tcp.max_connections if tcp else 0) or _NO_LIMIT
    limits.max_pending_requests.value = (
        http.http1_max_pending_requests if http else 0
    ) or _NO_LIMIT
    limits.max_requests.value = (http.http2_max_requests if http else 0) or _NO_LIMIT
    limits.max_retries.value = (http.max_retries if http else 0) or _NO_LIMIT
    limits.track_remaining = True


def _outlier(message: Any, settings: OutlierDetection) -> None:
    target = message.outlier_detection
    target.enforcing_success_rate.value = 0
    gateway = settings.consecutive_gateway_errors
    if gateway is None and settings.consecutive_errors:
        gateway = settings.consecutive_errors
    if gateway is not None:
        target.consecutive_gateway_failure.value = gateway
        target.enforcing_consecutive_gateway_failure.value = 100 if gateway else 0
    errors = settings.consecutive_5xx_errors
    if errors is not None:
        target.consecutive_5xx.value = errors
        target.enforcing_consecutive_5xx.value = 100 if errors else 0
    if settings.interval:
        set_duration(target.interval, settings.interval)
    if settings.base_ejection_time:
        set_duration(target.base_ejection_time, settings.base_ejection_time)
    if settings.max_ejection_percent:
        target.max_ejection_percent.value = settings.max_ejection_percent
    if settings.split_external_local_origin_errors:
        target.split_external_local_origin_errors = True
        local = settings.consecutive_local_origin_failures
        if local:
            target.consecutive_local_origin_failure.value = local
            target.enforcing_consecutive_local_origin_failure.value = 100
        target.enforcing_local_origin_success_rate.value = 0
    # Panic mode would send traffic to ejected hosts; Istio turns it off with outlier detection.
    message.common_lb_config.healthy_panic_threshold.value = float(settings.min_health_percent)


def _http_options(kit: Kit, plan: ir.Cluster, pool: ConnectionPool, *, upgrade: bool) -> Any:
    """`upgrade`: the mesh asks for HTTP/2 where the policy says nothing."""
    options = kit.new(_HTTP)
    if plan.discovery is ir.Discovery.DYNAMIC and plan.security is ir.Security.ORIGINATE:
        options.upstream_http_protocol_options.auto_sni = True
        options.upstream_http_protocol_options.auto_san_validation = True
    http = pool.http
    policy = http.h2_upgrade_policy if http is not None else ""
    upgrade = policy == "UPGRADE" or (upgrade and policy != "DO_NOT_UPGRADE")
    if plan.protocol is Protocol.AUTO or (http is not None and http.use_client_protocol):
        options.use_downstream_protocol_config.http_protocol_options.SetInParent()
        options.use_downstream_protocol_config.http2_protocol_options.SetInParent()
    elif plan.protocol.is_http2 or upgrade:
        http2 = options.explicit_http_config.http2_protocol_options
        http2.SetInParent()
        if http is not None and http.max_concurrent_streams:
            http2.max_concurrent_streams.value = http.max_concurrent_streams
    else:
        options.explicit_http_config.http_protocol_options.SetInParent()
    if http is not None and http.idle_timeout:
        set_duration(options.common_http_protocol_options.idle_timeout, http.idle_timeout)
    if http is not None and http.max_requests_per_connection:
        per_connection = options.common_http_protocol_options.max_requests_per_connection
        per_connection.value = http.max_requests_per_connection
    if pool.tcp is not None and pool.tcp.max_connection_duration:
        set_duration(
            options.common_http_protocol_options.max_connection_duration,
            pool.tcp.max_connection_duration,
        )
    return options


def _security(kit: Kit, message: Any, plan: ir.Cluster) -> None:
    match plan.security:
        case ir.Security.AUTO:
            mutual = message.transport_socket_matches.add(name="tlsMode-istio")
            mutual.match.fields["tlsMode"].string_value = "istio"
            tls.mesh_client(kit, mutual.transport_socket, plan.tls)
            other = message.transport_socket_matches.add(name="tlsMode-disabled")
            other.match.SetInParent()
            tls.plain(kit, other.transport_socket)
        case ir.Security.MUTUAL:
            tls.mesh_client(kit, message.transport_socket, plan.tls)
        case ir.Security.ORIGINATE:
            settings = plan.blocks.tls
            tls.originating_client(kit, message.transport_socket, settings, plan.host)
        case ir.Security.PLAIN:
            pass


def _metadata(message: Any, plan: ir.Cluster) -> None:
    """What the metrics of a request say about its destination service."""
    service = {"host": plan.host, "name": plan.service, "namespace": plan.namespace}
    fields = message.metadata.filter_metadata
    set_struct(fields["istio"], {"default_original_port": plan.port, "services": [service]})
    set_struct(fields["mesh"], service)


def assignment(kit: Kit, plan: ir.Assignment, settings: MeshSettings) -> Any:
    """The endpoints of a cluster, one locality group for each locality."""
    message = kit.new("envoy.config.endpoint.v3.ClusterLoadAssignment", cluster_name=plan.cluster)
    groups: dict[str, list[Endpoint]] = {}
    for endpoint in plan.endpoints:
        groups.setdefault(endpoint.locality, []).append(endpoint)
    for locality in sorted(groups):
        group = message.endpoints.add()
        group.load_balancing_weight.value = sum(e.weight for e in groups[locality])
        region, zone, subzone = (*locality.split("/"), "", "", "")[:3]
        if locality:
            group.locality.region = region
            group.locality.zone = zone
            group.locality.sub_zone = subzone
        for endpoint in groups[locality]:
            _endpoint(group.lb_endpoints.add(), endpoint, settings)
    return message


def _endpoint(target: Any, endpoint: Endpoint, settings: MeshSettings) -> None:
    set_address(target.endpoint.address, endpoint.address, endpoint.port)
    target.load_balancing_weight.value = endpoint.weight
    fields = target.metadata.filter_metadata
    if endpoint.mtls:
        fields["envoy.transport_socket_match"].fields["tlsMode"].string_value = "istio"
    if endpoint.workload:
        mesh = fields["mesh"].fields
        mesh["workload"].string_value = endpoint.workload
        mesh["namespace"].string_value = endpoint.namespace
        mesh["app"].string_value = endpoint.app
        mesh["version"].string_value = endpoint.version
        mesh["service"].string_value = endpoint.canonical_service
        mesh["revision"].string_value = endpoint.canonical_revision
        mesh["cluster"].string_value = settings.cluster
        mesh["principal"].string_value = (
            endpoint.identity.uri if endpoint.identity and endpoint.mtls else ""
        )

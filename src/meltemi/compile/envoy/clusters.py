"""Clusters."""

from typing import Any

from meltemi.api.networking import LoadBalancer
from meltemi.compile import ir
from meltemi.compile.envoy import tls
from meltemi.compile.envoy.balancing import balancer, outlier_detection
from meltemi.compile.envoy.endpoints import assignment
from meltemi.compile.envoy.filters import DNS_CACHE
from meltemi.compile.envoy.kit import Kit, set_duration, set_struct
from meltemi.compile.envoy.pool import pool
from meltemi.compile.settings import MeshSettings

_STRICT_DNS, _LOGICAL_DNS, _EDS, _ORIGINAL = 1, 2, 3, 4
_V4_PREFERRED = 3
_DYNAMIC = "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig"
_PROVIDED = 6
_VERSIONS = {"V1": 0, "V2": 1}
_PROXY_PROTOCOL = "envoy.transport_sockets.upstream_proxy_protocol"
_PROXY_TRANSPORT = (
    "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport"
)


def cluster(kit: Kit, plan: ir.Cluster, settings: MeshSettings) -> Any:
    """One outbound cluster."""
    message = kit.new("envoy.config.cluster.v3.Cluster", name=plan.name)
    _discovery(kit, message, plan, settings)
    pool(kit, message, plan, settings)
    if plan.blocks.outlier_detection is not None:
        outlier_detection(message, plan.blocks.outlier_detection)
    _security(kit, message, plan, settings)
    if plan.blocks.proxy_protocol is not None:
        _proxy_protocol(kit, message, plan.blocks.proxy_protocol.version)
    _metadata(message, plan)
    message.alt_stat_name = plan.stat_name
    return message


def _discovery(kit: Kit, message: Any, plan: ir.Cluster, settings: MeshSettings) -> None:
    match plan.discovery:
        case ir.Discovery.ORIGINAL:
            message.type = _ORIGINAL
            message.lb_policy = _PROVIDED
            return
        case ir.Discovery.DYNAMIC:
            message.lb_policy = _PROVIDED
            config = kit.from_dict(_DYNAMIC, {"dns_cache_config": DNS_CACHE})
            config.allow_insecure_cluster_options = not _expects_the_host(plan)
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
            found = ir.Assignment(plan.name, plan.groups)
            message.load_assignment.CopyFrom(assignment(kit, found, settings))
    wanted = plan.blocks.load_balancer or LoadBalancer()
    balancer(message, wanted, weighs_localities=plan.weighs_localities)
    if plan.zones is not None and not plan.weighs_localities:
        # A proxy that knows its peers would prefer its zone for every cluster.
        zones = message.common_lb_config.zone_aware_lb_config
        zones.routing_enabled.value = 100 if plan.zones else 0
        if plan.zones:
            zones.min_cluster_size.value = plan.zones


def _expects_the_host(plan: ir.Cluster) -> bool:
    """Whether a server must prove the very name that was resolved: Envoy wants to be told where
    a resolved host may be anybody's."""
    settings = plan.blocks.tls
    if plan.security is not ir.Security.ORIGINATE or settings is None:
        return False
    named = settings.sni or settings.subject_alt_names
    return not (named or settings.insecure_skip_verify)


def _security(kit: Kit, message: Any, plan: ir.Cluster, settings: MeshSettings) -> None:
    match plan.security:
        case ir.Security.AUTO:
            mutual = message.transport_socket_matches.add(name="tlsMode-istio")
            mutual.match.fields["tlsMode"].string_value = "istio"
            tls.mesh_client(kit, mutual.transport_socket, plan.tls, settings.mesh_tls)
            other = message.transport_socket_matches.add(name="tlsMode-disabled")
            other.match.SetInParent()
            tls.plain(kit, other.transport_socket)
        case ir.Security.MUTUAL:
            tls.mesh_client(kit, message.transport_socket, plan.tls, settings.mesh_tls)
        case ir.Security.ORIGINATE:
            if plan.blocks.tls is not None:
                socket, floor = message.transport_socket, settings.tls_defaults
                tls.originating_client(kit, socket, plan.blocks.tls, plan.credential, floor)
        case ir.Security.PLAIN:
            pass


def _proxy_protocol(kit: Kit, message: Any, version: str) -> None:
    """Around whatever secures the connection: the header goes first, in plaintext."""
    sockets = [match.transport_socket for match in message.transport_socket_matches]
    if not sockets:
        sockets = [message.transport_socket]
        if not message.HasField("transport_socket"):
            tls.plain(kit, message.transport_socket)
    for socket in sockets:
        wrapper = kit.new(_PROXY_TRANSPORT)
        wrapper.config.version = _VERSIONS[version]
        wrapper.transport_socket.CopyFrom(socket)
        kit.named(socket, _PROXY_PROTOCOL, wrapper)


def _metadata(message: Any, plan: ir.Cluster) -> None:
    """What the metrics of a request say about its destination service."""
    service = {"host": plan.host, "name": plan.service, "namespace": plan.namespace}
    fields = message.metadata.filter_metadata
    set_struct(fields["istio"], {"default_original_port": plan.port, "services": [service]})
    set_struct(fields["mesh"], service)

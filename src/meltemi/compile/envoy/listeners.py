"""Listeners: filter chains, their matches, their TLS, and the filters that every side has."""

from collections.abc import Sequence
from typing import Any

from meltemi.compile import ir
from meltemi.compile.envoy import filters, metrics, tls
from meltemi.compile.envoy.filters import Json
from meltemi.compile.envoy.kit import Kit, set_address, set_duration
from meltemi.compile.envoy.routes import inline_configuration
from meltemi.compile.settings import MeshSettings
from meltemi.model.service import Protocol

_CHAIN = "envoy.config.listener.v3.FilterChain"
_FILTER = "envoy.config.listener.v3.Filter"
_HTTP = "http_connection_manager"
_TCP = "tcp_proxy"
_PROXIES = {
    _HTTP: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    _TCP: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
}
_EDGE_BUFFER = 32768
_EDGE_TLS_WAIT = 15.0
"""Seconds a stranger may take for its TLS handshake."""


def listener(kit: Kit, plan: ir.Listener, settings: MeshSettings) -> Any:
    """One listener as a message."""
    message = kit.new("envoy.config.listener.v3.Listener", name=plan.name)
    set_address(message.address, plan.address, plan.port)
    for address in plan.also:
        set_address(message.additional_addresses.add().address, address, plan.port)
    message.traffic_direction = 1 if plan.side is ir.Side.SERVER else 2
    if not plan.bind:
        message.bind_to_port.value = False
    if plan.hands_over:
        message.use_original_dst.value = True
    if not plan.reuse_port:
        message.enable_reuse_port.value = False
    if plan.side is ir.Side.EDGE:
        message.per_connection_buffer_limit_bytes.value = _EDGE_BUFFER
    _listener_filters(kit, message, plan, settings)
    writer = _Chains(kit, plan.side, settings)
    for chain in plan.chains:
        writer.write(message.filter_chains.add(), chain)
    if plan.default is not None:
        writer.write(message.default_filter_chain, plan.default)
    return message


def _listener_filters(kit: Kit, message: Any, plan: ir.Listener, settings: MeshSettings) -> None:
    wanted: list[Json] = []
    if plan.proxy_protocol:
        wanted.append(filters.inspector("proxy_protocol"))
    if plan.original_destination:
        wanted.append(filters.inspector("original_dst"))
    if plan.inspects_tls:
        wanted.append(filters.inspector("tls_inspector", skip_ports=plan.quiet_tls))
    if plan.inspects_http:
        wanted.append(filters.inspector("http_inspector", skip_ports=plan.quiet_http))
    for entry in wanted:
        message.listener_filters.add().CopyFrom(
            kit.from_dict("envoy.config.listener.v3.ListenerFilter", entry)
        )
    if plan.inspects_tls or plan.inspects_http:
        set_duration(message.listener_filters_timeout, settings.detection_timeout)
        message.continue_on_listener_filters_timeout = True


class _Chains:
    """Writes the filter chains of one side."""

    def __init__(self, kit: Kit, side: ir.Side, settings: MeshSettings) -> None:
        self._kit = kit
        self._side = side
        self._settings = settings

    def write(self, target: Any, chain: ir.FilterChain) -> None:
        """A chain that was written before, for whatever proxy, is read from its bytes."""
        settings = self._settings
        asked = (settings.paths, settings.cluster, settings.access_log, settings.mesh_tls)
        trusted = (settings.trust_domain, settings.trust_domain_aliases)
        key = ("chain", self._side, chain, *asked, *trusted)
        target.MergeFromString(self._kit.remembered(key, lambda: self._written(chain)))

    def _written(self, chain: ir.FilterChain) -> Any:
        target = self._kit.new(_CHAIN, name=chain.name)
        match = _match(chain.match)
        if match:
            target.MergeFrom(self._kit.from_dict(_CHAIN, {"filter_chain_match": match}))
        self._filters(target, chain)
        if chain.tls is not None:
            tls.server(self._kit, target.transport_socket, chain.tls, self._settings)
            if self._side is ir.Side.EDGE:
                set_duration(target.transport_socket_connect_timeout, _EDGE_TLS_WAIT)
        return target

    def _filters(self, target: Any, chain: ir.FilterChain) -> None:
        if self._side is ir.Side.SERVER and chain.network != ir.REFUSE:
            self._add(target, metrics.peer_filter(mutual=chain.mutual))
        match chain.network:
            case ir.Http():
                self._http(target, chain, chain.network)
            case ir.Tcp():
                self._tcp(target, chain, chain.network)

    def _add(self, target: Any, entry: Json) -> None:
        target.filters.add().CopyFrom(self._kit.from_dict(_FILTER, entry))

    def _http(self, target: Any, chain: ir.FilterChain, plan: ir.Http) -> None:
        grpc = self._side is ir.Side.SERVER and plan.protocol is Protocol.GRPC
        loggers = metrics.http_loggers(self._tags(chain, plan.destination), grpc=grpc)
        config = filters.connection_manager(plan, side=self._side, paths=self._settings.paths)
        message = self._kit.from_dict(_PROXIES[_HTTP], config)
        self._log(message, [*loggers, *filters.access_log(self._settings)])
        if not isinstance(plan.routes, str):
            message.route_config.CopyFrom(inline_configuration(self._kit, plan.routes))
        self._kit.named(target.filters.add(), f"envoy.filters.network.{_HTTP}", message)

    def _tcp(self, target: Any, chain: ir.FilterChain, plan: ir.Tcp) -> None:
        for entry in filters.before_tcp(plan):
            self._add(target, entry)
        config = filters.tcp_proxy(plan, mutual=chain.mutual)
        message = self._kit.from_dict(_PROXIES[_TCP], config)
        if plan != ir.REFUSE or self._side is not ir.Side.SERVER:
            loggers = metrics.tcp_loggers(self._tags(chain, plan.destination))
            self._log(message, [*loggers, *filters.access_log(self._settings)])
        self._kit.named(target.filters.add(), f"envoy.filters.network.{_TCP}", message)

    def _log(self, message: Any, loggers: Sequence[Json]) -> None:
        for entry in loggers:
            metrics.set_logger(self._kit, message.access_log.add(), entry)

    def _tags(self, chain: ir.FilterChain, destination: ir.Destination | None) -> metrics.Tags:
        cluster = self._settings.cluster
        if self._side is not ir.Side.SERVER:
            return metrics.source_tags(cluster)
        there = destination or ir.Destination("", "", "")
        return metrics.destination_tags(
            cluster,
            host=there.host,
            service=there.service,
            namespace=there.namespace,
            mutual=chain.mutual,
        )


def _match(match: ir.ChainMatch) -> Json:
    found: Json = {}
    if match.port:
        found["destination_port"] = match.port
    if match.addresses:
        found["prefix_ranges"] = [_range(cidr) for cidr in match.addresses]
    if match.sni:
        found["server_names"] = list(match.sni)
    if match.transport is not ir.Transport.ANY:
        found["transport_protocol"] = match.transport.value
    if match.protocols:
        found["application_protocols"] = list(match.protocols)
    return found


def _range(cidr: str) -> Json:
    address, slash, length = cidr.partition("/")
    whole = 128 if ":" in address else 32
    return {"address_prefix": address, "prefix_len": int(length) if slash else whole}

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
_EDGE_BUFFER = 32768
_EDGE_TLS_WAIT = 15.0
"""Seconds a stranger may take for its TLS handshake."""


def listener(kit: Kit, plan: ir.Listener, settings: MeshSettings) -> Any:
    """One listener as a message."""
    message = kit.new("envoy.config.listener.v3.Listener", name=plan.name)
    set_address(message.address, plan.address, plan.port)
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
        body: Json = {"name": chain.name, "filters": self._filters(chain)}
        match = _match(chain.match)
        if match:
            body["filter_chain_match"] = match
        target.CopyFrom(self._kit.from_dict(_CHAIN, body))
        if chain.tls is not None:
            tls.server(self._kit, target.transport_socket, chain.tls, self._settings)
            if self._side is ir.Side.EDGE:
                set_duration(target.transport_socket_connect_timeout, _EDGE_TLS_WAIT)

    def _filters(self, chain: ir.FilterChain) -> list[Json]:
        found: list[Json] = []
        if self._side is ir.Side.SERVER and chain.network != ir.REFUSE:
            found.append(metrics.peer_filter(mutual=chain.mutual))
        match chain.network:
            case ir.Http():
                found.append(self._http(chain, chain.network))
            case ir.Tcp():
                found += self._tcp(chain, chain.network)
        return found

    def _http(self, chain: ir.FilterChain, plan: ir.Http) -> Json:
        grpc = self._side is ir.Side.SERVER and plan.protocol is Protocol.GRPC
        loggers = metrics.http_loggers(self._tags(chain, plan.destination), grpc=grpc)
        routes = plan.routes
        return filters.connection_manager(
            plan,
            side=self._side,
            paths=self._settings.paths,
            loggers=[*loggers, *filters.access_log(self._settings)],
            routes=routes if isinstance(routes, str) else inline_configuration(self._kit, routes),
        )

    def _tcp(self, chain: ir.FilterChain, plan: ir.Tcp) -> Sequence[Json]:
        loggers: list[Json] = []
        if plan != ir.REFUSE or self._side is not ir.Side.SERVER:
            loggers += metrics.tcp_loggers(self._tags(chain, plan.destination))
            loggers += filters.access_log(self._settings)
        return filters.tcp(plan, loggers=loggers, mutual=chain.mutual)

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

"""The inbound side of a sidecar: one listener, a filter chain for each port and security."""

from typing import Any

from meltemi.compile import ir, names
from meltemi.compile.envoy import metrics, tls
from meltemi.compile.envoy.filters import (
    Json,
    access_log,
    connection_manager,
    inspector,
    tcp_proxy,
)
from meltemi.compile.envoy.kit import Kit
from meltemi.compile.envoy.outbound import address
from meltemi.compile.settings import MeshSettings
from meltemi.model.service import Protocol

_LOOPBACK_SOURCE = "127.0.0.6"
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_SOL_SOCKET, _SO_MARK = 1, 36


def clusters(kit: Kit, inbound: ir.Inbound, mark: int | None) -> list[Any]:
    """To the application itself, from an address that capture rules let through."""
    source: Json = {"source_address": {"address": _LOOPBACK_SOURCE, "port_value": 0}}
    if mark is not None:
        source["socket_options"] = [
            {"level": _SOL_SOCKET, "name": _SO_MARK, "int_value": mark, "state": "STATE_PREBIND"}
        ]
    built = [_cluster(kit, inbound, port, source) for port in inbound.ports]
    through = {
        "name": names.INBOUND_PASSTHROUGH,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "10s",
        "upstream_bind_config": source,
        "typed_extension_protocol_options": {_HTTP: _downstream_protocol()},
    }
    return [*built, kit.from_dict("envoy.config.cluster.v3.Cluster", through)]


def _downstream_protocol() -> Json:
    return {
        "@type": f"type.googleapis.com/{_HTTP}",
        "use_downstream_protocol_config": {
            "http_protocol_options": {},
            "http2_protocol_options": {},
        },
    }


def _cluster(kit: Kit, inbound: ir.Inbound, port: ir.InboundPort, source: Json) -> Any:
    name = names.inbound(port.port)
    service = {"host": port.host, "name": port.service, "namespace": inbound.namespace}
    where = {"endpoint": {"address": address(inbound.address, port.port)}}
    limits = {"max_connections": 2**32 - 1, "max_pending_requests": 2**32 - 1}
    limits |= {"max_requests": 2**32 - 1, "max_retries": 2**32 - 1}
    body: Json = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "circuit_breakers": {"thresholds": [limits]},
        "upstream_bind_config": source,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [where]}]},
        "metadata": {"filter_metadata": {"mesh": service}},
    }
    if port.protocol.is_http or port.protocol is Protocol.AUTO:
        body["typed_extension_protocol_options"] = {_HTTP: _downstream_protocol()}
    return kit.from_dict("envoy.config.cluster.v3.Cluster", body)


def listener(kit: Kit, inbound: ir.Inbound, settings: MeshSettings) -> Any:
    """`virtualInbound`: chains by port, by mutual TLS or plaintext, by what is spoken."""
    builder = _Chains(kit, inbound, settings)
    chains = [builder.refuse_loops()]
    for port in inbound.ports:
        chains += builder.of_port(port)
    chains += builder.of_other_ports()
    opaque = [p.port for p in inbound.ports if not p.protocol.is_http]
    quiet = [p.port for p in inbound.ports if not p.protocol.is_http and not p.mutual]
    quiet_http = [number for number in opaque if _is_opaque(inbound, number)]
    message = kit.from_dict(
        "envoy.config.listener.v3.Listener",
        {
            "name": names.VIRTUAL_INBOUND,
            "address": address("0.0.0.0", names.INBOUND_PORT),
            "traffic_direction": "INBOUND",
            "listener_filters": [
                inspector("original_dst"),
                inspector("tls_inspector", skip_ports=quiet),
                inspector("http_inspector", skip_ports=quiet_http),
            ],
            "listener_filters_timeout": f"{settings.detection_timeout:g}s",
            "continue_on_listener_filters_timeout": True,
        },
    )
    for chain, mutual in chains:
        target = message.filter_chains.add()
        target.CopyFrom(kit.from_dict("envoy.config.listener.v3.FilterChain", chain))
        if mutual:
            tls.mesh_server(kit, target.transport_socket, settings.trust_domain)
    return message


def _is_opaque(inbound: ir.Inbound, number: int) -> bool:
    """Whether a port's bytes are never looked at: TCP and opaque TLS, but not sniffed ports."""
    return any(
        p.port == number and not p.protocol.is_http and p.protocol is not Protocol.AUTO
        for p in inbound.ports
    )


Chain = tuple[Json, bool]
"""A filter chain, and whether it ends the mesh's mutual TLS."""


class _Chains:
    """Builds the chains of one inbound listener."""

    def __init__(self, kit: Kit, inbound: ir.Inbound, settings: MeshSettings) -> None:
        self._kit = kit
        self._inbound = inbound
        self._settings = settings

    def refuse_loops(self) -> Chain:
        """Connections to the proxy's own port would come back to it for ever."""
        match = {"destination_port": names.INBOUND_PORT}
        nowhere = tcp_proxy("BlackHoleCluster", loggers=())
        return {
            "name": "virtualInbound-blackhole",
            "filter_chain_match": match,
            "filters": [nowhere],
        }, False

    def of_port(self, port: ir.InboundPort) -> list[Chain]:
        chains: list[Chain] = []
        if port.mutual:
            chains += self._mutual(port, {"destination_port": port.port})
        if port.plain:
            chains += self._plain(port, {"destination_port": port.port})
        return chains

    def of_other_ports(self) -> list[Chain]:
        """Ports no service declares, by the workload's own mode."""
        other = ir.InboundPort(
            0, Protocol.TCP, self._inbound.other_mutual, self._inbound.other_plain, "", ""
        )
        chains: list[Chain] = []
        if other.mutual:
            chains += self._mutual(other, {})
        if other.plain:
            chains += self._plain(other, {})
        return chains

    def _mutual(self, port: ir.InboundPort, where: Json) -> list[Chain]:
        match = where | {
            "transport_protocol": "tls",
            "server_names": [f"*{names.MESH_SNI}"],
        }
        name = self._name(port, "mtls")
        http = self._filters(port, mutual=True, http=True)
        tcp = self._filters(port, mutual=True, http=False)
        return [self._chain(name, match, http if _speaks_http(port) else tcp, mutual=True)]

    def _plain(self, port: ir.InboundPort, where: Json) -> list[Chain]:
        http = self._filters(port, mutual=False, http=True)
        tcp = self._filters(port, mutual=False, http=False)
        raw = where | {"transport_protocol": "raw_buffer"}
        if port.protocol.is_http:
            return [self._chain(self._name(port, "plain"), raw, http, mutual=False)]
        chains = [self._chain(self._name(port, "plain"), where, tcp, mutual=False)]
        if port.protocol is Protocol.AUTO:
            sniffed = raw | {"application_protocols": ["http/1.0", "http/1.1", "h2c"]}
            chains.append(self._chain(self._name(port, "plain-http"), sniffed, http, mutual=False))
        return chains

    def _name(self, port: ir.InboundPort, what: str) -> str:
        where = port.port or "passthrough"
        return f"virtualInbound-{where}-{what}"

    def _chain(self, name: str, match: Json, filters: list[Json], *, mutual: bool) -> Chain:
        return {"name": name, "filter_chain_match": match, "filters": filters}, mutual

    def _filters(self, port: ir.InboundPort, *, mutual: bool, http: bool) -> list[Json]:
        cluster = names.inbound(port.port) if port.port else names.INBOUND_PASSTHROUGH
        tags = metrics.destination_tags(
            self._settings.cluster,
            host=port.host,
            service=port.service,
            namespace=self._inbound.namespace if port.host else "",
            mutual=mutual,
        )
        peer = metrics.peer_filter(mutual=mutual)
        logs = access_log(self._settings)
        if not http:
            loggers = [*metrics.tcp_loggers(tags), *logs]
            return [peer, tcp_proxy(cluster, loggers=loggers, mutual=mutual)]
        grpc = port.protocol is Protocol.GRPC
        manager = connection_manager(
            f"inbound_0.0.0.0_{port.port}",
            loggers=[*metrics.http_loggers(tags, grpc=grpc), *logs],
            outbound=False,
            routes=_routes(cluster, port),
        )
        return [peer, manager]


def _speaks_http(port: ir.InboundPort) -> bool:
    """Sniffed ports are taken as TCP inside mutual TLS, where no inspector can look."""
    return port.protocol.is_http


def _routes(cluster: str, port: ir.InboundPort) -> Json:
    """Everything to the application; a `host:port` label would name the operation in traces."""
    route = {
        "name": "default",
        "match": {"prefix": "/"},
        "route": {
            "cluster": cluster,
            "timeout": "0s",
            "max_stream_duration": {"max_stream_duration": "0s", "grpc_timeout_header_max": "0s"},
        },
        "decorator": {"operation": f"{port.host or 'unknown'}:{port.port}/*"},
    }
    host = {"name": f"inbound|http|{port.port}", "domains": ["*"], "routes": [route]}
    return {"name": cluster, "validate_clusters": False, "virtual_hosts": [host]}

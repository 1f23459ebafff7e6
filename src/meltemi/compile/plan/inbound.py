"""The inbound side of one proxy: what it serves on which port, and in which security."""

from collections.abc import Iterable, Iterator

import msgspec

from meltemi.compile import ir, names
from meltemi.compile.settings import MeshSettings
from meltemi.model.route import Prefix, Retry
from meltemi.model.service import Protocol, Service
from meltemi.model.tls import InboundTls, Mode
from meltemi.model.workload import Workload

_LOOPBACK = "127.0.0.1"
PROXY_PORTS = frozenset({15000, 15001, 15006, 15020, 15021, 15053, 15090})


class Served(msgspec.Struct, frozen=True):
    """One port of a workload, as clients may reach it."""

    port: int
    """0: every port that no service declares."""
    protocol: Protocol
    mode: Mode
    destination: ir.Destination | None
    stat_name: str = ""

    @property
    def sniffed(self) -> bool:
        return self.protocol is Protocol.AUTO

    @property
    def may_speak_http(self) -> bool:
        return self.protocol.is_http or self.sniffed

    @property
    def cluster(self) -> str:
        return names.inbound(self.port) if self.port else names.INBOUND_PASSTHROUGH


def inbound(
    workload: Workload, services: Iterable[Service], tls: InboundTls, settings: MeshSettings
) -> ir.Inbound:
    """The listener, with chains for every port that a service selecting the workload declares,
    and the clusters behind it."""
    served = _served(workload, services, tls, settings.inbound_stat_name)
    other = Served(0, Protocol.TCP, tls.mode, None)
    chains = [_refuse_loops()]
    for port in (*served, other):
        chains += _chains(port)
    opaque = tuple(p.port for p in served if not p.may_speak_http)
    plain = tuple(p.port for p in served if not p.protocol.is_http and p.mode is Mode.DISABLE)
    listener = ir.Listener(
        name=names.VIRTUAL_INBOUND,
        side=ir.Side.SERVER,
        address="0.0.0.0",
        port=names.INBOUND_PORT,
        chains=tuple(chains),
        original_destination=True,
        inspects_tls=True,
        inspects_http=True,
        quiet_tls=plain,
        quiet_http=opaque,
    )
    address = _LOOPBACK if settings.local_inbound else workload.address
    clusters = [
        ir.InboundCluster(p.cluster, address, p.port, p.may_speak_http, p.destination, p.stat_name)
        for p in served
    ]
    through = ir.InboundCluster(names.INBOUND_PASSTHROUGH, "", 0, True, None)
    return ir.Inbound((listener,), (*clusters, through))


def _served(
    workload: Workload, services: Iterable[Service], tls: InboundTls, pattern: str
) -> tuple[Served, ...]:
    """Every declared port; the oldest service decides what a port speaks."""
    ports: dict[int, Served] = {}
    for service in sorted(services, key=lambda s: s.created):
        if not selects(service, workload):
            continue
        there = ir.Destination(service.host, service.name, service.namespace)
        for port in service.ports:
            number = workload.port_behind(port)
            if number and number not in ports and number not in PROXY_PORTS:
                name = names.stat_name(
                    pattern,
                    host=service.host,
                    port=port.number,
                    port_name=port.name,
                    target=str(number),
                )
                mode = tls.for_port(number)
                ports[number] = Served(number, port.protocol, mode, there, name)
    for number, mode in tls.ports.items():
        if number not in ports and number not in PROXY_PORTS:
            ports[number] = Served(number, Protocol.TCP, mode, None)
    return tuple(ports[number] for number in sorted(ports))


def _refuse_loops() -> ir.FilterChain:
    """Connections to the proxy's own port would come back to it for ever."""
    match = ir.ChainMatch(port=names.INBOUND_PORT)
    return ir.FilterChain("virtualInbound-blackhole", match, ir.REFUSE)


def _chains(port: Served) -> Iterator[ir.FilterChain]:
    """Mutual TLS is told by the mark in its SNI; inside it, TCP of a sniffed port by its ALPN."""
    mesh = ir.ChainMatch(port=port.port, sni=(f"*{names.MESH_SNI}",), transport=ir.Transport.TLS)
    marked = msgspec.structs.replace(mesh, protocols=(names.MESH_TCP,))
    raw = ir.ChainMatch(port=port.port, transport=ir.Transport.RAW)
    sniffed = msgspec.structs.replace(raw, protocols=ir.SNIFFED_HTTP)
    anything = ir.ChainMatch(port=port.port)
    http, tcp = _http(port), _tcp(port)
    if port.mode is not Mode.DISABLE:
        yield _chain(port, mesh, http if port.may_speak_http else tcp, ir.MESH_TLS)
        if port.sniffed:
            yield _chain(port, marked, tcp, ir.MESH_TLS)
    if port.mode is not Mode.STRICT:
        if port.protocol.is_http:
            yield _chain(port, raw, http)
        else:
            yield _chain(port, anything, tcp)
        if port.sniffed:
            yield _chain(port, sniffed, http)


def _chain(
    port: Served, match: ir.ChainMatch, network: ir.Http | ir.Tcp, tls: ir.ServerTls | None = None
) -> ir.FilterChain:
    name = names.wildcard_listener(port.port) if port.port else names.VIRTUAL_INBOUND
    return ir.FilterChain(name, match, network, tls)


def _tcp(port: Served) -> ir.Tcp:
    return ir.Tcp(
        port.cluster,
        ir.L4Forward((ir.WeightedCluster(port.cluster, 100),)),
        destination=port.destination,
    )


def _http(port: Served) -> ir.Http:
    """Everything to the application; the operation names the service in traces."""
    forward = ir.Forward((ir.WeightedCluster(port.cluster, 100),), None, None, Retry(attempts=0))
    host = port.destination.host if port.destination else "unknown"
    route = ir.Route("default", ir.Match(Prefix("/")), forward, operation=f"{host}:{port.port}/*")
    virtual = ir.VirtualHost(f"inbound|http|{port.port}", ("*",), (route,))
    return ir.Http(
        prefix=f"inbound_0.0.0.0_{port.port}",
        routes=ir.RouteConfiguration(port.cluster, (virtual,)),
        destination=port.destination,
        protocol=port.protocol,
    )


def selects(service: Service, workload: Workload) -> bool:
    """Whether a service's selector chooses a workload of its namespace."""
    return (
        service.namespace == workload.key.namespace
        and bool(service.selector)
        and service.selector.items() <= workload.labels.items()
    )

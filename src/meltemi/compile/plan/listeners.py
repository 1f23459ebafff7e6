"""The outbound listeners of sidecars (mesh-semantics 1.9)."""

from meltemi.compile import ir, names
from meltemi.compile.settings import MeshSettings
from meltemi.model.service import Port, Protocol, Service

RAW_HTTP = ir.ChainMatch(transport=ir.Transport.RAW, protocols=ir.SNIFFED_HTTP)


def to_cluster(name: str, *, prefix: str = "") -> ir.Tcp:
    """Bytes to one cluster."""
    return ir.Tcp(prefix or name, ir.L4Forward((ir.WeightedCluster(name, 100),)))


def unknown(settings: MeshSettings) -> ir.Tcp:
    """What becomes of connections to nothing the mesh knows."""
    return to_cluster(names.PASSTHROUGH) if settings.allow_any else ir.REFUSE


def virtual_outbound(settings: MeshSettings) -> ir.Listener:
    """Takes all captured connections and hands each to the listener of its destination."""
    loop = ir.ChainMatch(port=names.OUTBOUND_PORT)
    return ir.Listener(
        name=names.VIRTUAL_OUTBOUND,
        side=ir.Side.CLIENT,
        address="0.0.0.0",
        port=names.OUTBOUND_PORT,
        chains=(ir.FilterChain("virtualOutbound-blackhole", loop, ir.REFUSE),),
        default=ir.FilterChain("virtualOutbound-catchall-tcp", ir.ChainMatch(), unknown(settings)),
        hands_over=True,
    )


def http_listener(port: int, settings: MeshSettings) -> ir.Listener:
    """All HTTP services of a port, told apart by their routes; other bytes pass through."""
    name = names.wildcard_listener(port)
    return ir.Listener(
        name=name,
        side=ir.Side.CLIENT,
        address="0.0.0.0",
        port=port,
        chains=(ir.FilterChain(name, RAW_HTTP, ir.Http(f"outbound_{name}", str(port))),),
        default=ir.FilterChain("PassthroughFilterChain", ir.ChainMatch(), unknown(settings)),
        bind=False,
        inspects_tls=True,
        inspects_http=True,
    )


def tcp_listener(service: Service, port: Port, address: str) -> ir.Listener:
    """One port of one service, at its own address: TCP, opaque TLS, or sniffed."""
    name = names.address_listener(address, port.number)
    sniffed = port.protocol is Protocol.AUTO
    proxy = ir.Tcp(
        prefix=names.outbound(port.number, "", service.host),
        forward=ir.L4Forward(
            (ir.WeightedCluster(names.outbound(port.number, "", service.host), 100),)
        ),
        marks=sniffed,
        mongo=port.protocol is Protocol.MONGO,
    )
    routes = names.virtual_host(service.host, port.number)
    http = ir.FilterChain(name, RAW_HTTP, ir.Http(f"outbound_{name}", routes))
    return ir.Listener(
        name=name,
        side=ir.Side.CLIENT,
        address=address,
        port=port.number,
        chains=(http,) if sniffed else (),
        default=ir.FilterChain(name, ir.ChainMatch(), proxy, source=service.source),
        bind=False,
        inspects_tls=sniffed,
        inspects_http=sniffed,
        sources=(service.source,),
    )

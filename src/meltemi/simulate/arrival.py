"""The other end: what the destination's own proxy does with a connection."""

import msgspec

from meltemi.compile import ir, names
from meltemi.model.tls import InboundTls, Mode
from meltemi.simulate import connections, paths
from meltemi.simulate.request import Connection, Request, Speaks
from meltemi.simulate.trace import Arrival, Because, Place, Policy
from meltemi.simulate.world import World

_MODES = {
    Mode.STRICT: "STRICT: mutual TLS only",
    Mode.PERMISSIVE: "PERMISSIVE: mutual TLS and plaintext",
    Mode.DISABLE: "DISABLE: plaintext only",
}


def arrive(
    world: World,
    place: Place,
    speaks: Speaks,
    request: Request | None = None,
    alpn: tuple[str, ...] = (),
) -> Place:
    """A place with what its proxy does, when it has one. `speaks`: inside mutual TLS, if any."""
    workload = world.at(place.address)
    plan = world.plan(workload) if workload is not None else None
    if workload is None or plan is None or plan.inbound is None:
        return place
    mutual = place.security == "mutual"
    connection = Connection(
        address=place.address,
        port=place.port,
        speaks=Speaks.TLS if place.security != "plain" else speaks,
        sni=place.sni,
        alpn=alpn if mutual else (),
    )
    tls = world.model.inbound_tls.get(workload.key)
    security = _security(tls, place.port)
    listener = connections.listening(
        [one for one in plan.inbound.listeners if one.original_destination],
        Connection(place.address, names.INBOUND_PORT),
    )
    chain = connections.chain_of(listener, connection) if listener is not None else None
    proxy = str(workload.key)
    if listener is None or chain is None:
        came = "mutual TLS" if mutual else "plaintext"
        refused = f"{came} to port {place.port} is refused: {security.value}"
        return _with(place, Arrival(proxy, None, security, refused))
    choice = connections.chain_choice(listener, chain, connection)
    if isinstance(chain.network, ir.Http) and speaks in (Speaks.OTHER, Speaks.TLS):
        what = (
            "bytes of the client's own TLS" if speaks is Speaks.TLS else "bytes that are not HTTP"
        )
        refused = f"{what} to port {place.port} are refused: it is declared to speak HTTP"
        return _with(place, Arrival(proxy, choice, security, refused))
    port = _application_port(plan.inbound, chain, place.port)
    path = _path(plan, chain, request)
    return _with(place, Arrival(proxy, choice, security, port=port, path=path))


def _path(plan: ir.ProxyPlan, chain: ir.FilterChain, request: Request | None) -> str:
    """The path an HTTP chain hands on, where it differs from what came."""
    if request is None or not isinstance(chain.network, ir.Http):
        return ""
    path, _ = paths.as_routed(request.path, plan.settings.paths, edge=False)
    return path if path != request.path else ""


def _with(place: Place, arrival: Arrival) -> Place:
    return msgspec.structs.replace(place, arrival=arrival)


def _application_port(inbound: ir.Inbound, chain: ir.FilterChain, port: int) -> int:
    """The port of the application behind a chain's cluster; without one, the same port."""
    clusters = {cluster.name: cluster for cluster in inbound.clusters}
    for name in _clusters(chain):
        if name in clusters and clusters[name].port:
            return clusters[name].port
    return port


def _clusters(chain: ir.FilterChain) -> list[str]:
    match chain.network:
        case ir.Tcp(forward=ir.L4Forward() as forward):
            return [weighted.cluster for weighted in forward.clusters]
        case ir.Http(routes=ir.RouteConfiguration() as routes):
            actions = (r.action for host in routes.hosts for r in host.routes)
            forwards = (a for a in actions if isinstance(a, ir.Forward))
            return [weighted.cluster for f in forwards for weighted in f.clusters]
        case _:
            return []


def _security(tls: InboundTls | None, port: int) -> Policy:
    """Which mode holds on a port, and the policy that says so."""
    if tls is None:
        return Policy("mutual TLS", f"{_MODES[Mode.PERMISSIVE]} (default)")
    path = f"spec.portLevelMtls.{port}.mode" if port in tls.ports else "spec.mtls.mode"
    because = (Because(*tls.source, path),) if tls.source is not None else ()
    mode = _MODES[tls.for_port(port)]
    return Policy("mutual TLS", mode if because else f"{mode} (default)", because)

"""The inbound side of one proxy: what it serves on which port, and in which security."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from meltemi.api.networking import ConnectionPool
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Problem, Severity
from meltemi.compile import ir, names
from meltemi.compile.plan.secrets import Secrets
from meltemi.compile.plan.server_tls import faults, server_tls
from meltemi.compile.settings import MeshSettings
from meltemi.model.route import Prefix, Retry
from meltemi.model.service import Port, Protocol, Service
from meltemi.model.sidecar import Ingress, SidecarDef
from meltemi.model.tls import InboundTls, Mode
from meltemi.model.workload import Workload

_ANY, _LOOPBACK = "0.0.0.0", "127.0.0.1"
_RETRY = Retry(attempts=2, on=("reset-before-request",), ignore_previous_hosts=False)
"""An application may close an idle connection just as a request is sent on it."""
PROXY_PORTS = frozenset({15000, 15001, 15006, 15020, 15021, 15053, 15090})


class Served(msgspec.Struct, frozen=True):
    """One port of a workload, as clients may reach it."""

    port: int
    """0: every port that no service declares."""
    protocol: Protocol
    mode: Mode
    destination: ir.Destination | None
    stat_name: str = ""
    endpoint: tuple[str, int] = ("", 0)
    """Where the application listens; empty: wherever the client meant to go."""
    pool: ConnectionPool | None = None
    tls: ir.ServerTls | None = None
    """TLS for clients outside the mesh, of a Sidecar's ingress."""
    shut: bool = False
    """Clients outside the mesh must come by TLS, for which a certificate is missing."""
    bind: str = ""
    """The address of a listener of its own; empty: traffic is captured."""
    source: ObjectKey | None = None
    path: str = ""

    @property
    def sniffed(self) -> bool:
        return self.protocol is Protocol.AUTO

    @property
    def may_speak_http(self) -> bool:
        return self.protocol.is_http or self.sniffed

    @property
    def cluster(self) -> str:
        return names.inbound(self.port) if self.port else names.INBOUND_PASSTHROUGH


class Subject(NamedTuple):
    """The workload that is planned for, and what is said of it."""

    workload: Workload
    services: Sequence[Service]
    """Of its namespace."""
    tls: InboundTls
    sidecar: SidecarDef | None
    pools: Callable[[Service, int], ConnectionPool | None]
    """The connection pool that a DestinationRule sets for a service's port."""
    secrets: Secrets


class Planned(NamedTuple):
    inbound: ir.Inbound
    problems: tuple[Problem, ...]


def inbound(subject: Subject, settings: MeshSettings) -> Planned:
    """The listeners, with chains for every port that a service selecting the workload declares,
    or that its Sidecar lists, and the clusters behind them."""
    problems: list[Problem] = []
    sidecar = subject.sidecar
    if sidecar is not None and sidecar.ingress:
        served = tuple(_of_ingress(subject, sidecar, e, problems) for e in sidecar.ingress)
    else:
        served = tuple(_of_services(subject, settings, problems))
    other = Served(0, Protocol.TCP, subject.tls.mode, None)
    captured = [port for port in served if not port.bind]
    chains = [_refuse_loops()]
    for port in (*captured, other):
        chains += _chains(port)
    listeners = [
        _listener(names.VIRTUAL_INBOUND, _ANY, names.INBOUND_PORT, chains, captured),
        *(_own_listener(port) for port in served if port.bind),
    ]
    clusters = {port.cluster: _cluster(port) for port in (*served, other)}
    if subject.workload.has_ipv6:
        listeners = [_beside(one) for one in listeners]
        clusters = {n: _both(one, subject.workload, settings) for n, one in clusters.items()}
    return Planned(ir.Inbound(tuple(listeners), tuple(clusters.values())), tuple(problems))


def _beside(listener: ir.Listener) -> ir.Listener:
    """What listens at any address does so in both families."""
    if listener.address != _ANY:
        return listener
    return msgspec.structs.replace(listener, also=("::",))


def _both(
    cluster: ir.InboundCluster, workload: Workload, settings: MeshSettings
) -> ir.InboundCluster:
    """An application that is called at its first address listens perhaps only at another."""
    also: tuple[str, ...] = ()
    if cluster.address == workload.address:
        also = workload.also
    elif cluster.address == _LOOPBACK and settings.local_inbound:
        also = ("::1",)
    return msgspec.structs.replace(cluster, also=also, ipv6=True)


def _listener(
    name: str, bind: str, port: int, chains: Sequence[ir.FilterChain], served: Sequence[Served]
) -> ir.Listener:
    """Ports whose servers may speak first are not waited on, where that can be told."""
    return ir.Listener(
        name=name,
        side=ir.Side.SERVER,
        address=bind,
        port=port,
        chains=tuple(chains),
        original_destination=name == names.VIRTUAL_INBOUND,
        inspects_tls=True,
        inspects_http=True,
        quiet_tls=tuple(
            p.port
            for p in served
            if not p.protocol.is_http and p.mode is Mode.DISABLE and not p.tls
        ),
        quiet_http=tuple(p.port for p in served if not p.may_speak_http),
    )


def _own_listener(port: Served) -> ir.Listener:
    """A listener that nothing is captured for: its chains need not ask for the port."""
    chains = [
        msgspec.structs.replace(chain, match=msgspec.structs.replace(chain.match, port=0))
        for chain in _chains(port)
    ]
    name = names.opened_listener(port.bind, port.port)
    return _listener(name, port.bind, port.port, chains, (port,))


def _cluster(port: Served) -> ir.InboundCluster:
    return ir.InboundCluster(
        name=port.cluster,
        address=port.endpoint[0],
        port=port.endpoint[1],
        speaks_http=port.may_speak_http or not port.port,
        destination=port.destination,
        translated=port.protocol is Protocol.GRPC_WEB,
        stat_name=port.stat_name,
        pool=port.pool,
    )


def _of_services(
    subject: Subject, settings: MeshSettings, problems: list[Problem]
) -> Iterator[Served]:
    """Every declared port; the oldest service decides what a port speaks."""
    workload, tls = subject.workload, subject.tls
    address = _LOOPBACK if settings.local_inbound else workload.address
    pool = subject.sidecar.pool if subject.sidecar is not None else None
    ports: dict[int, Served] = {}
    for service, port, number in _declared(subject):
        first = ports.get(number)
        if first is not None:
            if first.protocol is not port.protocol:
                problems.append(_conflict(service, port, number, first))
            continue
        ports[number] = Served(
            port=number,
            protocol=port.protocol,
            mode=tls.for_port(number),
            destination=ir.Destination(service.host, service.name, service.namespace),
            stat_name=names.stat_name(
                settings.inbound_stat_name,
                host=service.host,
                port=port.number,
                port_name=port.name,
                target=str(number),
            ),
            endpoint=(address, number),
            pool=pool or subject.pools(service, port.number),
            source=service.source,
        )
    for number, mode in tls.ports.items():
        if number not in ports and number not in PROXY_PORTS:
            ports[number] = Served(
                number, Protocol.TCP, mode, None, endpoint=(address, number), pool=pool
            )
    yield from (ports[number] for number in sorted(ports))


def _declared(subject: Subject) -> Iterator[tuple[Service, Port, int]]:
    """The ports of services that select the workload, oldest service first, with its own."""
    chosen = [service for service in subject.services if selects(service, subject.workload)]
    for service in sorted(chosen, key=lambda s: s.precedence):
        for port in service.ports:
            number = subject.workload.port_behind(port)
            if number and number not in PROXY_PORTS:
                yield service, port, number


def _conflict(service: Service, port: Port, number: int, first: Served) -> Problem:
    return Problem(
        Code.PORT_CONFLICT,
        Severity.WARNING,
        service.source,
        f"spec.ports[{service.ports.index(port)}]",
        f"its pods' port {number} is taken to speak {first.protocol.value}, as {first.source} says,"
        f" which is older, and not {port.protocol.value}: name the protocol alike in both",
    )


def _of_ingress(
    subject: Subject, sidecar: SidecarDef, entry: Ingress, problems: list[Problem]
) -> Served:
    """A port that the Sidecar lists; the service it belongs to is known by its target port."""
    missing = list(faults(entry.tls, subject.secrets)) if entry.tls is not None else []
    problems += [
        Problem(f.code, Severity.ERROR, sidecar.source, f"{entry.path}.tls.{f.field}", f.message)
        for f in missing
    ]
    workload = subject.workload
    found = next((s for s, _, number in _declared(subject) if number == entry.port), None)
    there = ir.Destination(found.host, found.name, found.namespace) if found else None
    return Served(
        port=entry.port,
        protocol=entry.protocol,
        mode=subject.tls.for_port(entry.port),
        destination=there,
        endpoint=_endpoint(entry, workload.address),
        pool=entry.pool or sidecar.pool or (subject.pools(found, entry.port) if found else None),
        tls=_server_tls(entry) if not missing else None,
        shut=bool(missing),
        bind="" if entry.captured else entry.bind or _ANY,
        source=sidecar.source,
        path=entry.path,
    )


def _server_tls(entry: Ingress) -> ir.ServerTls | None:
    http = entry.protocol.is_http or entry.protocol is Protocol.AUTO
    return server_tls(entry.tls, http=http) if entry.tls is not None else None


def _endpoint(entry: Ingress, address: str) -> tuple[str, int]:
    """`0.0.0.0` means the workload's own address."""
    if not entry.endpoint:
        return address, entry.port
    if entry.endpoint.startswith("unix://"):
        return entry.endpoint, 0
    host, _, port = entry.endpoint.rpartition(":")
    host = host.strip("[]")
    return address if host in (_ANY, "::") else host, int(port)


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
    if port.tls is not None:
        strange = ir.ChainMatch(port=port.port, transport=ir.Transport.TLS)
        yield _chain(port, strange, http if port.may_speak_http else tcp, port.tls)
    if port.mode is not Mode.DISABLE:
        yield _chain(port, mesh, http if port.may_speak_http else tcp, ir.MESH_TLS)
        if port.sniffed:
            yield _chain(port, marked, tcp, ir.MESH_TLS)
    if port.mode is not Mode.STRICT and port.tls is None and not port.shut:
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
    return ir.FilterChain(name, match, network, tls, port.source, port.path)


def _tcp(port: Served) -> ir.Tcp:
    pool = port.pool.tcp if port.pool is not None else None
    forward = ir.L4Forward(
        (ir.WeightedCluster(port.cluster, 100),),
        idle_timeout=pool.idle_timeout if pool is not None else None,
        longest=(pool.max_connection_duration or None) if pool is not None else None,
    )
    return ir.Tcp(port.cluster, forward, destination=port.destination)


def _http(port: Served) -> ir.Http:
    """Everything to the application; the operation names the service in traces."""
    retry = Retry(attempts=0) if port.protocol is Protocol.GRPC else _RETRY
    forward = ir.Forward((ir.WeightedCluster(port.cluster, 100),), None, None, retry)
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

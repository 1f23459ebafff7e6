"""Which servers a gateway proxy opens: all Gateways that select it, merged port by port.

The oldest wins where two cannot stand side by side; the loser is reported and nothing else
suffers (mesh-semantics 1.4).
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from meltemi.base.problems import Code, Problem, Severity
from meltemi.compile import names
from meltemi.compile.scope import UNPRIVILEGED, ScopeKey
from meltemi.model.gateway import AutoPassthrough, ClientCheck, GatewayDef, Server, Terminate

ANY_ADDRESS = "0.0.0.0"
ANY_IPV6 = "::"
_FIRST_FREE = 1024


class Bound(NamedTuple):
    """One server of one gateway, on the port the pod listens on."""

    gateway: GatewayDef
    server: Server
    port: int

    def problem(self, code: Code, field: str, message: str) -> Problem:
        path = f"{self.server.path}.{field}" if field else self.server.path
        return Problem(code, Severity.ERROR, self.gateway.source, path, message)


class Speech(enum.Enum):
    """What a port begins with: one answer for all its servers."""

    HTTP = "plaintext HTTP"
    TCP = "plain TCP"
    TLS = "TLS"


class Place(NamedTuple):
    """One address of a gateway proxy, with the servers that share it, oldest first."""

    address: str
    port: int
    speech: Speech
    servers: tuple[Bound, ...]


class Merged(NamedTuple):
    places: tuple[Place, ...]
    problems: tuple[Problem, ...]


def merge(
    scope: ScopeKey, gateways: Iterable[GatewayDef], target_ports: Mapping[int, Sequence[int]]
) -> Merged:
    """The places of a scope. `target_ports`: from a Service's port to the pod's; a port without a
    Service is taken as it is."""
    merger = _Merger(scope, target_ports)
    for gateway in sorted(gateways, key=lambda g: g.created):
        if gateway.selector.items() <= dict(scope.labels).items():
            merger.add(gateway)
    places = tuple(
        Place(address, port, _speech(servers[0].server), tuple(servers))
        for (address, port), servers in sorted(merger.places.items())
    )
    return Merged(places, tuple(merger.problems))


def sni_names(server: Server) -> tuple[str, ...]:
    """The server names that mean a TLS server; traffic of the mesh carries its marker."""
    hosts = dict.fromkeys(host.host for host in server.hosts)
    match server.tls:
        case AutoPassthrough() | Terminate(check=ClientCheck.MESH):
            return tuple(_marked(host) for host in hosts)
    return tuple(hosts)


def _marked(host: str) -> str:
    return f"{host}{names.MESH_SNI}" if host != "*" else f"*{names.MESH_SNI}"


def _speech(server: Server) -> Speech:
    if server.tls is not None:
        return Speech.TLS
    return Speech.HTTP if server.protocol.is_http else Speech.TCP


class _Merger:
    """Takes gateways, oldest first; knows who was first at each place."""

    def __init__(self, scope: ScopeKey, target_ports: Mapping[int, Sequence[int]]) -> None:
        self._unprivileged = UNPRIVILEGED in scope.traits
        self._target_ports = target_ports
        self._names: dict[tuple[str, int, str], Bound] = {}
        self.places: dict[tuple[str, int], list[Bound]] = {}
        self.problems: list[Problem] = []

    def add(self, gateway: GatewayDef) -> None:
        for server in gateway.servers:
            for port in self._target_ports.get(server.port) or (server.port,):
                self._place(Bound(gateway, server, port))

    def _place(self, bound: Bound) -> None:
        address = bound.server.bind or ANY_ADDRESS
        problem = self._privileged(bound) or self._conflict(bound, address)
        if problem is not None:
            self.problems.append(problem)
            return
        self.places.setdefault((address, bound.port), []).append(bound)
        if bound.server.tls is not None:
            self._names |= {(address, bound.port, name): bound for name in sni_names(bound.server)}

    def _privileged(self, bound: Bound) -> Problem | None:
        if not self._unprivileged or bound.port >= _FIRST_FREE:
            return None
        return bound.problem(
            Code.NOT_SUPPORTED,
            "port.number",
            f"the gateway's pods may not listen on port {bound.port}: let a Service translate "
            f"port {bound.server.port} to a targetPort of {_FIRST_FREE} or more",
        )

    def _conflict(self, bound: Bound, address: str) -> Problem | None:
        """Why a server cannot share its place with those before it."""
        others = self.places.get((address, bound.port))
        if not others:
            return None
        first, speech = others[0], _speech(bound.server)
        taken = _speech(first.server)
        if speech is not taken or speech is Speech.TCP:
            return bound.problem(
                Code.PORT_CONFLICT,
                "port",
                f"port {bound.server.port} already serves {taken.value} for {_name(first)}, which "
                f"is older and wins; {speech.value} needs another port",
            )
        if speech is Speech.TLS:
            for name in sni_names(bound.server):
                winner = self._names.get((address, bound.port, name))
                if winner is not None:
                    return bound.problem(
                        Code.HOST_CONFLICT,
                        "hosts",
                        f"host {name.removesuffix(names.MESH_SNI)} is already served with TLS on "
                        f"port {bound.server.port} by {_name(winner)}, which is older and wins; "
                        "remove the host here, or there",
                    )
        return None


def _name(bound: Bound) -> str:
    return f"{bound.gateway.source} {bound.server.path}"

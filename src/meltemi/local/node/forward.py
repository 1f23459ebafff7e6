"""Carries what comes to a socket of the machine on to a Service's ready endpoints."""

import asyncio
import contextlib
import itertools
import socket
from typing import Protocol, cast

from meltemi.base.connections import CHUNK, Connections, Stream, carry
from meltemi.local.node.services import Port, ServiceTable, Virtual
from meltemi.local.node.vips import affinity

_CALLER_SECONDS = 60.0
"""How long the answers to a sender of datagrams find their way back after its last one."""
_MOST_CALLERS = 1024


class Targets(Protocol):
    """Where to carry what comes."""

    def targets(self, client: str, protocol: str) -> list[tuple[str, int]]:
        """Endpoints in the order to try them."""
        ...


class Route:
    """One port of a Service, and whose turn it is."""

    def __init__(self, table: ServiceTable, namespace: str, service: str, port: int) -> None:
        self._table = table
        self._service = (namespace, service)
        self._port = port
        self._turn = itertools.count()

    def targets(self, client: str, protocol: str) -> list[tuple[str, int]]:
        """Endpoints in the order to try them."""
        service = self._table.get(*self._service)
        port = self._find(service, protocol)
        if service is None or port is None:
            return []
        ready = list(service.targets(port))
        if service.has_affinity:
            return sorted(ready, key=lambda target: affinity(client, target), reverse=True)
        first = next(self._turn) % len(ready) if ready else 0
        return ready[first:] + ready[:first]

    def leads_to(self, target: tuple[str, int], protocol: str) -> bool:
        """Whether an endpoint still takes traffic."""
        service = self._table.get(*self._service)
        port = self._find(service, protocol)
        return service is not None and port is not None and target in service.targets(port)

    def _find(self, service: Virtual | None, protocol: str) -> Port | None:
        ports = service.ports if service is not None else ()
        return next((p for p in ports if (p.port, p.protocol) == (self._port, protocol)), None)


async def serve_tcp(listening: socket.socket, route: Targets) -> None:
    """Accept until cancelled."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = await _reach(route, writer.get_extra_info("peername")[0])
        await carry((reader, writer), far, until="both")

    accept = Connections(connected, name="a published port").accept
    server = await asyncio.start_server(accept, sock=listening, limit=CHUNK)
    async with server:
        await server.serve_forever()


async def _reach(route: Targets, client: str) -> Stream:
    """Connect to the first endpoint that answers. Raises OSError without any."""
    for ip, port in route.targets(client, "TCP"):
        with contextlib.suppress(OSError):
            return await asyncio.open_connection(ip, port, limit=CHUNK)
    raise ConnectionRefusedError("no endpoint answers")


async def serve_udp(bound: socket.socket, route: Route) -> None:
    """Pass datagrams on until cancelled."""
    loop = asyncio.get_running_loop()
    bound.setblocking(False)
    transport, _ = await loop.create_datagram_endpoint(lambda: _Near(route), sock=bound)
    try:
        await asyncio.Event().wait()
    finally:
        transport.close()


class _Near(asyncio.DatagramProtocol):
    """The machine's side: a far side for each sender."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._callers: dict[tuple[str, int], _Far] = {}
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The loop's own transports do not derive from the abstract one.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        for far in tuple(self._callers.values()):
            far.end()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        far = self._callers.get(addr)
        if far is not None and not self._route.leads_to(far.target, "UDP"):
            far.end()
            far = None
        if far is None:
            targets = self._route.targets(addr[0], "UDP")
            if not targets or len(self._callers) >= _MOST_CALLERS or self._transport is None:
                return
            far = self._callers[addr] = _Far(self._transport, addr, targets[0], self._callers)
            far.begin()
        far.send(data)


class _Far(asyncio.DatagramProtocol):
    """One sender's way to its endpoint, and back."""

    def __init__(
        self,
        near: asyncio.DatagramTransport,
        caller: tuple[str, int],
        target: tuple[str, int],
        callers: dict[tuple[str, int], "_Far"],
    ) -> None:
        self._near = near
        self._caller = caller
        self.target = target
        self._callers = callers
        self._transport: asyncio.DatagramTransport | None = None
        self._early: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._opening = asyncio.create_task(self._open(), name="datagrams to an endpoint")

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_datagram_endpoint(lambda: self, remote_addr=self.target)
        except OSError:
            self.end()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        for data in self._early:
            self._transport.sendto(data)
        self._early.clear()

    def send(self, data: bytes) -> None:
        self._stay()
        if self._transport is not None:
            self._transport.sendto(data)
        else:
            self._early.append(data)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._stay()
        self._near.sendto(data, self._caller)

    def error_received(self, exc: Exception) -> None:
        self.end()

    def _stay(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_CALLER_SECONDS, self.end)

    def end(self) -> None:
        if self._callers.get(self._caller) is self:
            del self._callers[self._caller]
        if self._opening is not None:
            self._opening.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()

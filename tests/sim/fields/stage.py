"""One pair of Envoys for all fields: a mesh in, traffic through it, what became of it out."""

import asyncio
import contextlib
import ctypes
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import h2.connection
import h2.events
import msgspec
import yaml

from meltemi.base.problems import Severity
from meltemi.simulate.request import Request
from meltemi.simulate.world import World, raw_objects

from ..given import Given
from ..real import client
from ..real.client import Answer
from ..real.lab import Lab
from ..real.places import node_at
from . import peers

Json = dict[str, Any]
_PIDFD_GETFD = 438


class Stage:
    """The mesh is the shop of `given/shop.yaml` and what a test adds, in the form of cases."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.world = World({})
        self.count = 0
        """Of whatever a test wants to be new each time."""

    async def use(
        self, *given: str | Json, proxy: str = "client", server: str = "", **metadata: Any
    ) -> None:
        """`given`: what a case gives, as YAML or parsed. `proxy`: whom the client's Envoy stands
        for. `metadata`: what that proxy says of itself."""
        made = Given()
        made.add({"include": ["shop"]})
        for part in given:
            made.add(yaml.safe_load(part) if isinstance(part, str) else part)
        raw = raw_objects(made.documents())
        self.world = World(raw)
        wrong = [p for p in self.world.problems() if p.severity is Severity.ERROR]
        assert not wrong, "\n".join(map(str, wrong))
        node = node_at(self.world, proxy)
        assert node is not None
        node = msgspec.structs.replace(node, metadata={**node.metadata, **metadata})
        await self.lab.configure(raw, node, node_at(self.world, server))
        await self.lab.arrivals()

    def address(self, host: str) -> str:
        """Of a service, by its name or its whole host; anything else is an address."""
        for service in self.world.model.services.values():
            if host in (service.name, service.host) and service.addresses:
                return str(service.addresses[0])
        return host

    def pod(self, name: str) -> str:
        """The address of a pod."""
        return self.world.workload(name).address

    def who(self, answer: Answer) -> str:
        """The pod that answered; empty: nobody but the proxy."""
        if not answer.header("x-from-app"):
            return ""
        address = json.loads(answer.body)["address"].rpartition(":")[0]
        workload = self.world.at(address)
        return workload.key.name if workload is not None else str(address)

    async def get(self, url: str, method: str = "GET", at: str = "", **headers: str) -> Answer:
        """Ask `HOST:PORT/PATH` over HTTP/1.1, on a connection of its own. `at`: who is connected
        to, if not the host."""
        authority, _, path = url.partition("/")
        host, _, port = authority.partition(":")
        pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        request = Request(authority, path=f"/{path}", method=method, headers=pairs)
        return await self.lab.send(self.address(at or host), int(port or 80), request)

    async def connect(
        self, host: str, port: int, *, tls: ssl.SSLContext | None = None, sni: str = ""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection from the client's application."""
        sock = await self.lab.connect(self.address(host), port)
        return await _streams(sock, tls, sni)

    async def arrive(
        self,
        port: int,
        *,
        address: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        sni: str = "",
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A stranger's connection to a port that the Envoy opens itself."""
        sock = await self.lab.connect(address, port, captured=False)
        return await _streams(sock, tls, sni)

    async def ask(
        self,
        port: int,
        request: Request,
        *,
        address: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        sni: str = "",
        before: bytes = b"",
    ) -> Answer:
        """A stranger's HTTP/1.1 request to such a port; status 0: it was closed. `before`: bytes
        that go first."""
        try:
            reader, writer = await self.arrive(port, address=address, tls=tls, sni=sni)
        except (OSError, EOFError):
            return Answer(0, (), b"", 0)
        try:
            writer.write(before)
            return await client.http(reader, writer, request, 0)
        finally:
            writer.close()

    async def stats(self, pattern: str, *, role: str = "client") -> dict[str, int]:
        """Counters and gauges whose names match, without zeros of old ones."""
        text = await self.lab.admin(f"/stats?filter={pattern}", role=role)
        pairs = (line.rpartition(": ") for line in text.splitlines())
        return {name: int(value) for name, _, value in pairs if value.isdecimal()}

    async def retries(self, host: str) -> int:
        """How often requests to a service were tried again, ever."""
        return sum((await self.stats(f"{host}.*upstream_rq_retry$")).values())

    @contextlib.asynccontextmanager
    async def peer(
        self, port: int, answer: peers.Answer, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[peers.Peer]:
        """A server of one's own on a port of every address of the servers' network."""
        async with peers.listening(self.lab.serving(port), answer, tls) as peer:
            yield peer

    def keepalive(self, port: int, *, role: str = "client") -> list[int]:
        """Of the Envoy's connection to a port, read from its own socket: whether the kernel
        probes, how often, after what silence, at which interval."""
        for found in _sockets(self.lab.pid(role)):
            with found:
                if _peer_port(found) == port:
                    return [found.getsockopt(level, option) for level, option in _KEEPALIVE]
        raise AssertionError(f"Envoy has no connection to port {port}")


_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
)


def objects(text: str) -> Json:
    """Objects in YAML, as something given."""
    return {"objects": yaml.safe_load(text)}


def _sockets(pid: int) -> Iterator[socket.socket]:
    """Copies of a process's TCP sockets."""
    process = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                    yield socket.socket(fileno=_taken(process, int(name)))
    finally:
        os.close(process)


def _peer_port(found: socket.socket) -> int:
    with contextlib.suppress(OSError):
        return int(found.getpeername()[1]) if found.family == socket.AF_INET else 0
    return 0


def _taken(process: int, number: int) -> int:
    """A descriptor of another process, as one's own."""
    found = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, number, 0)
    if found < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return int(found)


async def _streams(
    sock: socket.socket, tls: ssl.SSLContext | None, sni: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_connection(
            sock=sock, ssl=tls, server_hostname=sni if tls is not None else None
        )
    except BaseException:
        sock.close()
        raise


class Http2Answer:
    """Headers, body and trailers of one HTTP/2 response."""

    def __init__(self) -> None:
        self.headers: Mapping[str, str] = {}
        self.trailers: Mapping[str, str] = {}
        self.body = b""
        self.reset = False

    @property
    def status(self) -> int:
        return int(self.headers.get(":status", 0))


async def http2(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request, body: bytes = b""
) -> Http2Answer:
    """One request in HTTP/2 from the first byte, on a connection of its own."""
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    head = [
        (":method", request.method),
        (":scheme", request.scheme),
        (":authority", request.authority),
        (":path", request.path),
        *request.headers,
    ]
    connection.send_headers(1, head, end_stream=not body)
    if body:
        connection.send_data(1, body, end_stream=True)
    answer = Http2Answer()
    try:
        async with asyncio.timeout(15):
            while True:
                writer.write(connection.data_to_send())
                data = await reader.read(65536)
                if not data or _taken_in(connection, data, answer):
                    return answer
    finally:
        await closed(writer)


async def heard(reader: asyncio.StreamReader, limit: int = 65536) -> bytes:
    """The next bytes; nothing where the connection ends or breaks."""
    try:
        async with asyncio.timeout(15):
            return await reader.read(limit)
    except (OSError, EOFError):
        return b""


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection, and wait until it is."""
    writer.close()
    with contextlib.suppress(OSError, EOFError):
        await writer.wait_closed()


def _taken_in(connection: h2.connection.H2Connection, data: bytes, answer: Http2Answer) -> bool:
    """Whether the response is over."""
    is_over = False
    for event in connection.receive_data(data):
        match event:
            case h2.events.ResponseReceived(headers=headers):
                answer.headers = _text(headers)
            case h2.events.TrailersReceived(headers=headers):
                answer.trailers = _text(headers)
            case h2.events.DataReceived(data=part):
                answer.body += part
            case h2.events.StreamReset():
                answer.reset = is_over = True
            case h2.events.StreamEnded():
                is_over = True
    return is_over


def _text(headers: Any) -> dict[str, str]:
    return {_plain(name): _plain(value) for name, value in headers}


def _plain(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()

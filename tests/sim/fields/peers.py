"""Servers of a test's own behind the proxies: they keep what comes, byte for byte.

The echo server tells what a request became; what a connection became only its other end knows.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions

_BROKEN = (
    ConnectionError,
    ssl.SSLError,
    EOFError,
    asyncio.IncompleteReadError,
    h2.exceptions.ProtocolError,
)


class Visit:
    """One connection to a peer."""

    def __init__(self) -> None:
        self.said = b""
        self.began = time.monotonic()
        self.ended: float | None = None
        self.server_name: str | None = None
        self.certificate: dict[str, Any] = {}
        """The client's, as Python's ssl reads it."""
        self.version = ""
        self.cipher = ""
        self.alpn = ""

    @property
    def requests(self) -> list[str]:
        """The heads of HTTP/1 requests."""
        return self.said.decode("latin-1").split("\r\n\r\n")[:-1]

    @property
    def lasted(self) -> float | None:
        return None if self.ended is None else self.ended - self.began


Answer = Callable[[Visit, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """What came to one port."""

    def __init__(self) -> None:
        self.visits: list[Visit] = []

    @property
    def said(self) -> bytes:
        return b"".join(visit.said for visit in self.visits)

    async def until(self, holds: Callable[[list[Visit]], bool], *, limit: float = 10) -> None:
        """Wait until something holds of the visits."""
        async with asyncio.timeout(limit):
            while not holds(self.visits):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def listening(
    sock: socket.socket, answer: Answer, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Peer]:
    """A server on a socket that takes connections already."""
    peer = Peer()
    open_now: set[asyncio.StreamWriter] = set()
    over = asyncio.Event()
    over.set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = Visit()
        peer.visits.append(visit)
        open_now.add(writer)
        over.clear()
        _note_tls(visit, writer)
        try:
            await answer(visit, reader, writer)
        except _BROKEN:
            pass
        finally:
            visit.ended = time.monotonic()
            writer.transport.abort()
            open_now.discard(writer)
            if not open_now:
                over.set()

    if tls is not None:
        tls.sni_callback = _keep_name
    server = await asyncio.start_server(serve, sock=sock, ssl=tls)
    try:
        yield peer
    finally:
        server.close()
        for writer in open_now:
            writer.transport.abort()
        await asyncio.wait_for(over.wait(), 5)


def _keep_name(connection: Any, name: str | None, _: ssl.SSLContext) -> None:
    connection.context.server_names = {**getattr(connection.context, "server_names", {})}
    connection.server_hostname_asked = name


def _note_tls(visit: Visit, writer: asyncio.StreamWriter) -> None:
    secure = writer.get_extra_info("ssl_object")
    if secure is None:
        return
    visit.certificate = secure.getpeercert() or {}
    visit.version = secure.version() or ""
    visit.cipher = (secure.cipher() or ("",))[0]
    visit.alpn = secure.selected_alpn_protocol() or ""
    visit.server_name = getattr(secure, "server_hostname_asked", None)


async def http(visit: Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """HTTP/1.1 without end; every answer is `fine`."""
    while True:
        visit.said += await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfine\n")


async def keep(visit: Visit, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Reads, and never says a word."""
    while data := await reader.read(65536):
        visit.said += data


async def repeat(visit: Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says what it hears."""
    while data := await reader.read(65536):
        visit.said += data
        writer.write(data)


async def hang_up(visit: Visit, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Closes as soon as something was said."""
    visit.said += await reader.read(65536)


GRPC_MESSAGE = b"\0\0\0\0\5hello"


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


class Http2:
    """An HTTP/2 server that answers while its gate is open; with `grpc` as a service does."""

    def __init__(self, *, pongs: bool = True, grpc: bool = False) -> None:
        self.pongs = pongs
        self.grpc = grpc
        self.asked: list[dict[str, str]] = []
        """The headers of each request."""
        self.pings = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.streams: list[list[int]] = []
        """The streams of each connection."""

    async def __call__(
        self, visit: Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        config = h2.config.H2Configuration(client_side=False)
        connection = h2.connection.H2Connection(config)
        connection.initiate_connection()
        mine: list[int] = []
        self.streams.append(mine)
        waiting: set[asyncio.Task[None]] = set()
        writer.write(connection.data_to_send())
        try:
            while data := await reader.read(65536):
                visit.said += data
                for event in connection.receive_data(data):
                    self._take(event, connection, writer, mine, waiting)
                self._flush(connection, writer)
        finally:
            for task in waiting:
                task.cancel()

    def _take(
        self,
        event: h2.events.Event,
        connection: h2.connection.H2Connection,
        writer: asyncio.StreamWriter,
        mine: list[int],
        waiting: set[asyncio.Task[None]],
    ) -> None:
        if isinstance(event, h2.events.PingReceived):
            self.pings += 1
            if not self.pongs:
                connection.clear_outbound_data_buffer()
        elif isinstance(event, h2.events.RequestReceived):
            mine.append(event.stream_id or 0)
            self.asked.append({_text(name): _text(value) for name, value in event.headers or ()})
            answering = asyncio.create_task(
                self._answer(connection, writer, event.stream_id or 0), name="stream"
            )
            waiting.add(answering)
            answering.add_done_callback(waiting.discard)

    async def _answer(
        self, connection: h2.connection.H2Connection, writer: asyncio.StreamWriter, stream: int
    ) -> None:
        await self.gate.wait()
        if self.grpc:
            kind = ("content-type", "application/grpc")
            connection.send_headers(stream, [(":status", "200"), kind])
            connection.send_data(stream, GRPC_MESSAGE)
            connection.send_headers(stream, [("grpc-status", "0")], end_stream=True)
        else:
            connection.send_headers(stream, [(":status", "200"), ("content-length", "5")])
            connection.send_data(stream, b"fine\n", end_stream=True)
        self._flush(connection, writer)

    @staticmethod
    def _flush(connection: h2.connection.H2Connection, writer: asyncio.StreamWriter) -> None:
        writer.write(connection.data_to_send())

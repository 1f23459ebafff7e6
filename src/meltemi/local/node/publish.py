"""Published ports: connections to a socket of the machine go on to a Service's ready endpoints."""

import asyncio
import contextlib
import itertools
import logging
import socket

import msgspec

from meltemi.local.node.services import ServiceTable

log = logging.getLogger(__name__)

_CHUNK = 65536


class Published(msgspec.Struct, frozen=True):
    """`--publish PORT=FD:NAMESPACE/SERVICE:SERVICEPORT`."""

    port: int
    fd: int
    namespace: str
    service: str
    service_port: int

    @classmethod
    def parse(cls, text: str) -> "Published":
        """Raises ValueError with the form that is expected."""
        try:
            left, _, place = text.partition("=")
            fd, _, target = place.partition(":")
            service, _, port = target.rpartition(":")
            namespace, _, name = service.partition("/")
            return cls(int(left), int(fd), namespace, name, int(port))
        except ValueError as error:
            raise ValueError(f"{text}: expected PORT=FD:NAMESPACE/SERVICE:PORT") from error


async def serve(published: Published, table: ServiceTable) -> None:
    """Accept until cancelled."""
    turn = itertools.count()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far = await _reach(published, table, next(turn))
        except OSError:
            writer.transport.abort()
            return
        await _splice(reader, writer, *far)

    listening = socket.socket(fileno=published.fd)
    server = await asyncio.start_server(connected, sock=listening, limit=_CHUNK)
    async with server:
        await server.serve_forever()


async def _reach(
    published: Published, table: ServiceTable, turn: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a ready endpoint, the next one in turn first. Raises OSError without any."""
    service = table.get(published.namespace, published.service)
    ports = [p for p in service.ports if p.port == published.service_port] if service else []
    if service is None or not ports:
        raise ConnectionRefusedError("no such service")
    ready = [b for b in service.ready if ports[0].name in b.ports]
    for step in range(len(ready)):
        backend = ready[(turn + step) % len(ready)]
        with contextlib.suppress(OSError):
            return await asyncio.open_connection(
                backend.ip, backend.ports[ports[0].name], limit=_CHUNK
            )
    raise ConnectionRefusedError("no endpoint answers")


async def _splice(
    near_reader: asyncio.StreamReader,
    near_writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    far_writer: asyncio.StreamWriter,
) -> None:
    """Carry both directions; each ends by itself, as TCP lets it."""
    try:
        await asyncio.gather(_pump(near_reader, far_writer), _pump(far_reader, near_writer))
    finally:
        for writer in (near_writer, far_writer):
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except (ConnectionError, OSError):
        writer.transport.abort()

"""Port 15012: mutual TLS in front of the gRPC server's unix socket.

grpc's own TLS cannot ask for a client certificate without demanding it, and a proxy that has no
certificate yet must come with its token. So TLS ends here: each connection is carried on to the
unix socket from an abstract address of its own, and `identity_of` tells the services which
verified certificate stands behind the address gRPC calls the peer. Nobody else can use such an
address while it is bound.
"""

import asyncio
import logging
import secrets
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote

from cryptography import x509

from meltemi.base.identity import Identity
from meltemi.ca.authenticate import identity_from_certificate
from meltemi.ca.errors import Unauthenticated

log = logging.getLogger(__name__)

_CHUNK = 64 * 1024
_HANDSHAKE_SECONDS = 10.0
_PEER_PREFIX = "unix-abstract:"


class Edge:
    """Accepts TLS on a listening socket and carries bytes to a unix socket."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        target: Path,
        *,
        most_connections: int = 10_000,
    ) -> None:
        """`context` comes from `ServerIdentity.context(verify_clients=True, alpn=("h2",))`."""
        self._listener = listener
        self._context = context
        self._target = target
        self._most = most_connections
        self._identities: dict[str, Identity | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accepted,
            sock=self._listener,
            ssl=self._context,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            backlog=2048,
            limit=_CHUNK,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def identity_of(self, peer: str) -> Identity | None:
        """Who is behind a gRPC `context.peer()`; None without a verified certificate."""
        if not peer.startswith(_PEER_PREFIX):
            return None
        return self._identities.get(unquote(peer.removeprefix(_PEER_PREFIX)))

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        name = f"meltemi-edge-{secrets.token_hex(16)}"
        try:
            if len(self._tasks) > self._most:
                log.warning("refused a connection: %d are open already", self._most)
                return
            self._identities[name] = _peer_identity(writer)
            await self._carry(name, reader, writer)
        except Unauthenticated as e:
            log.warning("refused a connection: %s", e)
        except (OSError, asyncio.IncompleteReadError) as e:
            log.info("a connection to the control plane ended: %s", e)
        finally:
            self._identities.pop(name, None)
            writer.transport.abort()
            if task is not None:
                self._tasks.discard(task)

    async def _carry(
        self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            inner.bind(f"\0{name}")
            await asyncio.get_running_loop().sock_connect(inner, str(self._target))
            in_reader, in_writer = await asyncio.open_unix_connection(sock=inner, limit=_CHUNK)
        except BaseException:
            inner.close()
            raise
        try:
            pumps = (
                asyncio.create_task(_pump(reader, in_writer), name=f"{name} in"),
                asyncio.create_task(_pump(in_reader, writer), name=f"{name} out"),
            )
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            in_writer.transport.abort()
            with suppress(OSError):
                await in_writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()


def _peer_identity(writer: asyncio.StreamWriter) -> Identity | None:
    tls = writer.get_extra_info("ssl_object")
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    return identity_from_certificate(x509.load_der_x509_certificate(der)) if der else None

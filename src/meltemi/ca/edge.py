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
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote

from cryptography import x509

from meltemi.base.connections import CHUNK, Connections, Stream, carry
from meltemi.base.identity import Identity
from meltemi.ca.authenticate import identity_from_certificate
from meltemi.ca.errors import Unauthenticated

log = logging.getLogger(__name__)

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
        self._identities: dict[str, Identity | None] = {}
        self._connections = Connections(self._serve, name="port 15012", most=most_connections)
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._connections.accept,
            sock=self._listener,
            ssl=self._context,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            backlog=2048,
            limit=CHUNK,
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
        await self._connections.end()

    def identity_of(self, peer: str) -> Identity | None:
        """Who is behind a gRPC `context.peer()`; None without a verified certificate."""
        if not peer.startswith(_PEER_PREFIX):
            return None
        return self._identities.get(unquote(peer.removeprefix(_PEER_PREFIX)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = f"meltemi-edge-{secrets.token_hex(16)}"
        try:
            self._identities[name] = _peer_identity(writer)
            await carry((reader, writer), await self._inside(name), until="either")
        except Unauthenticated as e:
            log.warning("refused a connection: %s", e)
        finally:
            self._identities.pop(name, None)

    async def _inside(self, name: str) -> Stream:
        """A connection to the unix socket from an address of its own."""
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            inner.bind(f"\0{name}")
            await asyncio.get_running_loop().sock_connect(inner, str(self._target))
            return await asyncio.open_unix_connection(sock=inner, limit=CHUNK)
        except BaseException:
            inner.close()
            raise


def _peer_identity(writer: asyncio.StreamWriter) -> Identity | None:
    tls = writer.get_extra_info("ssl_object")
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    return identity_from_certificate(x509.load_der_x509_certificate(der)) if der else None

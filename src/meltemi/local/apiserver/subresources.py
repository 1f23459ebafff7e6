"""Logs, exec, attach and port forwarding: spliced through to the node's own socket.

exec and attach speak `v5.channel.k8s.io` end to end, so their frames pass as they are. kubectl's
port forwarding is SPDY inside a WebSocket: each stream becomes a raw WebSocket to the node.
"""

import asyncio
import contextlib
import struct
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from aiohttp import WSMsgType, web

from meltemi.local.apiserver.channels import Channels
from meltemi.local.apiserver.errors import StatusError, bad_request

_EXEC = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_FORWARD = "SPDY/3.1+portforward.k8s.io"
_SYN_STREAM, _SYN_REPLY, _RST, _PING = 1, 2, 3, 6
_FIN = 1


class NodeProxy:
    """Reaches the node over its unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._path)))
        return self._session

    async def stats(self) -> Any:
        """What the node and every container use. Raises a 503."""
        try:
            async with self._client().get("http://node/stats/summary") as reply:
                return await reply.json()
        except aiohttp.ClientError as error:
            raise _no_node(error) from error

    async def logs(
        self,
        request: web.Request,
        namespace: str,
        pod: str,
        container: str,
        query: dict[str, str],
    ) -> web.StreamResponse:
        """Stream a container's log."""
        url = f"http://node/logs/{quote(namespace)}/{quote(pod)}/{quote(container)}"
        endless = aiohttp.ClientTimeout(total=None)
        try:
            async with self._client().get(url, params=query, timeout=endless) as reply:
                if reply.status != 200:
                    raise bad_request(await reply.text())
                response = web.StreamResponse(headers={"Content-Type": "text/plain"})
                await response.prepare(request)
                async for chunk in reply.content.iter_any():
                    await response.write(chunk)
                return response
        except aiohttp.ClientConnectorError as error:
            raise _no_node(error) from error

    async def stream(
        self, request: web.Request, verb: str, namespace: str, pod: str, container: str
    ) -> web.StreamResponse:
        """Run a command in a container, or attach to what runs in it."""
        _need_websocket(request)
        asked = request.query
        query = [("command", c) for c in asked.getall("command", [])]
        query += [(n, asked[n]) for n in ("stdin", "tty", "stdout", "stderr") if n in asked]
        url = f"http://node/{verb}/{quote(namespace)}/{quote(pod)}/{quote(container)}?"
        try:
            node = await self._client().ws_connect(
                url + urlencode(query), protocols=_EXEC, max_msg_size=0
            )
        except aiohttp.WSServerHandshakeError as error:
            raise bad_request(error.message or "the node refused") from error
        except aiohttp.ClientError as error:
            raise _no_node(error) from error
        socket = web.WebSocketResponse(protocols=_EXEC, max_msg_size=0)
        await socket.prepare(request)
        forward = asyncio.create_task(_pump(socket, node), name=f"{verb} to node")
        try:
            await _pump(node, socket)
        finally:
            forward.cancel()
            await node.close()
            await socket.close()
        return socket

    async def port_forward(
        self, request: web.Request, namespace: str, pod: str
    ) -> web.StreamResponse:
        """Carry each SPDY stream of the client to a port of the pod."""
        _need_websocket(request)
        socket = web.WebSocketResponse(protocols=(_FORWARD, *_EXEC), max_msg_size=0)
        await socket.prepare(request)
        base = f"http://node/portforward/{quote(namespace)}/{quote(pod)}"
        async with asyncio.TaskGroup() as group:
            if socket.ws_protocol == _FORWARD:
                await _Forwarder(socket, self._client(), base, group).run()
            else:
                ports = [p for text in request.query.getall("ports", []) for p in text.split(",")]
                await Channels(socket, self._client(), base, group, ports).run()
        return socket


def _need_websocket(request: web.Request) -> None:
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise bad_request(
            "only WebSocket is served here, SPDY is not: use kubectl 1.31 or newer, or a client "
            "that speaks v5.channel.k8s.io or v4.channel.k8s.io"
        )


def _no_node(error: Exception) -> StatusError:
    return StatusError(503, "ServiceUnavailable", f"the node does not answer: {error}")


async def _pump(source: Any, target: Any) -> None:
    async for message in source:
        if message.type is WSMsgType.BINARY:
            await target.send_bytes(message.data)
        elif message.type is WSMsgType.TEXT:
            await target.send_str(message.data)


class _Forwarder:
    """SPDY/3.1 frames inside WebSocket messages, as kubectl's port-forward speaks them."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        session: aiohttp.ClientSession,
        base: str,
        group: asyncio.TaskGroup,
    ) -> None:
        self._socket = socket
        self._session = session
        self._base = base
        self._group = group
        dictionary = _dictionary()
        self._inflate = zlib.decompressobj(zdict=dictionary)
        self._deflate = zlib.compressobj(zdict=dictionary)
        self._streams: dict[int, aiohttp.ClientWebSocketResponse | None] = {}

    async def run(self) -> None:
        buffer = bytearray()
        try:
            async for message in self._socket:
                if message.type is not WSMsgType.BINARY:
                    continue
                buffer += message.data
                while len(buffer) >= 8:
                    first, second = struct.unpack(">II", buffer[:8])
                    length = second & 0xFFFFFF
                    if len(buffer) < 8 + length:
                        break
                    body = bytes(buffer[8 : 8 + length])
                    del buffer[: 8 + length]
                    await self._frame(first, second >> 24, body)
        finally:
            for stream in self._streams.values():
                if stream is not None:
                    await stream.close()

    async def _frame(self, first: int, flags: int, body: bytes) -> None:
        if first >> 31:
            await self._control(first & 0xFFFF, body)
            return
        stream = self._streams.get(first)
        if stream is None:
            return
        # The pod may have closed its end already; the other streams go on.
        with contextlib.suppress(ConnectionError):
            if body:
                await stream.send_bytes(body)
                await self._send(_control(9, struct.pack(">II", first, len(body))))
            if flags & _FIN:
                await stream.send_str("eof")

    async def _control(self, kind: int, body: bytes) -> None:
        if kind == _SYN_STREAM:
            number = struct.unpack(">I", body[:4])[0]
            headers = _headers(self._inflate.decompress(body[10:]))
            empty = self._deflate.compress(struct.pack(">I", 0))
            empty += self._deflate.flush(zlib.Z_SYNC_FLUSH)
            await self._send(_control(_SYN_REPLY, struct.pack(">I", number) + empty))
            if headers.get("streamtype") == "data":
                await self._open(number, headers["port"])
            else:
                self._streams[number] = None
        elif kind == _PING:
            await self._send(_control(_PING, body))
        elif kind == _RST:
            stream = self._streams.pop(struct.unpack(">I", body[:4])[0], None)
            if stream is not None:
                await stream.close()

    async def _open(self, number: int, port: str) -> None:
        try:
            stream = await self._session.ws_connect(f"{self._base}/{port}", max_msg_size=0)
        except aiohttp.ClientError:
            await self._data(number, b"", fin=True)
            return
        self._streams[number] = stream
        self._group.create_task(self._back(number, stream), name=f"port forward {port}")

    async def _back(self, number: int, stream: aiohttp.ClientWebSocketResponse) -> None:
        async for message in stream:
            if message.type is WSMsgType.BINARY:
                await self._data(number, message.data)
        await self._data(number, b"", fin=True)

    async def _data(self, number: int, body: bytes, *, fin: bool = False) -> None:
        head = struct.pack(">II", number, (_FIN if fin else 0) << 24 | len(body))
        await self._send(head + body)

    async def _send(self, frame: bytes) -> None:
        if not self._socket.closed:
            with contextlib.suppress(ConnectionError):
                await self._socket.send_bytes(frame)


def _control(kind: int, body: bytes) -> bytes:
    return struct.pack(">HHI", 0x8003, kind, len(body)) + body


def _headers(raw: bytes) -> dict[str, str]:
    count = struct.unpack(">I", raw[:4])[0]
    position, found = 4, {}
    for _ in range(count):
        parts = []
        for _ in range(2):
            length = struct.unpack(">I", raw[position : position + 4])[0]
            parts.append(raw[position + 4 : position + 4 + length].decode())
            position += 4 + length
        found[parts[0].lower()] = parts[1]
    return found


_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language "
    "accept-ranges age allow authorization cache-control connection content-base content-encoding "
    "content-language content-length content-location content-md5 content-range content-type date "
    "etag expect expires from host if-match if-modified-since if-none-match if-range "
    "if-unmodified-since last-modified location max-forwards pragma proxy-authenticate "
    "proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status"
)
_TAIL = (
    b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 "
    b"Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 "
    b"Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, "
    b"Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,"
    b"application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch"
    b"charset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _dictionary() -> bytes:
    """The zlib dictionary that SPDY/3 fixes for header blocks (its specification, 2.6.10.1)."""
    words = [*_WORDS.split(), "200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie"]
    words += ["keep-alive", "origin"]
    return b"".join(struct.pack(">I", len(w)) + w.encode() for w in words) + _TAIL

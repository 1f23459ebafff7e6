"""Port forwarding over `v4.channel.k8s.io`, as clients other than kubectl ask for it.

Of the ports in the query, the one at place n has channel 2n for data and 2n+1 for errors. Each
channel first tells its port: two bytes, the lower one first.
"""

import asyncio
import contextlib

import aiohttp
from aiohttp import WSMsgType, web


class Channels:
    """One WebSocket that carries connections to some ports of a pod."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        session: aiohttp.ClientSession,
        base: str,
        group: asyncio.TaskGroup,
        ports: list[str],
    ) -> None:
        self._socket = socket
        self._session = session
        self._base = base
        self._group = group
        self._ports = ports
        self._streams: dict[int, asyncio.Future[aiohttp.ClientWebSocketResponse | None]] = {}
        """By data channel: what a client sends before its port is open waits."""

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._streams = {2 * place: loop.create_future() for place in range(len(self._ports))}
        tasks = [
            self._group.create_task(self._open(place, port), name=f"port forward {port}")
            for place, port in enumerate(self._ports)
        ]
        try:
            async for message in self._socket:
                if message.type is not WSMsgType.BINARY or not message.data:
                    continue
                opening = self._streams.get(message.data[0])
                stream = await opening if opening is not None else None
                if stream is not None and not stream.closed:
                    with contextlib.suppress(ConnectionError):
                        await stream.send_bytes(message.data[1:])
        finally:
            for opening in self._streams.values():
                stream = opening.result() if opening.done() else None
                if stream is not None:
                    await stream.close()
            for task in tasks:
                task.cancel()

    async def _open(self, place: int, port: str) -> None:
        data, errors = 2 * place, 2 * place + 1
        if not port.isdecimal() or int(port) > 65535:
            self._streams[data].set_result(None)
            await self._send(errors, f"port {port!r} is not a port".encode())
            return
        named = int(port).to_bytes(2, "little")
        await self._send(data, named)
        await self._send(errors, named)
        try:
            stream = await self._session.ws_connect(f"{self._base}/{port}", max_msg_size=0)
        except aiohttp.ClientError as error:
            self._streams[data].set_result(None)
            await self._send(errors, f"port {port}: {error}".encode())
            await self._socket.close()
            return
        self._streams[data].set_result(stream)
        async for message in stream:
            if message.type is WSMsgType.BINARY:
                await self._send(data, message.data)
        await self._socket.close()

    async def _send(self, channel: int, body: bytes) -> None:
        if not self._socket.closed:
            with contextlib.suppress(ConnectionError):
                await self._socket.send_bytes(bytes([channel]) + body)

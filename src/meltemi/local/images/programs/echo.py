"""Says what it was asked: HTTP on `--port`s, raw bytes on `--tcp-port`s."""

import argparse
import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence

from aiohttp import web

from meltemi.local.images.programs.service import log_requests, serve
from meltemi.local.images.programs.sockets import listening

_LONGEST_DELAY = 120.0


class Echo:
    """Answers with the request as JSON; /status/N and /delay/S do what they say."""

    def __init__(self, env: Mapping[str, str], tcp_ports: Sequence[int]) -> None:
        self._version = env.get("SERVICE_VERSION", env.get("VERSION", ""))
        self._host = env.get("HOSTNAME") or socket.gethostname()
        self._tcp_ports = tcp_ports

    def application(self) -> web.Application:
        app = web.Application(middlewares=[log_requests])
        app.cleanup_ctx.append(self._tcp)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.route("*", "/status/{code:[1-5][0-9][0-9]}", self._status),
                web.route("*", "/delay/{seconds:[0-9.]+}", self._delay),
                web.get("/ws", self._websocket),
                web.route("*", "/{path:.*}", self._echo),
            ]
        )
        return app

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _status(self, request: web.Request) -> web.Response:
        response = await self._echo(request)
        response.set_status(int(request.match_info["code"]))
        return response

    async def _delay(self, request: web.Request) -> web.Response:
        await asyncio.sleep(min(float(request.match_info["seconds"]), _LONGEST_DELAY))
        return await self._echo(request)

    async def _echo(self, request: web.Request) -> web.Response:
        body = await request.text()
        answer = {
            "hostname": self._host,
            "version": self._version,
            "method": request.method,
            "path": request.path_qs,
            "headers": {k.lower(): v for k, v in request.headers.items()},
            "body": body,
        }
        return web.json_response(answer, dumps=lambda value: json.dumps(value, indent=1) + "\n")

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            if message.type is web.WSMsgType.TEXT:
                await ws.send_str(message.data)
            elif message.type is web.WSMsgType.BINARY:
                await ws.send_bytes(message.data)
        return ws

    async def _tcp(self, _: web.Application) -> AsyncIterator[None]:
        servers = [
            await asyncio.start_server(_repeat, sock=sock)
            for port in self._tcp_ports
            for sock in listening(port)
        ]
        yield
        for server in servers:
            server.close()


async def _repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(prog="echo")
    parser.add_argument("--port", type=int, action="append", default=[])
    parser.add_argument("--tcp-port", type=int, action="append", default=[])
    options, _ = parser.parse_known_args(argv)
    ports = options.port or [8080]
    return serve(Echo(env, options.tcp_port).application(), ports)

"""What stands at both ends in test_protocols.py; run inside pods, so that sidecars carry it.

The server speaks gRPC (the reference implementation), a protocol in which the server speaks
first, and on one port both HTTP and raw bytes. Each client is one function and one connection.
"""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import grpc.aio
import h2.connection
import h2.events

GRPC, FIRST, EITHER = 7070, 7071, 7072


class Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Say answers who it is; Shy does so when a call comes again; Talk repeats a stream."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def service(self, details: Any) -> Any:
        match details.method.rpartition("/")[2]:
            case "Talk":
                return grpc.stream_stream_rpc_method_handler(self._talk)
            case "Shy":
                return grpc.unary_unary_rpc_method_handler(self._shy)
        return grpc.unary_unary_rpc_method_handler(self._say)

    async def _say(self, _: bytes, __: Any) -> bytes:
        return os.environ["HOSTNAME"].encode()

    async def _shy(self, request: bytes, context: Any) -> bytes:
        if request not in self._seen:
            self._seen.add(request)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return await self._say(request, context)

    async def _talk(self, requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request


async def serve() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Service(),))
    server.add_insecure_port(f"0.0.0.0:{GRPC}")
    await server.start()
    others = [
        await asyncio.start_server(_speak_first, "0.0.0.0", FIRST),
        await asyncio.start_server(_either, "0.0.0.0", EITHER),
    ]
    await stopping.wait()
    await server.stop(25)
    for other in others:
        other.close()


async def _speak_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"welcome\n")
    writer.write(b"then " + await reader.readline())
    writer.close()


async def _either(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """HTTP is answered with its own head, anything else with itself."""
    line = await reader.readline()
    if not line.startswith(b"GET "):
        writer.write(line)
    else:
        head = line + await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(head), head))
    writer.close()


async def calls(target: str, method: str, count: str) -> None:
    """That many calls on one connection, one after the other: who answered, or the status."""
    found: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary(f"/peer.Peer/{method}")
        for number in range(int(count)):
            try:
                found[(await call(f"{os.getpid()} {number}".encode(), timeout=20)).decode()] += 1
            except grpc.aio.AioRpcError as error:
                found[error.code().name] += 1
    print(json.dumps(found))


async def lines() -> AsyncIterator[bytes]:
    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        yield line


async def talk(target: str) -> None:
    """Lines of the input go and come back on one stream in both directions."""
    async with grpc.aio.insecure_channel(target) as channel:
        async for said in channel.stream_stream("/peer.Peer/Talk")(lines()):
            print(said.decode(), end="", flush=True)


async def websocket(url: str) -> None:
    """Lines of the input go and come back on one WebSocket."""
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        async for line in lines():
            await socket.send_str(line.decode())
            print(await socket.receive_str(timeout=20), end="", flush=True)


async def http2(host: str, port: str, path: str) -> None:
    """One request in HTTP/2 from the first byte: the body."""
    reader, writer = await asyncio.open_connection(host, int(port))
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    asked = {":method": "GET", ":scheme": "http", ":authority": f"{host}:{port}", ":path": path}
    connection.send_headers(1, list(asked.items()), end_stream=True)
    is_over = False
    while not is_over:
        writer.write(connection.data_to_send())
        for event in connection.receive_data(await reader.read(65536)):
            if isinstance(event, h2.events.DataReceived):
                print(event.data.decode(), end="")
            is_over = is_over or isinstance(event, h2.events.StreamEnded | h2.events.StreamReset)
    writer.close()


if __name__ == "__main__":
    program = {f.__name__: f for f in (serve, calls, talk, websocket, http2)}[sys.argv[1]]
    asyncio.run(program(*sys.argv[2:]))

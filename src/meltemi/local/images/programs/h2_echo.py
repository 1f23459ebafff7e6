"""HTTP/2 in clear text, and gRPC on it: sends back what comes, message by message.

Plain requests are answered with what was asked, as JSON. A gRPC call to any method gets each of
its messages back at once, so that unary calls and streams in both directions work without a
schema; the health service says that all is well.
"""

import argparse
import asyncio
import json
import signal
from collections.abc import Mapping, Sequence

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import msgspec

from meltemi.local.images.programs.sockets import listening

_PORT = 7070
_HEALTH = "/grpc.health.v1.Health/"
_SERVING = b"\x00\x00\x00\x00\x02\x08\x01"
"""A message of status SERVING, in gRPC's frame."""
_MOST_BODY = 16 << 20

Headers = Sequence[tuple[str, str]]


class Call(msgspec.Struct):
    """One stream."""

    headers: Headers
    body: bytearray = msgspec.field(default_factory=bytearray)
    is_ended: bool = False
    unsent: bytearray = msgspec.field(default_factory=bytearray)
    trailers: Headers | None = None
    """Sent when all else is; None: more may come."""

    @property
    def path(self) -> str:
        return dict(self.headers).get(":path", "/")

    @property
    def is_grpc(self) -> bool:
        return dict(self.headers).get("content-type", "").startswith("application/grpc")


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, env: Mapping[str, str], open_connections: set["Connection"]) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self._h2 = h2.connection.H2Connection(config=config)
        self._env = env
        self._open = open_connections
        self._calls: dict[int, Call] = {}
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open.add(self)
        self._h2.initiate_connection()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)

    def close(self) -> None:
        """Tell the client that this connection takes no more calls."""
        self._h2.close_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self._flush()
            self._transport.close()
            return
        for event in events:
            self._take(event)
        self._flush()

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._h2.data_to_send())

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=number, headers=headers):
                if number is not None and headers is not None:
                    self._calls[number] = Call([(str(k), str(v)) for k, v in headers])
                    self._begin(number)
            case h2.events.DataReceived(stream_id=number, data=data):
                self._h2.acknowledge_received_data(event.flow_controlled_length, number)
                if number in self._calls:
                    self._more(number, data)
            case h2.events.StreamEnded(stream_id=number):
                if number in self._calls:
                    self._end(number)
            case h2.events.StreamReset(stream_id=number):
                self._calls.pop(number, None)
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                for number in tuple(self._calls):
                    self._send(number)

    def _begin(self, number: int) -> None:
        call = self._calls[number]
        if call.is_grpc:
            self._h2.send_headers(
                number, [(":status", "200"), ("content-type", "application/grpc")]
            )

    def _more(self, number: int, data: bytes) -> None:
        call = self._calls[number]
        if call.is_grpc and not call.path.startswith(_HEALTH):
            call.unsent += data
            self._send(number)
        elif len(call.body) + len(data) <= _MOST_BODY:
            call.body += data

    def _end(self, number: int) -> None:
        call = self._calls[number]
        call.is_ended = True
        if call.is_grpc:
            watches = call.path == f"{_HEALTH}Watch"
            if call.path.startswith(_HEALTH):
                call.unsent += _SERVING
            call.trailers = None if watches else [("grpc-status", "0")]
        else:
            call.unsent += self._answer(call)
            headers = [(":status", "200"), ("content-type", "application/json")]
            self._h2.send_headers(number, [*headers, ("content-length", str(len(call.unsent)))])
            call.trailers = []
        self._send(number)

    def _answer(self, call: Call) -> bytes:
        headers = dict(call.headers)
        answer = {
            "hostname": self._env.get("HOSTNAME", ""),
            "version": self._env.get("SERVICE_VERSION", ""),
            "protocol": "HTTP/2",
            "method": headers.get(":method", ""),
            "path": call.path,
            "headers": {name: value for name, value in headers.items() if name[:1] != ":"},
            "body": call.body.decode(errors="replace"),
        }
        return json.dumps(answer, indent=1).encode() + b"\n"

    def _send(self, number: int) -> None:
        """Send what the client's windows have room for."""
        call = self._calls[number]
        while call.unsent:
            room = self._h2.local_flow_control_window(number)
            size = min(room, self._h2.max_outbound_frame_size, len(call.unsent))
            if size <= 0:
                return
            self._h2.send_data(number, bytes(call.unsent[:size]))
            del call.unsent[:size]
        if call.trailers is None:
            return
        if call.trailers:
            self._h2.send_headers(number, call.trailers, end_stream=True)
        else:
            self._h2.end_stream(number)
        del self._calls[number]


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(prog="h2-echo")
    parser.add_argument("--port", type=int, action="append", default=[])
    options, _ = parser.parse_known_args(argv)
    asyncio.run(_serve(options.port or [_PORT], env))
    return 0


async def _serve(ports: Sequence[int], env: Mapping[str, str]) -> None:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopping.set)
    connections: set[Connection] = set()
    servers = [
        await loop.create_server(lambda: Connection(env, connections), sock=sock)
        for port in ports
        for sock in listening(port)
    ]
    print(f"HTTP/2 and gRPC on {', '.join(map(str, ports))}", flush=True)
    await stopping.wait()
    for server in servers:
        server.close()
    for connection in tuple(connections):
        connection.close()

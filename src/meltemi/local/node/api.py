"""The node's own API on its unix socket: logs, exec, port-forward, statistics.

Only the API server calls it; it has authenticated and authorised the caller.
"""

import asyncio
import contextlib
import datetime
import fcntl
import json
import os
import pty
import signal
import struct
import termios
from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import WSMsgType, web

from meltemi.local.memory import descendants, pss_mib
from meltemi.local.node.container import Runner
from meltemi.local.node.errors import NodeError
from meltemi.local.node.logs import LogQuery, PipeReader, read
from meltemi.local.node.machine import Machine
from meltemi.local.node.network import dial
from meltemi.local.node.pod import Worker
from meltemi.local.node.process import Exited

_STDIN, _STDOUT, _STDERR, _ERROR, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255
_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")

_MOST_FRAMES = 256

FindPod = Callable[[str, str], Worker | None]


class Api:
    """Routes over the pods of the node."""

    def __init__(
        self, machine: Machine, find: FindPod, pods: Callable[[], Iterable[Worker]]
    ) -> None:
        self._machine = machine
        self._find = find
        self._pods = pods

    def application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/logs/{namespace}/{pod}/{container}", self._logs),
                web.get("/exec/{namespace}/{pod}/{container}", self._exec),
                web.get("/portforward/{namespace}/{pod}/{port}", self._forward),
                web.get("/stats/summary", self._summary),
            ]
        )
        return app

    def _worker(self, request: web.Request) -> Worker:
        namespace, pod = request.match_info["namespace"], request.match_info["pod"]
        worker = self._find(namespace, pod)
        if worker is None:
            raise web.HTTPNotFound(text=f"pod {pod} does not run on this node")
        return worker

    def _runner(self, request: web.Request) -> Runner:
        name = request.match_info["container"]
        runner = self._worker(request).runners.get(name)
        if runner is None:
            raise web.HTTPNotFound(text=f"container {name} is not valid for this pod")
        return runner

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        runner = self._runner(request)
        query = _log_query(request)
        previous = request.query.get("previous") == "true"
        if previous and not runner.state.restarts:
            raise web.HTTPBadRequest(
                text=f"previous terminated container {runner.container.name} not found"
            )
        path = runner.log_path(previous=previous)
        live = None if previous else runner.log
        if not path.exists():
            raise web.HTTPBadRequest(text=f"container {runner.container.name} is waiting to start")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        async for block in read(path, query, live):
            await response.write(block)
        return response

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        worker = self._worker(request)
        try:
            number = int(request.match_info["port"])
            reader, writer = await dial(worker.network_path, number)
        except (ValueError, OSError) as error:
            raise web.HTTPBadGateway(text=f"port {request.match_info['port']}: {error}") from error
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        back = asyncio.create_task(_to_socket(reader, socket), name="port-forward back")
        try:
            async for message in socket:
                if message.type is WSMsgType.BINARY:
                    writer.write(message.data)
                    await writer.drain()
                elif message.type is WSMsgType.TEXT and writer.can_write_eof():
                    writer.write_eof()
        except ConnectionError:
            pass
        finally:
            back.cancel()
            writer.close()
        return socket

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        runner = self._runner(request)
        command = tuple(request.query.getall("command", []))
        if not command:
            raise web.HTTPBadRequest(text="exec: command is missing")
        socket = web.WebSocketResponse(protocols=_PROTOCOLS, max_msg_size=0)
        await socket.prepare(request)
        session = _Exec(
            self._machine,
            runner,
            socket,
            wants_stdin=request.query.get("stdin") in ("true", "1"),
            wants_tty=request.query.get("tty") in ("true", "1"),
        )
        await session.run(command)
        return socket

    async def _summary(self, _: web.Request) -> web.StreamResponse:
        pods = [
            {
                "namespace": worker.key.namespace,
                "name": worker.key.name,
                "containers": [
                    usage for runner in worker.runners.values() if (usage := _usage(runner))
                ],
            }
            for worker in self._pods()
        ]
        return web.json_response({"pods": pods})


def _usage(runner: Runner) -> dict[str, Any] | None:
    pid = runner.pid
    if not pid:
        return None
    pids = descendants(pid)
    ticks = 0
    for number in pids:
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/{number}/stat", encoding="ascii") as file:
                fields = file.read().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return {
        "name": runner.container.name,
        "pssBytes": int(pss_mib(pids) * (1 << 20)),
        "cpuSeconds": ticks / os.sysconf("SC_CLK_TCK"),
    }


def _log_query(request: web.Request) -> LogQuery:
    """Raises HTTPBadRequest."""
    query = request.query
    try:
        seconds = query.get("sinceSeconds")
        since = (
            datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=int(seconds))
            if seconds
            else None
        )
        return LogQuery(
            follow=query.get("follow") == "true",
            timestamps=query.get("timestamps") == "true",
            tail=int(query["tailLines"]) if "tailLines" in query else None,
            since=since,
            limit=int(query["limitBytes"]) if "limitBytes" in query else None,
        )
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"log options: {error}") from error


async def _to_socket(reader: asyncio.StreamReader, socket: web.WebSocketResponse) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            await socket.send_bytes(data)
    await socket.close()


class _Exec:
    """One command in a container, its streams carried by `v5.channel.k8s.io` frames."""

    def __init__(
        self,
        machine: Machine,
        runner: Runner,
        socket: web.WebSocketResponse,
        *,
        wants_stdin: bool,
        wants_tty: bool,
    ) -> None:
        self._machine = machine
        self._runner = runner
        self._socket = socket
        self._wants_stdin = wants_stdin
        self._wants_tty = wants_tty
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        """Bounded by pausing the readers that fill it."""
        self._readers: list[PipeReader] = []
        self._stdin = -1

    async def run(self, command: tuple[str, ...]) -> None:
        stdio, readers = self._streams()
        self._readers = readers
        try:
            start = self._runner.joined(command, tty=self._wants_tty)
            process = await self._machine.spawner.start(start, stdio)
        except NodeError as error:
            for reader in readers:
                reader.close()
            await self._end(f"error executing command: {error}", 126)
            return
        finally:
            for fd in set(stdio):
                os.close(fd)
        sender = asyncio.create_task(self._send(), name="exec output")
        taker = asyncio.create_task(self._take(), name="exec input")
        taker.add_done_callback(lambda _: process.kill(signal.SIGHUP))
        try:
            ended: Exited = await process.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await asyncio.gather(*(reader.ended.wait() for reader in readers))
            await self._queue.put(b"")
            await sender
            await self._end("", ended.code)
        finally:
            process.kill(signal.SIGKILL)
            sender.cancel()
            taker.cancel()
            for reader in readers:
                reader.close()
            if self._stdin >= 0 and not self._wants_tty:
                os.close(self._stdin)

    def _streams(self) -> tuple[tuple[int, int, int], list[PipeReader]]:
        if self._wants_tty:
            ours, theirs = pty.openpty()
            self._stdin = ours
            return (theirs, theirs, theirs), [PipeReader(ours, self._put(_STDOUT))]
        if self._wants_stdin:
            stdin, self._stdin = os.pipe2(os.O_CLOEXEC)
        else:
            stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        readers = [
            PipeReader(out_read, self._put(_STDOUT)),
            PipeReader(err_read, self._put(_STDERR)),
        ]
        return (stdin, out_write, err_write), readers

    def _put(self, channel: int) -> Callable[[bytes], None]:
        def put(data: bytes) -> None:
            self._queue.put_nowait(bytes([channel]) + data)
            if self._queue.qsize() >= _MOST_FRAMES:
                for reader in self._readers:
                    reader.pause()

        return put

    async def _send(self) -> None:
        while frame := await self._queue.get():
            with contextlib.suppress(ConnectionError):
                await self._socket.send_bytes(frame)
            if self._queue.qsize() < _MOST_FRAMES:
                for reader in self._readers:
                    reader.resume()

    async def _take(self) -> None:
        """Input, sizes and the end of input from the client, until it goes away."""
        async for message in self._socket:
            if message.type is not WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel == _STDIN and data and self._stdin >= 0:
                await asyncio.to_thread(_write_all, self._stdin, data)
            elif channel == _RESIZE and self._wants_tty:
                self._resize(data)
            elif channel == _CLOSE and data[:1] == bytes([_STDIN]) and not self._wants_tty:
                os.close(self._stdin)
                self._stdin = -1

    def _resize(self, data: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, OSError):
            size = json.loads(data)
            packed = struct.pack("HHHH", size["Height"], size["Width"], 0, 0)
            fcntl.ioctl(self._stdin, termios.TIOCSWINSZ, packed)

    async def _end(self, failure: str, code: int) -> None:
        status: dict[str, Any] = {"metadata": {}, "status": "Success"}
        if code:
            status = {
                "metadata": {},
                "status": "Failure",
                "message": failure
                or f"command terminated with non-zero exit code: exit code {code}",
                "reason": "NonZeroExitCode" if not failure else "InternalError",
                "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
            }
        with contextlib.suppress(ConnectionError):
            await self._socket.send_bytes(bytes([_ERROR]) + json.dumps(status).encode())
        await self._socket.close()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    with contextlib.suppress(OSError):
        while view:
            view = view[os.write(fd, view) :]

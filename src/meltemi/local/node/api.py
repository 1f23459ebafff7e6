"""The node's own API on its unix socket: logs, exec, attach, port-forward, statistics.

Only the API server calls it; it has authenticated and authorised the caller.
"""

import asyncio
import contextlib
import datetime
import socket
import struct
from collections.abc import Callable, Iterable
from typing import NoReturn

import msgspec
from aiohttp import WSMsgType, web

from meltemi.local.node.container import Runner
from meltemi.local.node.logs import LogQuery, read
from meltemi.local.node.machine import Machine
from meltemi.local.node.members import Member, Members
from meltemi.local.node.network import dial
from meltemi.local.node.pod import Worker
from meltemi.local.node.stats import Stats
from meltemi.local.node.streams import PROTOCOLS, Execution, Wishes, attach

_SAMPLE_EVERY = 15.0

FindPod = Callable[[str, str], Worker | None]


class Api:
    """Routes over the pods of the node."""

    def __init__(
        self,
        machine: Machine,
        find: FindPod,
        pods: Callable[[], Iterable[Worker]],
        members: Members,
    ) -> None:
        self._machine = machine
        self._members = members
        self._find = find
        self._pods = pods
        self._stats = Stats(machine)

    def application(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/logs/{namespace}/{pod}/{container}", self._logs),
                web.get("/exec/{namespace}/{pod}/{container}", self._exec),
                web.get("/attach/{namespace}/{pod}/{container}", self._attach),
                web.get("/portforward/{namespace}/{pod}/{port}", self._forward),
                web.get("/stats/summary", self._summary),
                web.post("/images/reload", self._reload_images),
                web.post("/workloads", self._workload),
            ]
        )
        return app

    async def measure(self) -> NoReturn:
        """Sample the use of CPU for ever, so that rates are there when they are asked for."""
        while True:
            await asyncio.sleep(_SAMPLE_EVERY)
            await asyncio.to_thread(self._stats.sample, self._pods())

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
        name = runner.container.name
        path = runner.log_path(previous=previous)
        live = runner.stdio.log if runner.stdio is not None and not previous else None
        if not path.exists():
            reason = getattr(runner.state.state, "reason", "it has written nothing")
            raise web.HTTPBadRequest(
                text=f"previous terminated container {name} not found"
                if previous
                else f"container {name} is waiting to start: {reason}"
            )
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        async for block in read(path, query, live):
            await response.write(block)
        return response

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        worker = self._worker(request)
        if not worker.has_network:
            raise web.HTTPBadRequest(text=f"pod {worker.key.name} is not running")
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
        socket = web.WebSocketResponse(protocols=PROTOCOLS, max_msg_size=0)
        await socket.prepare(request)
        await Execution(self._machine, runner, socket, Wishes(request.query)).run(command)
        return socket

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        runner = self._runner(request)
        socket = web.WebSocketResponse(protocols=PROTOCOLS, max_msg_size=0)
        await socket.prepare(request)
        await attach(runner, socket, Wishes(request.query))
        return socket

    async def _summary(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(await asyncio.to_thread(self._stats.summary, self._pods()))

    async def _reload_images(self, _: web.Request) -> web.StreamResponse:
        self._machine.images.reload()
        return web.Response()

    async def _workload(self, request: web.Request) -> web.StreamResponse:
        """A workload says that it is there; who it is, the kernel says."""
        assert request.transport is not None
        peer = request.transport.get_extra_info("socket")
        pid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        try:
            self._members.take(msgspec.json.decode(await request.read(), type=Member), pid)
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        return web.Response()


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

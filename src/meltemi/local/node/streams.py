"""exec and attach: a command's or a container's streams in `v5.channel.k8s.io` frames.

The first byte of a frame is its channel: input, output, errors, the final status, a terminal's
size, or (255) the end of a channel.
"""

import asyncio
import contextlib
import json
import os
import pty
import signal
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import WSMsgType, web

from meltemi.local.node.container import Runner
from meltemi.local.node.errors import NodeError
from meltemi.local.node.logs import PipeReader
from meltemi.local.node.machine import Machine
from meltemi.local.node.process import Exited
from meltemi.local.node.stdio import Stdio, resize, write_all

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN, _STDOUT, _STDERR, _ERROR, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255
_MOST_FRAMES = 256
_DRAIN = 1.0
_ANSWER = 1.0
"""Seconds in which a container may still answer a client that has said all."""
_YES = ("true", "1")


class Wishes:
    """Which streams a client wants; output and errors unless it says no."""

    def __init__(self, query: Mapping[str, str]) -> None:
        self.stdin = query.get("stdin") in _YES
        self.tty = query.get("tty") in _YES
        outputs = (("stdout", _STDOUT), ("stderr", _STDERR))
        self.outputs = {channel for name, channel in outputs if query.get(name, "true") in _YES}


class _Frames:
    """Output on its way to a client; who writes faster than it reads has to wait."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        wishes: Wishes,
        pause: Callable[[], None],
        resume: Callable[[], None],
    ) -> None:
        self._socket = socket
        self._wanted = wishes.outputs
        self._pause = pause
        self._resume = resume
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        """Bounded by pausing those who fill it."""

    def put(self, channel: int, data: bytes) -> None:
        if channel not in self._wanted:
            return
        self._queue.put_nowait(bytes([channel]) + data)
        if self._queue.qsize() >= _MOST_FRAMES:
            self._pause()

    async def send(self) -> None:
        """Send until `end`."""
        while frame := await self._queue.get():
            with contextlib.suppress(ConnectionError):
                await self._socket.send_bytes(frame)
            if self._queue.qsize() < _MOST_FRAMES:
                self._resume()

    def end(self) -> None:
        self._queue.put_nowait(b"")


class _Input:
    """What a client sends."""

    def __init__(
        self,
        write: Callable[[bytes], Any],
        end: Callable[[], None],
        resized: Callable[[int, int], None],
    ) -> None:
        self._write = write
        self._end = end
        self._resized = resized

    async def take(self, socket: web.WebSocketResponse) -> None:
        """Input, sizes and the end of input, until the client goes away."""
        async for message in socket:
            if message.type is not WSMsgType.BINARY or not message.data:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel == _STDIN and data:
                await self._write(data)
            elif channel == _RESIZE:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    size = json.loads(data)
                    self._resized(int(size["Height"]), int(size["Width"]))
            elif channel == _CLOSE and data[:1] == bytes([_STDIN]):
                self._end()


async def attach(runner: Runner, socket: web.WebSocketResponse, wishes: Wishes) -> None:
    """Share the streams of a container's present run until it ends or the client leaves."""
    stdio = runner.stdio
    if stdio is None or stdio.log.is_closed:
        await finish(socket, f"container {runner.container.name} is not running", 1)
        return
    frames = _Frames(socket, wishes, stdio.pause, stdio.resume)
    stdio.attach(frames.put)
    left = asyncio.Event()
    taking = _attached_input(stdio, wishes, left).take(socket)
    tasks = {
        name: asyncio.create_task(work, name=f"attach {name}")
        for name, work in (
            ("output", frames.send()),
            ("input", taking),
            ("end of input", left.wait()),
            ("container", stdio.closed.wait()),
        )
    }
    try:
        others = [task for name, task in tasks.items() if name != "output"]
        await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        if not tasks["input"].done():
            await asyncio.wait([tasks["container"]], timeout=_ANSWER)
            frames.end()
            await tasks["output"]
            await finish(socket, "", 0)
    finally:
        for task in tasks.values():
            task.cancel()
        stdio.detach(frames.put)


def _attached_input(stdio: Stdio, wishes: Wishes, left: asyncio.Event) -> _Input:
    """The end of a client's input is the container's only with `stdinOnce`; else it is `left`."""

    async def write(data: bytes) -> None:
        if wishes.stdin:
            await stdio.write(data)

    def end() -> None:
        if wishes.stdin and stdio.closes_once and not stdio.is_terminal:
            stdio.close_input()
        elif wishes.stdin:
            left.set()

    return _Input(write, end, stdio.resize)


class Execution:
    """One command in a container."""

    def __init__(
        self, machine: Machine, runner: Runner, socket: web.WebSocketResponse, wishes: Wishes
    ) -> None:
        self._machine = machine
        self._runner = runner
        self._socket = socket
        self._wishes = wishes
        self._readers: list[PipeReader] = []
        self._stdin = -1
        self._frames = _Frames(socket, wishes, self._pause, self._resume)

    async def run(self, command: tuple[str, ...]) -> None:
        stdio = self._streams()
        try:
            start = self._runner.joined(command, tty=self._wishes.tty)
            process = await self._machine.spawner.start(start, stdio)
        except NodeError as error:
            self._close()
            await finish(self._socket, f"error executing command: {error}", 126)
            return
        finally:
            for fd in set(stdio):
                os.close(fd)
        sender = asyncio.create_task(self._frames.send(), name="exec output")
        taker = asyncio.create_task(
            _Input(self._write, self._end_input, self._resize).take(self._socket), name="exec input"
        )
        taker.add_done_callback(lambda _: process.kill(signal.SIGHUP))
        try:
            ended: Exited = await process.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN):
                    await asyncio.gather(*(reader.ended.wait() for reader in self._readers))
            self._frames.end()
            await sender
            await finish(self._socket, "", ended.code)
        finally:
            process.kill(signal.SIGKILL)
            sender.cancel()
            taker.cancel()
            self._close()

    def _pause(self) -> None:
        for reader in self._readers:
            reader.pause()

    def _resume(self) -> None:
        for reader in self._readers:
            reader.resume()

    def _streams(self) -> tuple[int, int, int]:
        """The command's ends."""
        if self._wishes.tty:
            self._stdin, theirs = pty.openpty()
            self._read(os.dup(self._stdin), _STDOUT)
            return theirs, theirs, theirs
        if self._wishes.stdin:
            stdin, self._stdin = os.pipe2(os.O_CLOEXEC)
        else:
            stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        self._read(out_read, _STDOUT)
        self._read(err_read, _STDERR)
        return stdin, out_write, err_write

    def _read(self, fd: int, channel: int) -> None:
        self._readers.append(PipeReader(fd, lambda data: self._frames.put(channel, data)))

    async def _write(self, data: bytes) -> None:
        if self._stdin >= 0:
            await asyncio.to_thread(write_all, self._stdin, data)

    def _end_input(self) -> None:
        if self._stdin >= 0 and not self._wishes.tty:
            os.close(self._stdin)
            self._stdin = -1

    def _resize(self, height: int, width: int) -> None:
        if self._wishes.tty and self._stdin >= 0:
            resize(self._stdin, height, width)

    def _close(self) -> None:
        for reader in self._readers:
            reader.close()
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1


async def finish(socket: web.WebSocketResponse, failure: str, code: int) -> None:
    """Send the final status, as kubectl reads an exit code from it, and close."""
    status: dict[str, Any] = {"metadata": {}, "status": "Success"}
    if code:
        status = {
            "metadata": {},
            "status": "Failure",
            "message": failure or f"command terminated with non-zero exit code: exit code {code}",
            "reason": "InternalError" if failure else "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
        }
    with contextlib.suppress(ConnectionError):
        await socket.send_bytes(bytes([_ERROR]) + json.dumps(status).encode())
    await socket.close()

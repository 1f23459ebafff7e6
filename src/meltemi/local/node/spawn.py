"""Starting processes: the node's end of the zygote's socket."""

import asyncio
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec

from meltemi.local.node.errors import NotStarted
from meltemi.local.node.process import (
    Exited,
    Kill,
    Mounted,
    Report,
    Request,
    Start,
    Started,
    Tmpfs,
)

_LARGEST = 4 << 20


class Process:
    """One started process."""

    def __init__(self, spawner: "Spawner", number: int) -> None:
        self._spawner = spawner
        self.number = number
        self.pid = 0
        self.exit: asyncio.Future[Exited] = asyncio.get_running_loop().create_future()
        """Done when the process has ended; never cancelled by those who wait."""

    def kill(self, number: int) -> None:
        """Send a signal; nothing happens to one that has ended."""
        if not self.exit.done():
            self._spawner.send(Kill(self.number, number))

    async def wait(self) -> Exited:
        return await asyncio.shield(self.exit)


class Spawner:
    """Starts the zygote, and processes by it. Use as an async context manager."""

    def __init__(self) -> None:
        self._processes: dict[int, Process] = {}
        self._mounts: dict[int, asyncio.Future[Mounted]] = {}
        self._next = 1
        self._decoder: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self._channel: socket.socket | None = None
        self._zygote: asyncio.subprocess.Process | None = None
        self.gone = asyncio.Event()
        """Set when the zygote ended: the node must end too, its containers have."""

    async def __aenter__(self) -> Self:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST)
        ours.setblocking(False)
        self._zygote = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "meltemi.local.node.zygote", str(theirs.fileno())),
            pass_fds=(theirs.fileno(),),
            stdin=asyncio.subprocess.DEVNULL,
        )
        theirs.close()
        self._channel = ours
        asyncio.get_running_loop().add_reader(ours, self._readable)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._channel is not None
        assert self._zygote is not None
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()
        await self._zygote.wait()

    async def start(self, wanted: Start, stdio: Sequence[int]) -> Process:
        """Start a process on three descriptors (the caller keeps its own copies).

        Returns when its program runs. Raises NotStarted with the reason when it cannot.
        """
        read, write = os.pipe2(os.O_CLOEXEC)
        process = Process(self, self._next)
        self._next += 1
        self._processes[process.number] = process
        fds = [os.dup(fd) for fd in stdio]
        self.send(msgspec.structs.replace(wanted, id=process.number), [*fds, write])
        failure = await _read_all(read)
        if failure:
            await process.wait()
            raise NotStarted(failure.decode(errors="replace"))
        return process

    async def tmpfs(self, path: str, options: str) -> None:
        """Mount memory on a directory, as all containers to come see it; no options end that.

        Raises OSError.
        """
        number = self._next
        self._next += 1
        answer: asyncio.Future[Mounted] = asyncio.get_running_loop().create_future()
        self._mounts[number] = answer
        self.send(Tmpfs(number, path, options))
        failure = (await answer).failure
        if failure:
            raise OSError(failure)

    def send(self, request: Request, fds: Sequence[int] = ()) -> None:
        """Queue a request; its descriptors are closed once they are sent."""
        self._waiting.append((msgspec.msgpack.encode(request), list(fds)))
        self._flush()

    def _flush(self) -> None:
        if self._channel is None or self._channel.fileno() < 0:
            return
        loop = asyncio.get_running_loop()
        while self._waiting:
            data, fds = self._waiting[0]
            try:
                socket.send_fds(self._channel, [data], fds)
            except BlockingIOError:
                loop.add_writer(self._channel, self._flush)
                return
            except (BrokenPipeError, ConnectionResetError):
                self._lost()
                return
            self._waiting.popleft()
            for fd in fds:
                os.close(fd)
        loop.remove_writer(self._channel)

    def _readable(self) -> None:
        assert self._channel is not None
        while True:
            try:
                data = self._channel.recv(65536)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            if not data:
                self._lost()
                return
            self._take(self._decoder.decode(data))

    def _take(self, report: Report) -> None:
        match report:
            case Started(id=number, pid=pid):
                if number in self._processes:
                    self._processes[number].pid = pid
            case Exited(id=number):
                process = self._processes.pop(number, None)
                if process is not None and not process.exit.done():
                    process.exit.set_result(report)
            case Mounted(id=number):
                answer = self._mounts.pop(number, None)
                if answer is not None and not answer.done():
                    answer.set_result(report)

    def _lost(self) -> None:
        """The zygote is gone, and every container with it."""
        assert self._channel is not None
        asyncio.get_running_loop().remove_reader(self._channel)
        asyncio.get_running_loop().remove_writer(self._channel)
        for process in self._processes.values():
            if not process.exit.done():
                process.exit.set_result(Exited(process.number, 137, signal.SIGKILL))
        self._processes.clear()
        for number, answer in self._mounts.items():
            if not answer.done():
                answer.set_result(Mounted(number, "the process that starts containers ended"))
        self._mounts.clear()
        for _, fds in self._waiting:
            for fd in fds:
                os.close(fd)
        self._waiting.clear()
        self.gone.set()


async def _read_all(fd: int) -> bytes:
    """Read a pipe to its end without blocking the loop."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    pipe = os.fdopen(fd, "rb", 0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        return await reader.read()
    finally:
        transport.close()

"""A container's standard streams: kept in its log, shared with those who attach."""

import asyncio
import contextlib
import fcntl
import os
import pty
import struct
import termios
from collections.abc import Callable
from pathlib import Path

from meltemi.base.clock import Clock
from meltemi.local.node.logs import Log, PipeReader
from meltemi.local.node.podspec import Container
from meltemi.local.node.spawn import Process

_DRAIN = 1.0
"""Seconds in which what an ended container has written must come out of its pipe."""

OUT, ERR = 1, 2
"""The streams a container writes to, by their descriptors; a terminal has only the first."""

Take = Callable[[int, bytes], None]
"""Takes what came on a stream."""


class Stdio:
    """The streams of one run of a container.

    Output and errors have a pipe each; the log takes them as they come, as container runtimes do.
    """

    def __init__(self, container: Container, path: Path, clock: Clock) -> None:
        self.log = Log(path, clock)
        self.is_terminal = container.tty
        self.closes_once = container.stdin_once
        """The first client's end of input is the container's."""
        self._listeners: list[Take] = []
        self.closed = asyncio.Event()
        """Set when the run has ended and everything it wrote was taken."""
        self.given: tuple[int, int, int]
        """The container's ends; `release` closes them here once it has its own."""
        self._stdin = -1
        if container.tty:
            self._stdin, inside = pty.openpty()
            self.given = (inside, inside, inside)
            self._readers = [self._reader(os.dup(self._stdin), OUT)]
        else:
            out_read, out_write = os.pipe2(os.O_CLOEXEC)
            err_read, err_write = os.pipe2(os.O_CLOEXEC)
            if container.stdin:
                read, self._stdin = os.pipe2(os.O_CLOEXEC)
            else:
                read = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            self.given = (read, out_write, err_write)
            self._readers = [self._reader(out_read, OUT), self._reader(err_read, ERR)]

    def _reader(self, fd: int, stream: int) -> PipeReader:
        return PipeReader(fd, lambda data: self._take(stream, data))

    def release(self) -> None:
        """Close the container's ends."""
        for fd in set(self.given):
            os.close(fd)

    def abandon(self) -> None:
        """Nothing was started on these streams."""
        for reader in self._readers:
            reader.close()
        self.close_input()
        self.log.close()
        self.closed.set()

    async def finish(self, process: Process) -> None:
        """Return when the process has ended, after what it wrote last is in the log."""
        await process.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN):
                for reader in self._readers:
                    await reader.ended.wait()
        self.abandon()

    def _take(self, stream: int, data: bytes) -> None:
        self.log.feed(data, stream)
        for listener in tuple(self._listeners):
            listener(stream, data)

    @property
    def takes_input(self) -> bool:
        return self._stdin >= 0

    def attach(self, take: Take) -> None:
        """Pass what comes from now on to `take`, too."""
        self._listeners.append(take)

    def detach(self, take: Take) -> None:
        self._listeners.remove(take)
        self.resume()
        if self.closes_once:
            self.close_input()

    def pause(self) -> None:
        """Somebody attached is slow: let the container wait."""
        for reader in self._readers:
            reader.pause()

    def resume(self) -> None:
        for reader in self._readers:
            reader.resume()

    async def write(self, data: bytes) -> None:
        """Give bytes to the container's input; they are lost when it takes none."""
        if self._stdin >= 0:
            await asyncio.to_thread(write_all, self._stdin, data)

    def close_input(self) -> None:
        """The end of input. A terminal has none: its user types it."""
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    def resize(self, height: int, width: int) -> None:
        if self.is_terminal and self._stdin >= 0:
            resize(self._stdin, height, width)


def resize(fd: int, height: int, width: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def write_all(fd: int, data: bytes) -> None:
    """Write to a pipe that may be full, or closed at its other end."""
    view = memoryview(data)
    with contextlib.suppress(OSError):
        while view:
            view = view[os.write(fd, view) :]

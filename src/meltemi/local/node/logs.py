"""Container logs: lines with their time, rotated, followed by any number of readers."""

import asyncio
import contextlib
import datetime
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from meltemi.base.clock import Clock

_ROTATE_AT = 10 << 20
_KEPT = 3
_LONGEST_LINE = 16384
_TAIL_BLOCK = 65536


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `kubectl logs`."""

    follow: bool = False
    timestamps: bool = False
    tail: int | None = None
    since: datetime.datetime | None = None
    limit: int | None = None
    """Bytes."""


class Log:
    """One run of a container: the lines of its streams go to a file, each after its time."""

    def __init__(self, path: Path, clock: Clock) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._clock = clock
        self._file = path.open("ab", buffering=0)
        self._partial: dict[int, bytes] = {}
        """By stream, what came after its last line."""
        self._grown = asyncio.Event()
        self.is_closed = False
        self.rotations = 0

    def feed(self, data: bytes, stream: int = 1) -> None:
        """Take bytes as they come from the container; lines of two streams never mix."""
        lines = (self._partial.get(stream, b"") + data).split(b"\n")
        rest = lines.pop()
        if len(rest) > _LONGEST_LINE:
            lines.append(rest)
            rest = b""
        self._partial[stream] = rest
        if lines:
            stamp = self._stamp()
            self._write(b"".join(stamp + line + b"\n" for line in lines))

    def close(self) -> None:
        """The container has ended: what is left of a line is written, readers stop."""
        if self.is_closed:
            return
        for rest in filter(None, self._partial.values()):
            self._write(self._stamp() + rest + b"\n")
        self._partial.clear()
        self.is_closed = True
        self._file.close()
        self._notify()

    def _stamp(self) -> bytes:
        return f"{self._clock.now():%Y-%m-%dT%H:%M:%S.%f}000Z ".encode()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        if self._file.tell() > _ROTATE_AT:
            self._rotate()
        self._notify()

    def _notify(self) -> None:
        done, self._grown = self._grown, asyncio.Event()
        done.set()

    def _rotate(self) -> None:
        self._file.close()
        for number in range(_KEPT, 0, -1):
            older = self.path.with_suffix(f".log.{number}")
            if older.exists():
                older.replace(self.path.with_suffix(f".log.{number + 1}"))
        self.path.with_suffix(f".log.{_KEPT + 1}").unlink(missing_ok=True)
        self.path.replace(self.path.with_suffix(".log.1"))
        self._file = self.path.open("ab", buffering=0)
        self.rotations += 1

    def next_growth(self) -> asyncio.Event:
        """Set at the next write; take it before reading, wait on it after."""
        return self._grown


async def read(path: Path, query: LogQuery, live: Log | None) -> AsyncIterator[bytes]:
    """The wanted lines; with `follow` and a live log, also those to come, over rotations.

    Yields blocks of whole lines. Raises FileNotFoundError when there is no log.
    """
    left = query.limit
    file = path.open("rb")
    try:
        rotations = live.rotations if live is not None else 0
        os.lseek(file.fileno(), _start(file.fileno(), query.tail), os.SEEK_SET)
        pending = b""
        while True:
            waits = live is not None and not live.is_closed and query.follow
            grown = live.next_growth() if live is not None and waits else None
            data = file.read(1 << 20)
            if data:
                lines = (pending + data).split(b"\n")
                pending = lines.pop()
                block = _shown(lines, query)
                if left is not None:
                    block, left = block[:left], left - len(block[:left])
                if block:
                    yield block
                if left == 0:
                    return
            elif live is not None and live.rotations != rotations:
                rotations = live.rotations
                file.close()
                file = path.open("rb")
            elif grown is None:
                return
            else:
                await grown.wait()
    finally:
        file.close()


def tail(path: Path, *, lines: int, most: int) -> str:
    """The last lines of a log, without their times, at most so many bytes."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        os.lseek(file.fileno(), _start(file.fileno(), lines), os.SEEK_SET)
        kept = b"".join(_without_time(line) for line in file.readlines())
        return kept[-most:].decode(errors="replace")
    return ""


def _shown(lines: list[bytes], query: LogQuery) -> bytes:
    since = f"{query.since:%Y-%m-%dT%H:%M:%S.%f}".encode() if query.since else b""
    cut = _without_time if not query.timestamps else _as_is
    return b"".join(cut(line) + b"\n" for line in lines if line[:26] >= since)


def _without_time(line: bytes) -> bytes:
    return line.partition(b" ")[2]


def _as_is(line: bytes) -> bytes:
    return line


def _start(fd: int, tail: int | None) -> int:
    """Where the last `tail` lines begin."""
    if tail is None:
        return 0
    end = position = os.lseek(fd, 0, os.SEEK_END)
    if tail <= 0:
        return end
    seen = 0
    while position > 0:
        size = min(_TAIL_BLOCK, position)
        position -= size
        block = os.pread(fd, size, position)
        for match in reversed(list(re.finditer(b"\n", block))):
            place = position + match.end()
            if place == end:
                continue
            seen += 1
            if seen == tail:
                return place
    return 0


class PipeReader:
    """Reads a pipe into a function as data comes, until its end."""

    def __init__(self, fd: int, take: Callable[[bytes], None]) -> None:
        self._fd = fd
        self._take = take
        self.ended = asyncio.Event()
        os.set_blocking(fd, False)
        self.resume()

    def pause(self) -> None:
        """Leave data in the pipe, so that who writes there waits."""
        asyncio.get_running_loop().remove_reader(self._fd)

    def resume(self) -> None:
        if not self.ended.is_set():
            asyncio.get_running_loop().add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(data)
        else:
            self.close()

    def close(self) -> None:
        if not self.ended.is_set():
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self.ended.set()

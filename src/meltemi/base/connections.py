"""Open connections: accepted, remembered, carried on to another, ended with their server."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Literal

log = logging.getLogger(__name__)

CHUNK = 64 * 1024

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Serves one connection to its end; what the network does to it may be raised."""


class Connections:
    """What one server has accepted. `accept` is what asyncio's servers call."""

    def __init__(self, serve: Serve, *, name: str, most: int | None = None) -> None:
        """`name` is for the log; beyond `most` connections at once others are refused."""
        self._serve = serve
        self._name = name
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._most is not None and len(self._tasks) > self._most:
                log.warning("%s: refused a connection: %d are open", self._name, self._most)
                writer.transport.abort()
            else:
                await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError) as error:
            log.info("%s: a connection ended: %s", self._name, str(error) or type(error).__name__)
            writer.transport.abort()
        except asyncio.CancelledError:
            # Nothing comes after us in this task, and asyncio's servers take it for a failure.
            writer.transport.abort()
        finally:
            writer.close()
            self._tasks.discard(task)

    async def end(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def carry(near: Stream, far: Stream, *, until: Literal["either", "both"]) -> None:
    """Carry bytes both ways until one end, or each, has said all; then close both.

    With `both` what was said last still goes out, as TCP's half-closed connections need it; with
    `either` whoever does not read holds nothing up.
    """
    ways = [
        asyncio.create_task(_pump(source[0], target[1]), name="carry")
        for source, target in ((near, far), (far, near))
    ]
    when = asyncio.FIRST_COMPLETED if until == "either" else asyncio.ALL_COMPLETED
    is_whole = False
    try:
        await asyncio.wait(ways, return_when=when)
        is_whole = until == "both"
    finally:
        for way in ways:
            way.cancel()
        # Before anything is awaited: a cancellation may come just here.
        for _, writer in (near, far):
            if is_whole:
                writer.close()
            else:
                writer.transport.abort()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One way, to its end; a way that breaks takes its target with it."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.transport.abort()

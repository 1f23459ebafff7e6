"""Connections that are carried on: whole, counted, and ended with their server."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest

from meltemi.base.connections import Connections, Stream, carry


@asynccontextmanager
async def served(connections: Connections) -> AsyncIterator[int]:
    server = await asyncio.start_server(connections.accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await connections.end()


async def opened(port: int) -> Stream:
    return await asyncio.open_connection("127.0.0.1", port)


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers once its client has said all."""
    writer.write((await reader.read()).upper())
    await writer.drain()


@pytest.mark.parametrize("size", [1, 3_000_000])
async def test_an_answer_after_the_end_of_the_question_arrives_whole(size: int) -> None:
    async with served(Connections(shout, name="far")) as far_port:

        async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await carry((reader, writer), await opened(far_port), until="both")

        async with served(Connections(through, name="near")) as port:
            reader, writer = await opened(port)
            writer.write(b"a" * size)
            writer.write_eof()
            assert await reader.read() == b"A" * size
            writer.close()


async def test_with_either_the_first_end_ends_both() -> None:
    pairs = [socket.socketpair(), socket.socketpair()]
    outer = [await asyncio.open_connection(sock=pair[0]) for pair in pairs]
    inner = [await asyncio.open_connection(sock=pair[1]) for pair in pairs]
    carrying = asyncio.create_task(carry(inner[0], inner[1], until="either"))
    outer[0][1].write(b"hello")
    assert await outer[1][0].readexactly(5) == b"hello"
    outer[1][1].close()
    await carrying
    assert await outer[0][0].read() == b""
    outer[0][1].close()


async def test_beyond_the_most_connections_are_refused() -> None:
    async def stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"!")
        await reader.read()

    async with served(Connections(stay, name="few", most=1)) as port:
        first, second = await opened(port), await opened(port)
        assert await first[0].readexactly(1) == b"!"
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await second[0].readexactly(1)
        for _, writer in (first, second):
            writer.close()


@pytest.mark.parametrize("until", ["either", "both"])
async def test_all_end_with_their_server(until: Literal["either", "both"]) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.Event().wait()

    async with served(Connections(silent, name="far")) as far_port:

        async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"!")
            await carry((reader, writer), await opened(far_port), until=until)

        async with served(Connections(through, name="near")) as port:
            reader, writer = await opened(port)
            assert await reader.readexactly(1) == b"!"
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()

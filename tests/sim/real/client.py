"""A client that speaks just enough HTTP/1.1, TLS and bytes to ask any question once."""

import asyncio
import ssl
from typing import NamedTuple

from meltemi.simulate.request import Pairs, Request

_LIMIT = 15.0


class Answer(NamedTuple):
    """What came back. Status 0 and no body: the connection ended without an answer."""

    status: int
    headers: Pairs
    body: bytes
    port: int
    """The client's own port: access logs know the connection by it."""

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name.lower()]
        return ",".join(values) if values else None


def tls(sni: str, alpn: tuple[str, ...]) -> ssl.SSLContext:
    """A client that trusts anybody: it is not its own security that is tested."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    spoken = [p for p in alpn if p != "h2"]
    if spoken:
        context.set_alpn_protocols(spoken)
    return context


async def http(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request, port: int
) -> Answer:
    """One request on a connection of its own."""
    head = [f"{request.method} {request.path} HTTP/1.1", f"host: {request.authority}"]
    head += [f"{name}: {value}" for name, value in request.headers]
    head += ["connection: close"]
    if request.method in ("POST", "PUT", "PATCH"):
        head.append("content-length: 0")
    writer.write("\r\n".join((*head, "", "")).encode("latin-1"))
    try:
        async with asyncio.timeout(_LIMIT):
            return await _answer(reader, request.method, port)
    except asyncio.IncompleteReadError as error:
        return Answer(0, (), error.partial, port)
    except (*_BROKEN, TimeoutError):
        return Answer(0, (), b"", port)


_BROKEN = (ConnectionError, ssl.SSLError, EOFError)


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> Answer:
    """A few bytes that are no protocol, and what comes back."""
    writer.write(b"\x01hello\n")
    try:
        async with asyncio.timeout(_LIMIT):
            raw = await reader.read(-1)
    except (*_BROKEN, TimeoutError):
        raw = b""
    return Answer(0, (), raw, port)


async def _answer(reader: asyncio.StreamReader, method: str, port: int) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = tuple(
        (name.strip().lower(), value.strip())
        for name, _, value in (line.partition(":") for line in lines)
    )
    status = int(first.split()[1])
    body = b""
    known = dict(headers)
    if "chunked" in known.get("transfer-encoding", ""):
        body = await _chunks(reader)
    elif method != "HEAD" and status not in (204, 304):
        body = await reader.readexactly(int(known.get("content-length", 0)))
    return Answer(status, headers, body, port)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while True:
        length = int((await reader.readline()).strip() or b"0", 16)
        part = await reader.readexactly(length + 2)
        if not length:
            return b"".join(parts)
        parts.append(part[:-2])

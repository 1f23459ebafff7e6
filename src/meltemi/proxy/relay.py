"""The way of a gateway's Envoy to the control plane: a unix socket here, mutual TLS there.

The machine's own socket tells the control plane nothing about who is behind it. A gateway is sent
private keys, so it comes as on Kubernetes: with the workload's certificate, which the agent holds.
"""

import asyncio
import logging
import ssl
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from meltemi.kube.tls import load_chain
from meltemi.proxy.bootstrap import CONTROL_PLANE_NAME
from meltemi.proxy.ca_client import Certificate
from meltemi.proxy.keys import KeyPair
from meltemi.proxy.sds import restrict

log = logging.getLogger(__name__)

_CHUNK = 64 * 1024
_PATIENCE = 30.0
"""Seconds a new connection waits for the first certificate."""

Target = tuple[str, int]
"""Host and port of the control plane."""


class Relay:
    """Carries one proxy's connections. Use as an async context manager."""

    def __init__(self, path: str, target: Target, *, name: str) -> None:
        """`name` is the pod, for the log."""
        self._path = path
        self._target = target
        self._name = name
        self._context: ssl.SSLContext | None = None
        self._has_certificate = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._accepted, self._path, limit=_CHUNK)
        restrict(self._path)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def renew(self, certificate: Certificate, pair: KeyPair) -> None:
        """New connections show this certificate; open ones go on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=certificate.roots.decode())
        context.set_alpn_protocols(["h2"])
        load_chain(context, certificate.chain, pair.private)
        self._context = context
        self._has_certificate.set()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._has_certificate.wait()
                far_reader, far_writer = await self._reach()
            try:
                await _either(_pump(reader, far_writer), _pump(far_reader, writer))
            finally:
                far_writer.transport.abort()
        except (OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            log.info("%s: the control plane cannot be reached: %s", self._name, reason)
        finally:
            writer.transport.abort()
            if task is not None:
                self._tasks.discard(task)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self._target
        return await asyncio.open_connection(
            host, port, ssl=self._context, server_hostname=CONTROL_PLANE_NAME, limit=_CHUNK
        )


async def _either(*ways: Coroutine[Any, Any, None]) -> None:
    """Run both directions until one ends."""
    tasks = [asyncio.create_task(way, name="relay") for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()

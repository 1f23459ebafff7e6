"""Hands certificates to one Envoy over a unix socket: SDS in both forms, from memory only.
Secrets of Kubernetes are asked for elsewhere; those of files are read by Envoy itself.

A stream is a small state: what Envoy wants, and which version of it was sent. A new certificate
wakes all streams; a rejected one is reported and not sent again until it changes.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

import grpc
import grpc.aio

from meltemi.proxy.files import is_of_files, secret_of_files
from meltemi.proxy.messages import BadMessage, Codec, SealedSecret, SecretRequest
from meltemi.proxy.upstream import SERVICE, Context

log = logging.getLogger(__name__)

_AGAIN = 2.0
"""Seconds until files that Envoy refused are tried again."""
KUBERNETES = "kubernetes://"
"""What names of Secrets begin with."""

Carry = Callable[[str, AsyncIterator[bytes], Context], Awaitable[None]]
"""(method, requests, context): passes a stream on to whom it is for."""


class Session:
    """One stream, without its bytes: requests in, secrets to send out."""

    def __init__(self, *, delta: bool) -> None:
        self._delta = delta
        self._wanted: set[str] = set()
        self._sent: dict[str, str] = {}
        self._count = 0

    @property
    def wanted(self) -> frozenset[str]:
        return frozenset(self._wanted)

    def receive(self, request: SecretRequest) -> None:
        """Take a subscription, an ACK or a NACK; both of the last leave what was sent as sent."""
        if self._delta:
            # A name asked for again is wanted again: Envoy may have dropped it meanwhile.
            for name in (*request.dropped, *request.names):
                self._sent.pop(name, None)
            self._wanted.difference_update(request.dropped)
            self._wanted.update(request.names)
        else:
            self._wanted = set(request.names)
            self._sent = {name: v for name, v in self._sent.items() if name in self._wanted}

    def due(self, secrets: dict[str, SealedSecret]) -> tuple[str, Sequence[SealedSecret]] | None:
        """What to send now, with its nonce; None when Envoy has everything it wants."""
        known = [secrets[name] for name in sorted(self._wanted) if name in secrets]
        changed = [s for s in known if self._sent.get(s.name) != s.version]
        if not changed:
            return None
        self._sent.update({s.name: s.version for s in changed})
        self._count += 1
        return str(self._count), changed if self._delta else known


class SdsServer:
    """The SDS service of one proxy, on its own socket."""

    def __init__(self, path: str, codec: Codec, *, name: str, carry: Carry | None = None) -> None:
        """`name` is the pod, for the log. `carry` takes the streams that ask for Secrets."""
        self._carry = carry
        self._path = path
        self._codec = codec
        self._name = name
        self._secrets: dict[str, SealedSecret] = {}
        self._files: dict[str, SealedSecret] = {}
        self._refused: dict[str, str] = {}
        """What is wrong with files, by the name of their secret."""
        self._attempts: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._wakes: set[asyncio.Event] = set()
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        handlers = {
            "StreamSecrets": grpc.stream_stream_rpc_method_handler(self._stream),
            "DeltaSecrets": grpc.stream_stream_rpc_method_handler(self._delta),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        server.add_insecure_port(f"unix:{self._path}")
        await server.start()
        restrict(self._path)
        self._server = server
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for timer in self._timers.values():
            timer.cancel()
        if self._server is not None:
            await self._server.stop(None)

    def publish(self, secrets: Sequence[SealedSecret]) -> None:
        """Replace the secrets and wake every stream."""
        self._secrets = {secret.name: secret for secret in secrets}
        self._wake()

    def _wake(self) -> None:
        for wake in self._wakes:
            wake.set()

    def _take(self, session: Session, request: SecretRequest) -> None:
        """Make what is asked for by the names of files; look again at files that Envoy refused."""
        session.receive(request)
        if request.error:
            files = sorted(filter(is_of_files, session.wanted))
            for name in files:
                self._refuse(name, request.error)
            if not files:
                log.error("%s: Envoy rejected a secret: %s", self._name, request.error)
            return
        for name in filter(is_of_files, session.wanted):
            if request.nonce and self._refused.pop(name, ""):
                log.info("%s: Envoy took %s", self._name, name)
            if name not in self._files:
                self._files[name] = secret_of_files(self._codec, name)

    def _refuse(self, name: str, error: str) -> None:
        if self._refused.get(name) != error:
            self._refused[name] = error
            log.error("%s: Envoy cannot use %s, and looks again: %s", self._name, name, error)
        if name not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[name] = loop.call_later(_AGAIN, self._look_again, name)

    def _look_again(self, name: str) -> None:
        del self._timers[name]
        self._attempts[name] = self._attempts.get(name, 0) + 1
        self._files[name] = secret_of_files(self._codec, name, self._attempts[name])
        self._wake()

    async def _stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        await self._sort("StreamSecrets", requests, context, delta=False)

    async def _delta(self, requests: AsyncIterator[bytes], context: Context) -> None:
        await self._sort("DeltaSecrets", requests, context, delta=True)

    async def _sort(
        self, method: str, requests: AsyncIterator[bytes], context: Context, *, delta: bool
    ) -> None:
        """Envoy opens a stream for each secret: its first request says whose it is."""
        try:
            first = await anext(requests)
        except StopAsyncIteration:
            return
        decode = self._codec.delta_request if delta else self._codec.request
        try:
            names = decode(first).names
        except BadMessage as e:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(e))
            return
        everything = _joined(first, requests)
        if self._carry is not None and any(name.startswith(KUBERNETES) for name in names):
            await self._carry(method, everything, context)
        else:
            await self._serve(Session(delta=delta), everything, context, delta=delta)

    async def _serve(
        self, session: Session, requests: AsyncIterator[bytes], context: Context, *, delta: bool
    ) -> None:
        encode = self._codec.delta_response if delta else self._codec.response
        decode = self._codec.delta_request if delta else self._codec.request
        wake = asyncio.Event()

        async def read() -> None:
            async for body in requests:
                self._take(session, decode(body))
                wake.set()

        reader = asyncio.create_task(read(), name=f"sds {self._name}")
        reader.add_done_callback(lambda _: wake.set())
        self._wakes.add(wake)
        try:
            while not reader.done():
                await wake.wait()
                wake.clear()
                due = session.due(self._secrets | self._files)
                if due is not None:
                    await context.write(encode(due[1], due[0]))
            await reader
        except BadMessage as e:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(e))
        finally:
            self._wakes.discard(wake)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for body in rest:
        yield body


def restrict(path: str) -> None:
    """Give a socket to the owner of its directory (the user Envoy runs as), and to nobody else."""
    owner = os.stat(os.path.dirname(path))
    os.chmod(path, 0o600)
    if owner.st_uid != os.geteuid():
        os.chown(path, owner.st_uid, owner.st_gid)

"""The gRPC adapter: moves bytes between streams and sessions."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc

from meltemi.base.resource import BadNode, NodeInfo
from meltemi.xds.cache import Cache
from meltemi.xds.messages import BadRequest, DeltaRequest, Request, parse, parse_delta
from meltemi.xds.session import DeltaSession, Session, SotwSession
from meltemi.xds.status import Status
from meltemi.xds.subscription import CONFIGURATION, SECRETS

log = logging.getLogger(__name__)

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
SECRET_SERVICE = "envoy.service.secret.v3.SecretDiscoveryService"
OPTIONS = (
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
    ("grpc.server_max_unrequested_time_in_server", 600),
    ("grpc.max_concurrent_streams", 100_000),
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
"""For the server both services share: of a herd of reconnecting proxies none must be refused, nor
be cancelled because it waited for its turn (gRPC does so after 30 seconds, counted in seconds)."""

_LONGEST_START = 30.0

Context = Any


class NotNow(Exception):
    """It cannot be said yet whether a proxy may be served: it should come again."""


Admit = Callable[[str, NodeInfo], Awaitable[NodeInfo | None]]
"""(gRPC peer, what it says of itself) to the node as it is known; None: it is somebody else."""


class Discovery:
    """Serves ADS and SDS in both forms. `ready` opens the door once everything has synced."""

    def __init__(
        self,
        cache: Cache,
        status: Status,
        *,
        on_connect: Callable[[NodeInfo], None],
        on_disconnect: Callable[[str], None],
        on_demand: Callable[[str, Sequence[str]], bool] = lambda _node, _names: False,
        admit: Admit | None = None,
        admit_secrets: Admit | None = None,
    ) -> None:
        """Without `admit` every peer may speak for any node; without `admit_secrets` it is sent
        Secrets, too. `on_demand(node, names)`: a proxy asks for virtual hosts that are not made
        yet."""
        self.ready = asyncio.Event()
        self._cache = cache
        self._status = status
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._on_demand = on_demand
        self._admit = admit
        self._admit_secrets = admit_secrets
        self._open: dict[str, int] = {}

    def add_to(self, server: Any) -> None:
        """Register with a grpc.aio server."""
        handlers = {
            "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(self.delta),
            "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(self.stream),
        }
        secrets = {
            "DeltaSecrets": grpc.stream_stream_rpc_method_handler(self.delta_secrets),
            "StreamSecrets": grpc.stream_stream_rpc_method_handler(self.stream_secrets),
        }
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, handlers),
                grpc.method_handlers_generic_handler(SECRET_SERVICE, secrets),
            )
        )

    async def delta(self, requests: AsyncIterator[bytes], context: Context) -> None:
        await self._serve(requests, context, parse_delta, DeltaSession)

    async def stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        await self._serve(requests, context, parse, SotwSession)

    async def delta_secrets(self, requests: AsyncIterator[bytes], context: Context) -> None:
        await self._serve(requests, context, parse_delta, DeltaSession, SECRETS)

    async def stream_secrets(self, requests: AsyncIterator[bytes], context: Context) -> None:
        await self._serve(requests, context, parse, SotwSession, SECRETS)

    async def _serve(
        self,
        requests: AsyncIterator[bytes],
        context: Context,
        read: Callable[[bytes], DeltaRequest | Request],
        form: type[DeltaSession] | type[SotwSession],
        serves: frozenset[str] = CONFIGURATION,
    ) -> None:
        try:
            # A proxy that is told to come back waits longer than our start takes.
            async with asyncio.timeout(_LONGEST_START):
                await self.ready.wait()
        except TimeoutError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not synced yet")
        try:
            first = read(await anext(requests))
            if first.node is None:
                raise BadNode("the first request must carry the node's id")
        except StopAsyncIteration:
            return
        except (BadRequest, BadNode) as error:
            log.warning("refused a stream of %s: %s", context.peer(), error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            return
        admit = self._admit_secrets if serves == SECRETS else self._admit
        node = await _admitted(admit, context, first.node)
        wake = asyncio.Event()
        session = form(
            node.id,
            self._cache,
            wake.set,
            lambda names: self._on_demand(node.id, names),
            serves=serves,
        )
        self._arrive(session, node)
        try:
            await _converse(session, first, requests, context, read, wake, self._status)
        finally:
            self._leave(session)

    def _arrive(self, session: Session, node: NodeInfo) -> None:
        self._cache.open(session)
        self._status.add(session)
        if session.serves == SECRETS:
            return
        self._open[node.id] = self._open.get(node.id, 0) + 1
        self._on_connect(node)

    def _leave(self, session: Session) -> None:
        self._cache.close(session)
        self._status.remove(session)
        if session.serves == SECRETS:
            return
        self._open[session.node_id] -= 1
        if not self._open[session.node_id]:
            del self._open[session.node_id]
            self._on_disconnect(session.node_id)


async def _admitted(admit: Admit | None, context: Context, claimed: NodeInfo) -> NodeInfo:
    """The node as we know it, or the end of the stream."""
    if admit is None:
        return claimed
    try:
        node = await admit(context.peer(), claimed)
    except NotNow as error:
        log.warning("%s must come again: %s", claimed.id, error)
        await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        raise
    if node is None:
        log.warning("refused %s: it may not speak for %s", context.peer(), claimed.id)
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not this node's identity")
        raise NotNow("refused")
    return node


async def _converse(
    session: Any,
    first: DeltaRequest | Request,
    requests: AsyncIterator[bytes],
    context: Context,
    read: Callable[[bytes], DeltaRequest | Request],
    wake: asyncio.Event,
    status: Status,
) -> None:
    """Answer requests and marks until the proxy goes. One writer: the loop below."""
    clock = asyncio.get_running_loop().time

    known = asyncio.Event()

    async def listen() -> None:
        await known.wait()
        async for body in requests:
            request = read(body)
            if request.error is not None:
                kind = request.type_url.rpartition(".")[2]
                log.error("%s rejects %s: %s", session.node_id, kind, request.error)
            session.on_request(request)
            status.progressed(session)
            if session.has_work:
                wake.set()

    async def send() -> None:
        """A function of its own, so that an idle stream does not keep its last response alive."""
        for body in session.flush(clock()):
            await context.write(body)
        status.progressed(session)

    session.on_request(first)
    listener = asyncio.create_task(listen(), name=f"requests of {session.node_id}")
    listener.add_done_callback(lambda _: wake.set())
    wake.set()
    try:
        while not listener.done():
            await _woken(wake, session.due(), clock())
            wake.clear()
            await send()
            if not session.waits:
                known.set()
        await listener
    except BadRequest as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)


async def _woken(wake: asyncio.Event, due: float | None, now: float) -> None:
    """Return when there may be work, or when a wait of the session is over."""
    if due is None:
        await wake.wait()
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(max(due - now, 0)):
            await wake.wait()

"""Secrets of the API, on their way from the control plane to one Envoy.

Envoy asks its agent for every secret. Those of Kubernetes the agent asks the control plane for,
under the workload's own certificate: the machine's own socket would prove to it nothing of who
asks, and configuration that comes there holds no key.
"""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self, TypeAlias

import grpc
import grpc.aio

from meltemi.proxy.ca_client import Certificate
from meltemi.proxy.keys import KeyPair
from meltemi.proxy.spec import Target

SERVICE = "envoy.service.secret.v3.SecretDiscoveryService"
CONTROL_PLANE_NAME = "istiod.istio-system.svc"

_PATIENCE = 30.0
"""Seconds a stream waits for the first certificate."""
_OPTIONS = (
    ("grpc.ssl_target_name_override", CONTROL_PLANE_NAME),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5000),
    # A connection is a pod's: it must not be shared with one of another certificate.
    ("grpc.use_local_subchannel_pool", 1),
)

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class Upstream:
    """One pod's way. Use as an async context manager."""

    def __init__(self, target: Target) -> None:
        self._target = f"{target.host}:{target.port}"
        self._credentials: grpc.ChannelCredentials | None = None
        self._has_certificate = asyncio.Event()
        self._channel: grpc.aio.Channel | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def renew(self, certificate: Certificate, pair: KeyPair) -> None:
        """Streams are opened under this certificate from now on. Those that are open end, and
        Envoy, which keeps what it has, opens them again."""
        self._credentials = grpc.ssl_channel_credentials(
            root_certificates=certificate.roots,
            private_key=pair.private.reveal(),
            certificate_chain=certificate.chain,
        )
        self._leave()
        self._has_certificate.set()

    def _leave(self) -> None:
        if self._channel is not None:
            task = asyncio.create_task(self._channel.close(), name="close a channel")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self._channel = None

    async def carry(self, method: str, requests: AsyncIterator[bytes], context: Context) -> None:
        """Pass one of Envoy's streams on, both ways, until either side ends it."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._has_certificate.wait()
        except TimeoutError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "there is no certificate yet")
        if self._channel is None:
            self._channel = grpc.aio.secure_channel(
                self._target, self._credentials, options=_OPTIONS
            )
        call = self._channel.stream_stream(f"/{SERVICE}/{method}")(requests)
        try:
            async for body in call:
                await context.write(body)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
        except asyncio.CancelledError:
            if not call.cancelled():
                raise  # Envoy has gone.
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the certificate was renewed")
        finally:
            call.cancel()

"""Asks the certificate authority, over one gRPC channel for all pods of a node."""

import datetime
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import grpc
import grpc.aio
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from meltemi.base.redacted import Redacted
from meltemi.proxy.errors import CaUnavailable
from meltemi.proxy.keys import KeyPair, public_der
from meltemi.proxy.messages import BadMessage, Codec
from meltemi.proxy.spec import UNIX_PREFIX

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
_SECONDS = 10.0


class Certificate(msgspec.Struct, frozen=True):
    """What the authority signed."""

    chain: bytes
    """PEM: the leaf, then its issuers up to the root, which is not in it."""
    roots: bytes
    """PEM of what to trust."""
    serial: str
    expires: datetime.datetime


class CaClient:
    """One channel. Use as an async context manager."""

    def __init__(
        self, target: str, codec: Codec, *, roots: bytes | None = None, server_name: str = ""
    ) -> None:
        """`target`: `unix:PATH` or `host:port`; the latter by TLS, trusting `roots`."""
        self._target = target
        self._codec = codec
        self._roots = roots
        self._server_name = server_name
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        # Reconnects start soon and stay frequent: the control plane is near and few call it.
        options: list[tuple[str, str | int]] = [
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.min_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 5000),
        ]
        if self._target.startswith(UNIX_PREFIX):
            self._channel = grpc.aio.insecure_channel(self._target, options=options)
        else:
            if self._server_name:
                options.append(("grpc.ssl_target_name_override", self._server_name))
            trust = grpc.ssl_channel_credentials(self._roots)
            self._channel = grpc.aio.secure_channel(self._target, trust, options=options)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def sign(
        self, pair: KeyPair, token: Redacted, lifetime: datetime.timedelta | None
    ) -> Certificate:
        """Have a key signed; no lifetime: the authority's default. Raises CaUnavailable."""
        if self._channel is None:
            raise RuntimeError("the CA client is not open: use `async with CaClient(...)`")
        seconds = int(lifetime.total_seconds()) if lifetime is not None else 0
        call = self._channel.unary_unary(METHOD)
        metadata = (("authorization", f"Bearer {token.reveal().decode('ascii')}"),)
        try:
            reply = await call(
                self._codec.certificate_request(pair.csr, seconds),
                metadata=metadata,
                timeout=_SECONDS,
            )
        except grpc.aio.AioRpcError as e:
            code = e.code().name.lower().replace("_", " ")
            raise CaUnavailable(f"{self._target}: {code}: {e.details()}") from e
        try:
            return certificate_from_chain(self._codec.certificate_chain(reply), pair)
        except BadMessage as e:
            raise CaUnavailable(f"{self._target}: the answer is {e}") from e


def certificate_from_chain(chain: Sequence[bytes], pair: KeyPair) -> Certificate:
    """Check an answer: a leaf for our key, and at least one root after it."""
    if len(chain) < 2:
        raise CaUnavailable("the authority answered without a certificate and a root")
    try:
        leaf = x509.load_pem_x509_certificate(chain[0])
        key = leaf.public_key()
    except ValueError as e:
        raise CaUnavailable("the authority answered something that is not a certificate") from e
    if not isinstance(key, ec.EllipticCurvePublicKey) or public_der(key) != pair.public:
        raise CaUnavailable("the authority answered with a certificate for another key")
    pems = [pem if pem.endswith(b"\n") else pem + b"\n" for pem in chain]
    return Certificate(
        chain=b"".join(pems[:-1]),
        roots=pems[-1],
        serial=f"{leaf.serial_number:x}",
        expires=leaf.not_valid_after_utc,
    )

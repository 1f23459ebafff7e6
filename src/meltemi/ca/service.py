"""The gRPC API `istio.v1.auth.IstioCertificateService`, over raw bytes.

Everything happens after authentication and within size limits. Callers learn that they were
refused; why is in the log, by identity and never with tokens, keys or CSRs.
"""

import datetime
import logging
from collections.abc import Callable

import grpc
import grpc.aio
import msgspec
from cryptography import x509

from meltemi.api.core import Pod
from meltemi.api.workload_entry import WorkloadGroup
from meltemi.base.clock import Clock
from meltemi.base.identity import Identity
from meltemi.base.keys import ObjectKey
from meltemi.ca import authenticate, sign
from meltemi.ca.authenticate import Authenticator, Caller
from meltemi.ca.errors import BadRequest, Unauthenticated
from meltemi.ca.messages import METHOD, SERVICE, Codec
from meltemi.ca.sign import Authority, Names, Subject
from meltemi.ca.subject import subject_from_groups, subject_from_pod
from meltemi.kube.client import Client
from meltemi.kube.errors import KubeError, NotFound
from meltemi.kube.paths import Selection

log = logging.getLogger(__name__)

PeerIdentity = Callable[[str], Identity | None]
"""The verified identity behind a gRPC peer string (`Edge.identity_of`); None without one."""


class CertificateService:
    """Signs the keys of authenticated workloads."""

    def __init__(
        self,
        authority: Callable[[], Authority],
        authenticator: Authenticator,
        client: Client,
        clock: Clock,
        *,
        default_lifetime: datetime.timedelta = sign.DEFAULT_LIFETIME,
        longest_lifetime: datetime.timedelta = sign.LONGEST_LIFETIME,
        peer_identity: PeerIdentity = lambda _: None,
    ) -> None:
        """`default_lifetime` holds when the caller asks for none."""
        self._authority = authority
        self._authenticator = authenticator
        self._client = client
        self._clock = clock
        self._default_lifetime = default_lifetime
        self._longest_lifetime = longest_lifetime
        self._peer_identity = peer_identity
        self._codec = Codec()

    async def create_certificate(
        self, body: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]"
    ) -> bytes:
        """The RPC: authenticate first, then look at the request, then sign."""
        try:
            caller = await self._caller(context)
            chain = await self._chain(body, caller)
        except Unauthenticated as e:
            log.warning("refused a certificate to %s: %s", context.peer(), e)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "request not authenticated")
        except BadRequest as e:
            log.warning("refused a certificate to %s: %s", caller.identity.uri, e)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(e))
        except KubeError as e:
            log.warning("cannot decide on a certificate for %s: %s", context.peer(), e)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the Kubernetes API is unavailable")
        return self._codec.response(chain)

    async def _caller(self, context: "grpc.aio.ServicerContext[bytes, bytes]") -> Caller:
        for name, value in context.invocation_metadata() or ():
            if name == "authorization":
                return await self._authenticator.caller_from_token(authenticate.bearer(value))
        identity = self._peer_identity(context.peer())
        if identity is None:
            raise Unauthenticated("neither a token nor a client certificate")
        return self._authenticator.caller_from_identity(identity)

    async def _chain(self, body: bytes, caller: Caller) -> list[bytes]:
        request = self._codec.request(body)
        if request.impersonates:
            raise BadRequest("impersonation is not allowed")
        lifetime = sign.lifetime_from_request(
            request.validity_seconds, self._default_lifetime, self._longest_lifetime
        )
        public_key = sign.public_key_from_csr(request.csr)
        subject = await self._subject(caller)
        authority = self._authority()
        leaf = sign.leaf(
            authority,
            public_key,
            Names(identity=caller.identity),
            subject,
            lifetime=lifetime,
            now=self._clock.now(),
            serial=x509.random_serial_number(),
        )
        log.info(
            "signed %s for pod %s until %s",
            caller.identity.uri,
            caller.pod_name or "(not bound)",
            leaf.not_valid_after_utc.isoformat(),
        )
        above = [sign.pem([certificate]) for certificate in authority.chain]
        return [sign.pem([leaf]), *above, authority.roots]

    async def _subject(self, caller: Caller) -> Subject:
        """The pod the token is bound to, if it is the caller's indeed; else a WorkloadGroup."""
        if not caller.pod_name:
            return await self._of_group(caller.identity) if caller.by_token else Subject()
        key = ObjectKey("Pod", caller.identity.namespace, caller.pod_name)
        try:
            pod = msgspec.json.decode(await self._client.get_raw(key), type=Pod)
        except NotFound as e:
            raise Unauthenticated(f"{key} of the token does not exist") from e
        except msgspec.MsgspecError as e:
            raise KubeError(f"{key} cannot be read: {e}") from e
        account = pod.spec.service_account_name or "default"
        if pod.metadata.uid != caller.pod_uid or account != caller.identity.service_account:
            raise Unauthenticated(f"{key} is not the pod of the token")
        return subject_from_pod(pod)

    async def _of_group(self, identity: Identity) -> Subject:
        """A workload that is no pod. Labels of metrics are not worth refusing a certificate."""
        selection = Selection("WorkloadGroup", identity.namespace)
        try:
            groups = msgspec.json.decode(await self._client.list_raw(selection), type=_Groups)
        except (KubeError, msgspec.MsgspecError) as error:
            log.info("no labels for %s: %s", identity.uri, error)
            return Subject()
        return subject_from_groups(groups.items, identity.service_account)


class _Groups(msgspec.Struct):
    items: tuple[WorkloadGroup, ...] = ()


def add_ca(server: grpc.aio.Server, service: CertificateService) -> None:
    """Register the service on a server that app.py opens on its socket and port."""
    handler = grpc.unary_unary_rpc_method_handler(service.create_certificate)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
    )

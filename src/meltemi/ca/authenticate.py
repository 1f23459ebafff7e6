"""Who asks: a Kubernetes service account's token, or a certificate we signed ourselves.

Tokens are proved by TokenReview for the audience `istio-ca` and remembered briefly by hash; the
token itself is kept nowhere. Refusals say nothing to the caller; the exception holds the reason.
"""

import hashlib
from collections import OrderedDict

import msgspec
from cryptography import x509

from meltemi.base.clock import Clock
from meltemi.base.identity import BadIdentity, Identity, identity_from_uri
from meltemi.base.redacted import Redacted
from meltemi.ca.errors import Unauthenticated
from meltemi.kube.client import Client, Review

AUDIENCE = "istio-ca"
_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"
_ACCOUNT_PREFIX = "system:serviceaccount:"
_LARGEST_TOKEN = 16 * 1024
_REMEMBERED_SECONDS = 30.0
_REMEMBERED_TOKENS = 4096


class Caller(msgspec.Struct, frozen=True):
    """An authenticated workload; the pod is known when its token is bound to one."""

    identity: Identity
    pod_name: str = ""
    pod_uid: str = ""
    by_token: bool = False
    """Proven by a token; a certificate does not say whether a pod is behind it."""


class Authenticator:
    """Turns credentials into callers."""

    def __init__(
        self, client: Client, clock: Clock, *, trust_domain: str, audience: str = AUDIENCE
    ) -> None:
        self._client = client
        self._clock = clock
        self._trust_domain = trust_domain
        self._audience = audience
        self._seen: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    async def caller_from_token(self, token: Redacted) -> Caller:
        """Raises Unauthenticated, or KubeError when the API cannot be asked."""
        secret = token.reveal()
        if not 0 < len(secret) <= _LARGEST_TOKEN or not _is_jwt_text(secret):
            raise Unauthenticated("the bearer token is not a JWT")
        digest = hashlib.sha256(secret).digest()
        now = self._clock.monotonic()
        known = self._seen.get(digest)
        if known is not None and now < known[0]:
            return known[1]
        review = await self._client.review_token(token, (self._audience,))
        caller = self._caller_from_review(review)
        self._seen[digest] = (now + _REMEMBERED_SECONDS, caller)
        self._seen.move_to_end(digest)
        while len(self._seen) > _REMEMBERED_TOKENS:
            self._seen.popitem(last=False)
        return caller

    def caller_from_identity(self, identity: Identity) -> Caller:
        """The caller behind a peer certificate that was verified against our roots."""
        if identity.trust_domain != self._trust_domain:
            raise Unauthenticated(f"{identity.uri} is of another trust domain")
        return Caller(identity)

    def _caller_from_review(self, review: Review) -> Caller:
        if not review.authenticated:
            raise Unauthenticated(f"the token was refused: {review.error or 'no reason given'}")
        if self._audience not in review.audiences:
            raise Unauthenticated(f"the token is not for audience {self._audience}")
        namespace, _, account = review.username.removeprefix(_ACCOUNT_PREFIX).partition(":")
        if not review.username.startswith(_ACCOUNT_PREFIX) or not account:
            raise Unauthenticated(f"{review.username!r} is not a service account")
        identity = Identity(self._trust_domain, namespace, account)
        try:
            identity_from_uri(identity.uri)
        except BadIdentity as e:
            raise Unauthenticated(str(e)) from e
        return Caller(identity, _first(review, _POD_NAME), _first(review, _POD_UID), by_token=True)


def bearer(header: str | bytes) -> Redacted:
    """The token of an `authorization: Bearer ...` header."""
    text = header.encode() if isinstance(header, str) else header
    scheme, _, token = text.partition(b" ")
    if scheme.lower() != b"bearer" or not token.strip():
        raise Unauthenticated("the authorization header is not a bearer token")
    return Redacted(token.strip())


def identity_from_certificate(certificate: x509.Certificate) -> Identity:
    """The one SPIFFE identity of a certificate whose signature was checked before."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError) as e:
        raise Unauthenticated("the peer's certificate has no alternative names") from e
    if len(uris) != 1:
        raise Unauthenticated("the peer's certificate must have exactly one URI name")
    try:
        return identity_from_uri(uris[0])
    except BadIdentity as e:
        raise Unauthenticated(str(e)) from e


def _first(review: Review, name: str) -> str:
    values = review.extra.get(name, ())
    return values[0] if values else ""


def _is_jwt_text(secret: bytes) -> bool:
    parts = secret.split(b".")
    allowed = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_="
    return len(parts) == 3 and not secret.translate(None, allowed + b".")

"""Service account tokens of a pod, fetched for it and renewed before they expire."""

import datetime

from meltemi.base.clock import Clock
from meltemi.base.redacted import Redacted
from meltemi.kube.client import Client
from meltemi.local.node.podspec import Pod, TokenSource

_RENEW_AT = 0.8
"""The part of a token's life after which a new one is fetched, as kubelets do it."""


class Tokens:
    """Service account tokens of one pod, renewed before they expire."""

    def __init__(self, client: Client, clock: Clock, pod: Pod) -> None:
        self._client = client
        self._clock = clock
        self._pod = pod
        self._held: dict[tuple[str, int], tuple[Redacted, datetime.datetime]] = {}

    async def get(self, source: TokenSource) -> Redacted:
        """Raises KubeError."""
        key = (source.audience, source.expiration_seconds)
        held = self._held.get(key)
        if held is not None and self._clock.now() < held[1]:
            return held[0]
        meta = self._pod.metadata
        lifetime = datetime.timedelta(seconds=source.expiration_seconds)
        token = await self._client.create_token(
            meta.namespace,
            self._pod.spec.service_account_name,
            audiences=(source.audience,) if source.audience else (),
            lifetime=lifetime,
            pod=(meta.name, meta.uid),
        )
        left = token.expires - self._clock.now()
        self._held[key] = (token.secret, self._clock.now() + left * _RENEW_AT)
        return token.secret

    def next_renewal(self) -> datetime.datetime | None:
        """When the first of them has to be renewed."""
        return min((when for _, when in self._held.values()), default=None)

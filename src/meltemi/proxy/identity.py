"""One workload's certificate over time: get it, renew it at half life, keep it until replaced.

When to act is a pure question over a clock that is passed in; the loop only sleeps and asks.
"""

import asyncio
import datetime
import logging
import random as random_module
from collections.abc import Awaitable, Callable
from typing import NoReturn, Protocol

from meltemi.base.clock import Clock
from meltemi.base.identity import Identity
from meltemi.base.redacted import Redacted
from meltemi.proxy.ca_client import Certificate
from meltemi.proxy.errors import CaUnavailable
from meltemi.proxy.keys import KeyPair, new_key_pair

log = logging.getLogger(__name__)

_JITTER = 0.01
_SHORTEST_RETRY, _LONGEST_RETRY = 0.25, 30.0
_LONGEST_NAP = 600.0
"""Look at the wall clock this often: laptops sleep, and monotonic time may sleep with them."""

Sleep = Callable[[float], Awaitable[None]]
Publish = Callable[[Certificate, KeyPair], None]


class Signer(Protocol):
    """What signs: `CaClient`, or a test's own."""

    async def sign(
        self, pair: KeyPair, token: Redacted, lifetime: datetime.timedelta | None
    ) -> Certificate: ...


def renewal_time(
    issued: datetime.datetime,
    expires: datetime.datetime,
    random: random_module.Random,
) -> datetime.datetime:
    """Half of the life, give or take 1 % so that proxies do not come all at once."""
    return issued + (expires - issued) * (0.5 + random.uniform(-_JITTER, _JITTER))


class WorkloadIdentity:
    """Holds the token and the current certificate of one pod."""

    def __init__(
        self,
        identity: Identity,
        token: Redacted,
        signer: Signer,
        publish: Publish,
        *,
        clock: Clock,
        random: random_module.Random,
        sleep: Sleep = asyncio.sleep,
        lifetime: datetime.timedelta | None = None,
    ) -> None:
        """`publish` is called with every new certificate and its key."""
        self.identity = identity
        self.token = token
        self._signer = signer
        self._publish = publish
        self._clock = clock
        self._random = random
        self._sleep = sleep
        self._lifetime = lifetime
        self.certificate: Certificate | None = None
        self.failure: str = ""
        """Why the last attempt failed; empty while all is well."""
        self.renewals = 0

    @property
    def seconds_left(self) -> float | None:
        """Until the certificate expires; None without one."""
        if self.certificate is None:
            return None
        return (self.certificate.expires - self._clock.now()).total_seconds()

    async def run(self) -> NoReturn:
        """Get and renew until cancelled. Failures are retried; the old certificate stays."""
        retry = _SHORTEST_RETRY
        while True:
            try:
                due = await self.renew()
            except CaUnavailable as e:
                self._failed(str(e))
            except Exception as e:
                # Contained to this pod: the agent serves the others.
                log.exception("%s: cannot renew the certificate", self.identity.uri)
                self._failed(f"internal error: {type(e).__name__}")
            else:
                retry = _SHORTEST_RETRY
                await self._sleep_until(due)
                continue
            await self._sleep(retry * self._random.uniform(0.5, 1.0))
            retry = min(retry * 2, _LONGEST_RETRY)

    async def renew(self) -> datetime.datetime:
        """One attempt with a fresh key; when it is to be renewed next."""
        pair = new_key_pair(self.identity)
        now = self._clock.now()
        certificate = await self._signer.sign(pair, self.token, self._lifetime)
        self.certificate = certificate
        self.failure = ""
        self.renewals += 1
        self._publish(certificate, pair)
        log.info("%s: certificate until %s", self.identity.uri, certificate.expires.isoformat())
        return renewal_time(now, certificate.expires, self._random)

    def _failed(self, reason: str) -> None:
        if not self.failure:
            log.warning("%s: no new certificate: %s; trying again", self.identity.uri, reason)
        self.failure = reason

    async def _sleep_until(self, due: datetime.datetime) -> None:
        while (left := (due - self._clock.now()).total_seconds()) > 0:
            await self._sleep(min(left, _LONGEST_NAP))

"""The control plane's own certificate, for 15012 and the webhook on 15017.

The `ssl.SSLContext`s handed out live as long as the process: renewal loads the new certificate
into them, so new handshakes use it and open connections go on.
"""

import asyncio
import datetime
import logging
import random as random_module
import ssl
from collections.abc import Awaitable, Callable
from typing import NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from meltemi.base.clock import Clock
from meltemi.base.identity import Identity
from meltemi.base.redacted import Redacted
from meltemi.ca import sign
from meltemi.ca.sign import Authority, Names, Subject
from meltemi.kube.tls import load_chain

log = logging.getLogger(__name__)

DNS_NAMES = (
    "istiod.istio-system.svc",
    "istiod.istio-system.svc.cluster.local",
    "istiod.istio-system",
    "istiod",
    "istio-pilot.istio-system.svc",
    "localhost",
)
IPS = ("127.0.0.1", "::1")

_LONGEST_NAP = 600.0
"""Look at the wall clock this often: laptops sleep, and monotonic time may sleep with them."""


class ServerIdentity:
    """Holds a serving certificate and keeps it fresh in every context it gave out."""

    def __init__(
        self,
        authority: Callable[[], Authority],
        clock: Clock,
        *,
        identity: Identity | None = None,
        dns: tuple[str, ...] = DNS_NAMES,
        ips: tuple[str, ...] = IPS,
        lifetime: datetime.timedelta = sign.DEFAULT_LIFETIME,
    ) -> None:
        self._authority = authority
        self._clock = clock
        self._names = Names(identity=identity, dns=dns, ips=ips)
        self._lifetime = lifetime
        self._contexts: list[ssl.SSLContext] = []
        self._chain, self._key, self.expires, self._renew_at = self._issue()

    def context(
        self, *, verify_clients: bool = False, alpn: tuple[str, ...] = ()
    ) -> ssl.SSLContext:
        """A server's TLS settings. `verify_clients`: a client's certificate is optional, but one
        that is sent must come from our roots.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if verify_clients:
            context.load_verify_locations(cadata=self._authority().roots.decode())
            context.verify_mode = ssl.CERT_OPTIONAL
        if alpn:
            context.set_alpn_protocols(list(alpn))
        load_chain(context, self._chain, self._key)
        self._contexts.append(context)
        return context

    def is_due(self) -> bool:
        """Whether half of the certificate's life is over."""
        return self._clock.now() >= self._renew_at

    def renew(self) -> None:
        """Make a new key and certificate; the next handshakes use them."""
        self._chain, self._key, self.expires, self._renew_at = self._issue()
        for context in self._contexts:
            load_chain(context, self._chain, self._key)

    async def run(
        self,
        random: random_module.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> NoReturn:
        """Renew at half life until cancelled."""
        while True:
            left = (self._renew_at - self._clock.now()).total_seconds()
            await sleep(min(max(left, 1.0), _LONGEST_NAP) * (0.99 + random.random() / 50))
            if self.is_due():
                self.renew()
                log.info("renewed the control plane's certificate until %s", self.expires)

    def _issue(self) -> tuple[bytes, Redacted, datetime.datetime, datetime.datetime]:
        authority = self._authority()
        key = ec.generate_private_key(ec.SECP256R1())
        now = self._clock.now()
        leaf = sign.leaf(
            authority,
            key.public_key(),
            self._names,
            Subject(),
            lifetime=self._lifetime,
            now=now,
            serial=x509.random_serial_number(),
        )
        expires = leaf.not_valid_after_utc
        chain = sign.pem([leaf, *authority.chain])
        return chain, Redacted(sign.key_pem(key)), expires, now + (expires - now) / 2

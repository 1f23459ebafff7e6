"""A pod to serve, an authority that signs at once, and clocks that only a sleep moves."""

import asyncio
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meltemi.base.identity import Identity
from meltemi.base.redacted import Redacted
from meltemi.ca import sign
from meltemi.proxy.ca_client import Certificate, certificate_from_chain
from meltemi.proxy.keys import KeyPair
from meltemi.proxy.spec import ProxySpec

START = datetime.datetime.now(datetime.UTC).replace(microsecond=0)


class SleepingClock:
    """`sleep` is what moves it, at once; a day passes in a millisecond."""

    def __init__(self) -> None:
        self.time = START
        self.slept: list[float] = []
        self.until = START + datetime.timedelta(days=3650)
        self.finished = asyncio.Event()

    def now(self) -> datetime.datetime:
        return self.time

    def monotonic(self) -> float:
        return (self.time - START).total_seconds()

    async def sleep(self, seconds: float) -> None:
        """Ends for good at `until`, so that loops stop turning there."""
        self.slept.append(seconds)
        self.time += datetime.timedelta(seconds=seconds)
        if self.time >= self.until:
            self.finished.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)


class Authority:
    """Signs like the control plane's, in process; `refuse` makes it fail first."""

    def __init__(self, clock: SleepingClock) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.clock = clock
        self.root = sign.self_signed(key, "cluster.local", now=clock.now(), serial=1)
        self.signed: list[tuple[datetime.datetime, Redacted]] = []
        self.refuse: list[Exception] = []
        self.lifetime = datetime.timedelta(hours=24)

    async def sign(
        self, pair: KeyPair, token: Redacted, lifetime: datetime.timedelta | None
    ) -> Certificate:
        if self.refuse:
            raise self.refuse.pop(0)
        self.signed.append((self.clock.now(), token))
        leaf = sign.leaf(
            self.root,
            sign.public_key_from_csr(pair.csr),
            sign.Names(identity=Identity("cluster.local", "default", "reviews")),
            sign.Subject("reviews-v1", "default", "reviews", "v1"),
            lifetime=lifetime or self.lifetime,
            now=self.clock.now(),
            serial=x509.random_serial_number(),
        )
        pem = leaf.public_bytes(serialization.Encoding.PEM)
        return certificate_from_chain([pem, self.root.roots], pair)


@pytest.fixture
async def clock() -> SleepingClock:
    return SleepingClock()


@pytest.fixture
async def authority(clock: SleepingClock) -> Authority:
    return Authority(clock)


@pytest.fixture
def make_spec(tmp_path: Path) -> Callable[..., ProxySpec]:
    def make(**changes: Any) -> ProxySpec:
        fields: dict[str, Any] = {
            "kind": "sidecar",
            "namespace": "default",
            "name": "reviews-v1-abc",
            "uid": "u1",
            "ip": "127.0.0.1",
            "node_name": "local",
            "service_account": "reviews",
            "labels": {"app": "reviews", "version": "v1"},
            "annotations": {},
            "workload": "reviews-v1",
            "env": {},
            "directory": str(tmp_path),
            "xds_target": f"unix:{tmp_path}/xds.sock",
            "token": Redacted(b"e30.e30.c2ln"),
        }
        return ProxySpec(**(fields | changes))

    return make

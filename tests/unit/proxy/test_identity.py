"""Renewal over weeks of fake time, in milliseconds."""

import asyncio
import datetime
import itertools
import random

import pytest

from meltemi.base.identity import Identity
from meltemi.base.redacted import Redacted
from meltemi.proxy.ca_client import certificate_from_chain
from meltemi.proxy.errors import CaUnavailable
from meltemi.proxy.identity import WorkloadIdentity, renewal_time
from meltemi.proxy.keys import new_key_pair

REVIEWS = Identity("cluster.local", "default", "reviews")
DAY = datetime.timedelta(days=1)


def workload(authority, clock, published: list) -> WorkloadIdentity:
    return WorkloadIdentity(
        REVIEWS,
        Redacted(b"t1"),
        authority,
        lambda certificate, pair: published.append((clock.now(), certificate, pair)),
        clock=clock,
        random=random.Random(3),
        sleep=clock.sleep,
    )


async def run_until_finished(identity: WorkloadIdentity, clock) -> None:
    task = asyncio.create_task(identity.run())
    await asyncio.wait_for(clock.finished.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_month_of_renewals_never_lets_a_certificate_expire(authority, clock) -> None:
    published: list = []
    clock.until = clock.now() + 30 * DAY
    await run_until_finished(workload(authority, clock, published), clock)
    assert 59 <= len(published) <= 62
    for (_, old, _), (at, _, _) in itertools.pairwise(published):
        left = old.expires - at
        assert datetime.timedelta(hours=11.5) < left < datetime.timedelta(hours=12.5)
    assert len({pair.public for _, _, pair in published}) == len(published)


async def test_the_old_certificate_stays_while_the_authority_is_away(authority, clock) -> None:
    published: list = []
    identity = workload(authority, clock, published)
    await identity.renew()
    first = identity.certificate
    authority.refuse = [CaUnavailable("away")] * 5 + [RuntimeError("a bug")]
    clock.until = clock.now() + datetime.timedelta(minutes=10)
    task = asyncio.create_task(identity.run())
    await asyncio.sleep(0)
    assert identity.certificate is first
    assert identity.failure == "away"
    await asyncio.wait_for(clock.finished.wait(), 5)
    task.cancel()
    assert identity.failure == ""
    assert len(published) == 2
    waits = clock.slept[:6]
    assert waits[0] <= 0.25
    assert waits[5] > waits[0]


async def test_a_new_token_is_used_at_the_next_renewal(authority, clock) -> None:
    identity = workload(authority, clock, [])
    await identity.renew()
    identity.token = Redacted(b"t2")
    await identity.renew()
    assert [token.reveal() for _, token in authority.signed] == [b"t1", b"t2"]


def test_renewal_is_at_half_life_with_little_jitter() -> None:
    start = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    times = [renewal_time(start, start + DAY, random.Random(i)) - start for i in range(200)]
    assert min(times) >= DAY * 0.49
    assert max(times) <= DAY * 0.51
    assert len(set(times)) > 100


async def test_a_certificate_for_another_key_is_refused(authority) -> None:
    ours, other = new_key_pair(REVIEWS), new_key_pair(REVIEWS)
    theirs = await authority.sign(other, Redacted(b"t"), None)
    with pytest.raises(CaUnavailable, match="another key"):
        certificate_from_chain([theirs.chain, theirs.roots], ours)


def test_keys_do_not_show() -> None:
    pair = new_key_pair(REVIEWS)
    assert b"PRIVATE" in pair.private.reveal()
    assert "PRIVATE" not in repr(pair)

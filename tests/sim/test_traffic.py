"""What only time and numbers show: retries, limits, ejections, localities, hashes and shares.

One real Envoy with the client's configuration, and an echo server that plays every pod; a request
says itself which pods shall fail or be slow (`x-sick`, `x-envoy-fault-delay-request`).
"""

import asyncio
import json
import math
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from meltemi.base.keys import ObjectKey
from meltemi.protos import load
from meltemi.proxy.envoy import envoy_path
from meltemi.simulate.request import Request
from meltemi.simulate.world import World, node_of

from .given import Given
from .real.client import Answer
from .real.lab import Lab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.asyncio(loop_scope="module"),
]
Json = dict[str, Any]
HERE, NEAR, FAR = "r1.z1.s1", "r1.z2.s1", "r2.z1.s1"
ALL_SICK = "0=503"


def mesh(*objects: Json, reviews: int = 3) -> dict[ObjectKey, bytes]:
    """A client and as many reviews as wanted, each in a place of its own."""
    given = Given()
    pods: Json = {"client": {"labels": {"istio-locality": HERE}}, "ratings-v1": {"app": "ratings"}}
    for i, place in enumerate((HERE, NEAR, FAR)[:reviews]):
        labels = {"istio-locality": place}
        pods[f"reviews-v{i + 1}"] = {"app": "reviews", "version": f"v{i + 1}", "labels": labels}
    given.add({"pods": pods, "services": {n: {"ports": {"http": 9080}} for n in SERVICES}})
    given.add({"objects": list(objects)})
    found = {}
    for document in given.documents():
        meta = document["metadata"]
        key = ObjectKey(document["kind"], meta.get("namespace", ""), meta["name"])
        found[key] = json.dumps(document).encode()
    return found


SERVICES = ("reviews", "ratings")


def rule(policy: Json, *, subsets: tuple[str, ...] = ()) -> Json:
    spec: Json = {"host": "reviews", "trafficPolicy": policy}
    spec["subsets"] = [{"name": name, "labels": {"version": name}} for name in subsets]
    return _object("DestinationRule", spec)


def routes(**http: Any) -> Json:
    action = {"route": [{"destination": {"host": "reviews"}}]} | http
    return _object("VirtualService", {"hosts": ["reviews"], "http": [action]})


def _object(kind: str, spec: Json) -> Json:
    meta = {"name": "reviews", "namespace": "default"}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": meta,
        "spec": spec,
    }


class Traffic:
    """Sends requests for `reviews`."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._world = World(mesh())
        (service,) = [s for s in self._world.model.services.values() if s.name == "reviews"]
        self._address = service.addresses[0]
        self.pods = {w.address: w.key.name for w in self._world.model.workloads.values()}
        self.addresses = {name: address for address, name in self.pods.items()}

    async def use(self, *objects: Json, reviews: int = 3) -> None:
        node = node_of(self._world.workload("client"), self._world.domain)
        await self.lab.configure(mesh(*objects, reviews=reviews), node, None)
        await self.lab.arrivals()

    async def send(self, path: str = "/", **headers: str) -> Answer:
        pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        request = Request("reviews", path=path, headers=pairs)
        return await self.lab.send(self._address, 9080, request)

    async def many(self, count: int, *, at_once: int = 16, **headers: str) -> list[Answer]:
        left = iter(range(count))
        found: list[Answer] = []

        async def visitor() -> None:
            for _ in left:
                found.append(await self.send(**headers))

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(visitor(), name="visitor")
        return found

    def pod(self, answer: Answer) -> str:
        """Who answered; empty: nobody but the proxy."""
        if not answer.header("x-from-app"):
            return ""
        return self.pods[json.loads(answer.body)["address"].rpartition(":")[0]]

    async def shares(self, count: int, **headers: str) -> Counter[str]:
        return Counter(self.pod(a) for a in await self.many(count, **headers))

    def sick(self, *names: str, code: int = 503) -> str:
        return ",".join(f"{self.addresses[name]}={code}" for name in names)


def egress(capture: str) -> Json:
    """What leaves port 9080: captured, or taken by a socket of the proxy's own."""
    port = {"number": 9080, "protocol": "HTTP", "name": "http"}
    way = {"port": port, "bind": "0.0.0.0", "captureMode": capture, "hosts": ["./*"]}
    return _object("Sidecar", {"egress": [way, {"hosts": ["./*"]}]})


def delayed(milliseconds: int) -> dict[str, str]:
    return {"x_envoy_fault_delay_request": str(milliseconds)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traffic(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Traffic]:
    identities = sorted({w.identity for w in World(mesh()).model.workloads.values()})
    protos = load(envoy_path(), tmp_path_factory.mktemp("descriptors"))
    async with Lab(tmp_path_factory.mktemp("traffic"), protos, identities) as lab:
        yield Traffic(lab)


async def holds(share: float, count: int, measure: Callable[[], Awaitable[int]]) -> None:
    """A measured count lies within three standard deviations of its share. Chance leaves them once
    in 370 times, so a second measurement may correct the first."""
    bound = 3 * math.sqrt(count * share * (1 - share))
    measured = [await measure()]
    if abs(measured[0] - count * share) > bound:
        measured.append(await measure())
    assert abs(measured[-1] - count * share) <= bound, f"{measured} of {count}, wanted {share}"


async def test_a_captured_port_may_be_opened_and_captured_again(traffic: Traffic) -> None:
    """Envoy 1.40 crashes if one listener does both in turn (its name tells them apart)."""
    for captured in (True, False, True):
        await traffic.use(egress("DEFAULT" if captured else "NONE"))
        answer = await traffic.send()
        assert answer.status == 200
        assert traffic.pod(answer).startswith("reviews")


async def test_a_retry_goes_to_another_host(traffic: Traffic) -> None:
    await traffic.use(routes(retries={"attempts": 3, "retryOn": "5xx"}))
    answers = await traffic.many(60, x_sick=traffic.sick("reviews-v1"))
    assert {a.status for a in answers} == {200}
    await traffic.use(routes(retries={"attempts": 0}))
    answers = await traffic.many(60, x_sick=traffic.sick("reviews-v1"))
    assert {a.status for a in answers} == {200, 503}


async def test_attempts_are_the_retries_after_the_first_try(traffic: Traffic) -> None:
    await traffic.use(routes(retries={"attempts": 2, "retryOn": "503"}))
    answers = await traffic.many(5, at_once=1, x_sick=ALL_SICK)
    assert {a.status for a in answers} == {503}
    assert len(await traffic.lab.arrivals(15)) == 15


async def test_responses_are_not_retried_by_default(traffic: Traffic) -> None:
    await traffic.use(routes())
    await traffic.many(5, at_once=1, x_sick=ALL_SICK)
    assert len(await traffic.lab.arrivals(5)) == 5


async def test_a_retry_budget_bounds_retries_at_once(traffic: Traffic) -> None:
    always = routes(retries={"attempts": 1, "retryOn": "5xx", "backoff": "1ms"})
    slow = delayed(150)
    await traffic.use(always)
    await traffic.many(30, at_once=30, x_sick=ALL_SICK, **slow)
    unbounded = len(await traffic.lab.arrivals(60))
    budget = {"percent": {"value": 0}, "minRetryConcurrency": 3}
    await traffic.use(always, rule({"retryBudget": budget}))
    await traffic.many(30, at_once=30, x_sick=ALL_SICK, **slow)
    bounded = len(await traffic.lab.arrivals(30))
    assert unbounded == 60
    assert 30 < bounded <= 40


async def test_a_timeout_ends_a_request_and_a_try(traffic: Traffic) -> None:
    await traffic.use(routes(timeout="0.3s"))
    began = time.monotonic()
    assert (await traffic.send(**delayed(2000))).status == 504
    assert 0.25 < time.monotonic() - began < 1.5
    tries = {"attempts": 2, "perTryTimeout": "0.2s", "retryOn": "5xx"}
    await traffic.use(routes(retries=tries))
    began = time.monotonic()
    assert (await traffic.send(**delayed(2000))).status == 504
    assert 0.55 < time.monotonic() - began < 1.8
    assert len(await traffic.lab.arrivals(0)) <= 4


async def test_without_a_timeout_requests_last(traffic: Traffic) -> None:
    await traffic.use(routes())
    assert (await traffic.send(**delayed(1500))).status == 200


async def test_ejection_lasts_longer_each_time(traffic: Traffic) -> None:
    outlier = {
        "consecutive5xxErrors": 2,
        "interval": "0.1s",
        "baseEjectionTime": "3s",
        "maxEjectionPercent": 100,
    }
    await traffic.use(
        routes(retries={"attempts": 0}),
        rule({"outlierDetection": outlier, "loadBalancer": {"simple": "ROUND_ROBIN"}}),
        reviews=1,
    )
    sick = traffic.sick("reviews-v1", code=500)
    outages: list[float] = []
    away: float | None = None
    deadline = time.monotonic() + 20
    while len(outages) < 2 and time.monotonic() < deadline:
        status = (await traffic.send(x_sick=sick)).status
        now = time.monotonic()
        if status == 503 and away is None:
            away = now
        elif status == 500 and away is not None:
            outages.append(now - away)
            away = None
        await asyncio.sleep(0.01)
    # Envoy tells its workers of a change within a second of the one before, all at once.
    first, second = outages
    assert first >= 2.9, outages
    assert second >= first + 0.7, outages


async def test_100_connections_and_10_requests_each(traffic: Traffic) -> None:
    pool = {"tcp": {"maxConnections": 100}, "http": {"maxRequestsPerConnection": 10}}
    await traffic.use(rule({"connectionPool": pool}), reviews=1)
    asked = [asyncio.create_task(_timed(traffic), name="asked") for _ in range(150)]
    waited = sorted(await asyncio.gather(*asked))
    first = [seconds for seconds in waited if seconds < waited[0] + 0.9]
    assert 100 <= len(first) <= 102, waited  # two workers may be one connection apart
    await traffic.lab.arrivals(150)
    await traffic.many(50, at_once=1)
    served = Counter(entry["peer"] for entry in await traffic.lab.arrivals(50))
    assert max(served.values()) <= 10, served


async def _timed(traffic: Traffic) -> float:
    began = time.monotonic()
    assert (await traffic.send(**delayed(1000))).status == 200
    return time.monotonic() - began


async def test_what_is_above_the_limits_is_refused(traffic: Traffic) -> None:
    limits = {"http1MaxPendingRequests": 200, "http2MaxRequests": 20}
    await traffic.use(
        routes(retries={"attempts": 0}), rule({"connectionPool": {"http": limits}}), reviews=1
    )
    answers = await traffic.many(60, at_once=60, **delayed(800))
    codes = Counter(a.status for a in answers)
    assert codes == {200: 20, 503: 40}
    assert all(a.header("x-envoy-overloaded") for a in answers if a.status == 503)
    one = {"tcp": {"maxConnections": 1}, "http": {"http1MaxPendingRequests": 1}}
    policy = rule({"connectionPool": one})
    await traffic.use(routes(retries={"attempts": 0}), policy, reviews=1)
    answers = await traffic.many(20, at_once=20, **delayed(200))
    assert Counter(a.status for a in answers)[503] >= 10


async def test_traffic_fails_over_to_the_next_locality(traffic: Traffic) -> None:
    outlier = {
        "consecutive5xxErrors": 1,
        "interval": "0.1s",
        "baseEjectionTime": "60s",
        "maxEjectionPercent": 100,
    }
    await traffic.use(routes(retries={"attempts": 0}), rule({"outlierDetection": outlier}))
    assert set(await traffic.shares(40)) == {"reviews-v1"}
    for failing, left in (("reviews-v1", "reviews-v2"), ("reviews-v2", "reviews-v3")):
        await traffic.many(4, at_once=1, x_sick=traffic.sick(failing, code=500))
        async with asyncio.timeout(5):
            while set(await traffic.shares(10)) != {left}:
                pass
        assert set(await traffic.shares(40)) == {left}


async def test_localities_get_the_shares_they_are_given(traffic: Traffic) -> None:
    shares = {"r1/z1/*": 70, "r1/z2/*": 30}
    setting = {"distribute": [{"from": "r1/z1/*", "to": shares}]}
    await traffic.use(rule({"loadBalancer": {"localityLbSetting": setting}}))

    async def nearest() -> int:
        found = await traffic.shares(400)
        assert set(found) == {"reviews-v1", "reviews-v2"}
        return found["reviews-v1"]

    await holds(0.7, 400, nearest)


async def test_a_new_endpoint_warms_up(traffic: Traffic) -> None:
    warm = {"simple": "ROUND_ROBIN", "warmup": {"duration": "4s", "minimumPercent": 5}}
    policy = rule({"loadBalancer": warm})
    await traffic.use(policy, reviews=2)
    await asyncio.sleep(4.2)
    await traffic.use(policy, reviews=3)
    cold = (await traffic.shares(120))["reviews-v3"] / 120
    await asyncio.sleep(4.5)
    warmed = (await traffic.shares(300))["reviews-v3"] / 300
    assert cold < 0.2, (cold, warmed)
    assert warmed > 0.25, (cold, warmed)


@pytest.mark.parametrize("table", [{}, {"maglev": {"tableSize": 1009}}], ids=["ring", "maglev"])
async def test_a_hash_keeps_users_where_they_are(traffic: Traffic, table: Json) -> None:
    consistent = {"httpHeaderName": "x-user"} | table
    policy = rule({"loadBalancer": {"consistentHash": consistent}})
    users = [f"user-{i}" for i in range(60)]

    async def homes() -> dict[str, str]:
        return {user: traffic.pod(await traffic.send(x_user=user)) for user in users}

    await traffic.use(policy)
    before = await homes()
    assert await homes() == before
    assert set(before.values()) == {"reviews-v1", "reviews-v2", "reviews-v3"}
    await traffic.use(policy, reviews=2)
    after = await homes()
    stayed = [user for user in users if before[user] != "reviews-v3"]
    moved = [user for user in stayed if after[user] != before[user]]
    assert len(moved) <= 0.2 * len(stayed), moved


async def test_a_hash_of_cookie_query_and_address(traffic: Traffic) -> None:
    def hashed(key: Json) -> Json:
        return rule({"loadBalancer": {"consistentHash": key}})

    await traffic.use(hashed({"httpCookie": {"name": "user", "ttl": "1h", "path": "/"}}))
    first = await traffic.send()
    cookie = (first.header("set-cookie") or "").partition(";")[0]
    assert cookie.startswith("user=")
    assert set(await traffic.shares(30, cookie=cookie)) == {traffic.pod(first)}
    await traffic.use(hashed({"httpQueryParameterName": "user"}))
    homes = {traffic.pod(await traffic.send("/?user=7")) for _ in range(30)}
    assert len(homes) == 1
    await traffic.use(hashed({"useSourceIp": True}))
    assert len(await traffic.shares(30)) == 1


async def test_mirrors_get_their_percentage(traffic: Traffic) -> None:
    mirror = {"mirror": {"host": "ratings"}, "mirrorPercentage": {"value": 30}}
    await traffic.use(routes(**mirror))
    copies = f"{traffic.addresses['ratings-v1']}:9080"

    async def mirrored() -> int:
        await traffic.many(400)
        arrived = await traffic.lab.arrivals(400)
        return sum(entry["address"] == copies for entry in arrived)

    await holds(0.3, 400, mirrored)
    await traffic.use(routes(**mirror | {"mirrorPercentage": {"value": 0}}))
    assert await mirrored() == 0


async def test_faults_hit_their_percentage(traffic: Traffic) -> None:
    fault = {
        "abort": {"httpStatus": 418, "percentage": {"value": 25}},
        "delay": {"fixedDelay": "0.3s", "percentage": {"value": 20}},
    }
    await traffic.use(routes(fault={"abort": fault["abort"]}))

    async def aborted() -> int:
        return sum(a.status == 418 for a in await traffic.many(600))

    await holds(0.25, 600, aborted)
    await traffic.use(routes(fault={"delay": fault["delay"]}))

    async def late() -> int:
        async def one() -> bool:
            began = time.monotonic()
            await traffic.send()
            return time.monotonic() - began >= 0.29

        found: list[bool] = []
        for _ in range(20):
            found += await asyncio.gather(*(one() for _ in range(15)))
        return sum(found)

    await holds(0.2, 300, late)


async def test_a_fault_is_not_retried(traffic: Traffic) -> None:
    abort = {"httpStatus": 503, "percentage": {"value": 100}}
    await traffic.use(routes(fault={"abort": abort}, retries={"attempts": 3, "retryOn": "5xx"}))
    assert {a.status for a in await traffic.many(5)} == {503}
    assert await traffic.lab.arrivals() == []

"""DestinationRule's loadBalancer, outlierDetection and retryBudget, on a real Envoy."""

import asyncio
import json
from collections import Counter
from itertools import pairwise

from ..real.client import Answer
from .conftest import REAL
from .peers import keep
from .stage import Json, Stage, closed, heard, objects

pytestmark = REAL

HERE, ELSEWHERE, FAR = "r1.z1.s1", "r2.z1.s1", "r3.z1.s1"


def rule(policy: str, *, host: str = "reviews", extra: str = "") -> Json:
    return objects(f"""
- kind: DestinationRule
  metadata: {{name: {host}}}
  spec: {{host: {host}, trafficPolicy: {policy}}}
- kind: VirtualService
  metadata: {{name: {host}}}
  spec: {{hosts: [{host}], http: [{{route: [{{destination: {{host: {host}}}}}], retries: {{}}}}]}}
{extra}
""")


_TURNS = "{simple: ROUND_ROBIN}"


def fresh(stage: Stage) -> str:
    """Settings of an outlier detection that no cluster had before: nobody is out from before."""
    stage.count += 1
    return f"baseEjectionTime: {60 + stage.count}s, maxEjectionPercent: 100"


async def served(stage: Stage, count: int, url: str = "reviews:9080/", **headers: str) -> list[str]:
    """Who answered each of so many requests, one after the other."""
    return [stage.who(await stage.get(url, **headers)) for _ in range(count)]


async def test_in_turn_at_random_and_where_the_client_went(stage: Stage) -> None:
    await stage.use(rule("{loadBalancer: {simple: ROUND_ROBIN}}"))
    found = await served(stage, 12)
    assert set(Counter(found).values()) == {4}
    assert all(one != next_one for one, next_one in pairwise(found)), found
    await stage.use(rule("{loadBalancer: {simple: RANDOM}}"))
    found = await served(stage, 40)
    assert len(set(found)) == 3
    assert any(one == next_one for one, next_one in pairwise(found)), found
    await stage.use(rule("{loadBalancer: {simple: PASSTHROUGH}}"))
    answer = json.loads((await stage.get("reviews:9080/")).body)
    assert answer["address"] == f"{stage.address('reviews')}:9080"


_UNEVEN = """
pods:
  slow-0: {app: uneven, sidecar: false, ports: {web: 17001}}
  fast-0: {app: uneven, sidecar: false, ports: {web: 9080}}
services: {uneven: {ports: {http: 80 > web}}}
"""


async def test_the_endpoint_with_fewer_requests_is_preferred(stage: Stage) -> None:
    async def of_the_slow_one(policy: str) -> int:
        await stage.use(_UNEVEN, rule(policy, host="uneven"))
        async with stage.peer(17001, keep) as slow:
            asked: list[asyncio.Task[Answer]] = []
            for _ in range(40):
                asked.append(asyncio.create_task(stage.get("uneven:80/"), name="asked"))
                await asyncio.wait([asked[-1]], timeout=0.04)
            count = len(slow.visits)
        await asyncio.gather(*asked)
        return count

    # The better of two that chance chooses: one time in four both are the slow one.
    assert await of_the_slow_one("{loadBalancer: {simple: ROUND_ROBIN}}") == 20
    assert await of_the_slow_one("{loadBalancer: {simple: LEAST_REQUEST}}") < 20


async def test_rings_and_tables_have_their_sizes(stage: Stage) -> None:
    async def ring(consistent: str) -> dict[str, int]:
        await stage.use(rule(f"{{loadBalancer: {{consistentHash: {consistent}}}}}"))
        await stage.get("reviews:9080/")
        found = await stage.stats("reviews.*(ring_hash_lb.size|maglev_lb.m.*_per_host)")
        return {name.rpartition("cluster.local.")[2].strip(";."): v for name, v in found.items()}

    header = "httpHeaderName: x-user"
    assert await ring(f"{{{header}}}") == {"ring_hash_lb.size": 1026}, "1024 for three hosts"
    assert await ring(f"{{{header}, ringHash: {{minimumRingSize: 90}}}}") == {
        "ring_hash_lb.size": 90
    }
    assert await ring(f"{{{header}, minimumRingSize: 60}}") == {"ring_hash_lb.size": 60}
    maglev = await ring(f"{{{header}, maglev: {{tableSize: 101}}}}")
    assert maglev == {"maglev_lb.min_entries_per_host": 33, "maglev_lb.max_entries_per_host": 34}


async def test_a_cookie_is_given_as_it_is_described(stage: Stage) -> None:
    cookie = "{name: user, ttl: 1h, path: /shop, attributes: [{name: SameSite, value: Strict}]}"
    await stage.use(rule(f"{{loadBalancer: {{consistentHash: {{httpCookie: {cookie}}}}}}}"))
    first = await stage.get("reviews:9080/")
    name, *rest = (first.header("set-cookie") or "").split("; ")
    assert name.startswith("user=")
    assert sorted(rest) == ["HttpOnly", "Max-Age=3600", "Path=/shop", "SameSite=Strict"]
    assert set(await served(stage, 10, cookie=name)) == {stage.who(first)}
    assert (await stage.get("reviews:9080/", cookie=name)).header("set-cookie") is None


async def test_connections_of_bytes_are_kept_with_one_endpoint(stage: Stage) -> None:
    places = "pods: {db-1: {app: db}, db-2: {app: db}}"

    async def reached(policy: str) -> set[str]:
        await stage.use(places, rule(policy, host="db"))
        found = set()
        for _ in range(12):
            reader, writer = await stage.connect("db", 5432)
            writer.write(b"\x01hello\n")
            found.add(json.loads(await heard(reader))["address"])
            await closed(writer)
        return found

    assert len(await reached("{loadBalancer: {consistentHash: {useSourceIp: true}}}")) == 1
    assert len(await reached("{loadBalancer: {simple: ROUND_ROBIN}}")) == 3


_PODS = f"""
pods:
  client: {{labels: {{istio-locality: {HERE}, team: blue, rack: a}}}}
  reviews-v1: {{app: reviews, version: v1, labels: {{istio-locality: {HERE}, team: red}}}}
  reviews-v2: {{app: reviews, version: v2, labels: {{istio-locality: {ELSEWHERE}, team: blue}}}}
  reviews-v3: {{app: reviews, version: v3, labels: {{istio-locality: {FAR}, rack: a, team: blue}}}}
"""
_EJECTS = (
    "{consecutive5xxErrors: 1, interval: 0.1s, baseEjectionTime: 60s, maxEjectionPercent: 100}"
)


async def _after_failures(stage: Stage, setting: str, *failing: str) -> set[str]:
    """Who serves under a locality setting once some pods have failed."""
    ejects = f"consecutive5xxErrors: 1, {fresh(stage)}"
    balancer = f"{{localityLbSetting: {setting}}}"
    await stage.use(_PODS, rule(f"{{loadBalancer: {balancer}, outlierDetection: {{{ejects}}}}}"))
    for name in failing:
        async with asyncio.timeout(5):
            while name in await served(stage, 5, x_sick=f"{stage.pod(name)}=500"):
                pass
    return set(await served(stage, 20))


async def test_failover_follows_regions_or_labels(stage: Stage) -> None:
    assert await _after_failures(stage, "{enabled: true}", "reviews-v1") == {
        "reviews-v2",
        "reviews-v3",
    }
    to_r3 = "{failover: [{from: r1, to: r3}]}"
    assert await _after_failures(stage, to_r3, "reviews-v1") == {"reviews-v3"}
    assert await _after_failures(stage, "{failoverPriority: [team]}") == {
        "reviews-v2",
        "reviews-v3",
    }
    both = "{failoverPriority: [team, rack]}"
    assert await _after_failures(stage, both) == {"reviews-v3"}
    assert await _after_failures(stage, both, "reviews-v3") == {"reviews-v2"}
    named = '{failoverPriority: ["team=red"]}'
    assert await _after_failures(stage, named) == {"reviews-v1"}
    off = await _after_failures(stage, "{enabled: false}")
    assert off == {"reviews-v1", "reviews-v2", "reviews-v3"}


_WARMING = """
services:
  linear: {ports: {http: 9080}, selector: {app: reviews}}
  steep: {ports: {http: 9080}, selector: {app: reviews}}
  old: {ports: {http: 9080}, selector: {app: reviews}}
"""


async def test_how_fast_a_new_endpoint_warms_up(stage: Stage) -> None:
    def warm(name: str, settings: str) -> Json:
        return rule(f"{{loadBalancer: {{simple: ROUND_ROBIN, {settings}}}}}", host=name)

    mesh = (
        _WARMING,
        warm("linear", "warmup: {duration: 3s, minimumPercent: 2, aggression: 1}"),
        warm("steep", "warmup: {duration: 3s, minimumPercent: 2, aggression: 50}"),
        warm("old", "warmupDurationSecs: 3s"),
    )
    await stage.use("pods: {reviews-v3: {app: nobody}}", *mesh)
    for name in ("linear", "steep", "old"):
        await served(stage, 2, f"{name}:9080/")
    await asyncio.sleep(3.1)
    await stage.use(*mesh)

    async def share(name: str) -> float:
        found = await asyncio.gather(*(served(stage, 9, f"{name}:9080/") for _ in range(5)))
        return sum(one.count("reviews-v3") for one in found) / 45

    names = ("linear", "steep", "old")
    shares = dict(zip(names, await asyncio.gather(*map(share, names)), strict=True))
    assert shares["steep"] > 0.22, shares
    assert max(shares["linear"], shares["old"]) < 0.22, shares


async def _ejected(stage: Stage, outlier: str, code: int, *, count: int = 4) -> int:
    """How many of three pods are out once one of them has failed some times."""
    detection = f"{{{fresh(stage)}, {outlier}}}"
    await stage.use(rule(f"{{outlierDetection: {detection}, loadBalancer: {_TURNS}}}"))
    await served(stage, 3 * count, x_sick=f"{stage.pod('reviews-v1')}={code}")
    return await _active(stage)


async def _active(stage: Stage, host: str = "reviews") -> int:
    found = await stage.stats(f"{host}.*outlier_detection.ejections_active")
    return sum(found.values())


async def test_which_answers_count_as_failures(stage: Stage) -> None:
    gateway = "consecutiveGatewayErrors: 2, consecutive5xxErrors: 0"
    assert await _ejected(stage, gateway, 500) == 0
    for code in (502, 503, 504):
        assert await _ejected(stage, gateway, code) == 1, code
    assert await _ejected(stage, "consecutiveErrors: 2, consecutive5xxErrors: 0", 503) == 1
    assert await _ejected(stage, "consecutive5xxErrors: 2", 500) == 1
    assert await _ejected(stage, "consecutive5xxErrors: 2", 429) == 0
    codes = "consecutive5xxErrors: 2, outlierDetectionHttpErrorCodes: [429]"
    assert await _ejected(stage, codes, 429) == 1
    assert await _ejected(stage, codes, 500) == 1
    assert await _ejected(stage, codes, 404) == 0
    assert await _ejected(stage, "consecutive5xxErrors: 0, consecutiveGatewayErrors: 0", 503) == 0


_REFUSING = """
pods:
  gone-0: {app: uneven, sidecar: false, ports: {web: 17001}}
  fast-0: {app: uneven, sidecar: false, ports: {web: 9080}}
services: {uneven: {ports: {http: 80 > web}}}
"""


async def test_failures_to_connect_may_be_counted_apart(stage: Stage) -> None:
    async def ejected(outlier: str) -> int:
        detection = f"{{{fresh(stage)}, {outlier}}}"
        policy = f"{{outlierDetection: {detection}, loadBalancer: {_TURNS}}}"
        await stage.use(_REFUSING, rule(policy, host="uneven"))
        for _ in range(8):
            await stage.get("uneven:80/")
        return await _active(stage, "uneven")

    apart = "splitExternalLocalOriginErrors: true, consecutive5xxErrors: 1"
    assert await ejected("consecutive5xxErrors: 1") == 1
    assert await ejected(f"{apart}, consecutiveLocalOriginFailures: 0") == 0
    assert await ejected(f"{apart}, consecutiveLocalOriginFailures: 2") == 1
    assert await ejected(f"{apart}, consecutiveLocalOriginFailures: 100") == 0


async def test_how_many_may_leave_and_when_they_are_used_again(stage: Stage) -> None:
    base = "consecutive5xxErrors: 1, interval: 60s, baseEjectionTime: 60s"

    async def out(limit: int) -> int:
        await stage.use(rule(f"{{outlierDetection: {{{base}, maxEjectionPercent: {limit}}}}}"))
        await asyncio.gather(*(served(stage, 3, x_sick="0=500") for _ in range(8)))
        return await _active(stage)

    assert await out(34) == 1
    assert await out(67) == 2
    assert await out(100) == 3

    async def used(least: int) -> bool:
        outlier = f"{{{base}, maxEjectionPercent: 100, minHealthPercent: {least}}}"
        await stage.use(rule(f"{{outlierDetection: {outlier}}}"))
        await asyncio.gather(
            *(served(stage, 3, x_sick=f"{stage.pod('reviews-v1')}=500") for _ in range(8))
        )
        assert await _active(stage) == 1
        return "reviews-v1" in await served(stage, 40)

    assert not await used(50)
    assert await used(80)


async def test_a_budget_counts_active_requests_or_those_of_an_interval(stage: Stage) -> None:
    async def retried(more: str) -> int:
        budget = f"{{percent: {{value: 20}}, minRetryConcurrency: 1{more}}}"
        rules = f"""
- kind: VirtualService
  metadata: {{name: reviews}}
  spec:
    hosts: [reviews]
    http:
    - route: [{{destination: {{host: reviews}}}}]
      retries: {{attempts: 1, retryOn: 5xx, backoff: 1ms}}
- kind: DestinationRule
  metadata: {{name: reviews}}
  spec: {{host: reviews, trafficPolicy: {{retryBudget: {budget}}}}}
"""
        await stage.use(objects(rules))
        await asyncio.gather(*(served(stage, 10) for _ in range(10)))
        before = await stage.retries("reviews")
        sick = {"x_sick": "0=503", "x_envoy_fault_delay_request": "200"}
        await asyncio.gather(*(stage.get("reviews:9080/", **sick) for _ in range(20)))
        return await stage.retries("reviews") - before

    active = await retried("")
    interval = await retried(", budgetInterval: 10s")
    assert 1 <= active <= 8, (active, interval)
    assert interval >= 15, (active, interval)

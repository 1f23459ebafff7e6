"""DestinationRule's connectionPool, on real connections: limits, ages, keepalive, HTTP versions."""

import asyncio
import json
import time

import yaml

from meltemi.simulate.request import Request

from ..real.networks import SILENT_PORT
from .conftest import REAL
from .peers import Http2, http, repeat
from .stage import Json, Stage, closed, heard, http2, objects

pytestmark = REAL


def far(port: int, pool: str, *, name: str = "far", protocol: str = "http") -> Json:
    """A service on port 80 that leads to a port of one pod, with a connection pool."""
    rules = f"""
- kind: DestinationRule
  metadata: {{name: {name}}}
  spec: {{host: {name}, trafficPolicy: {{connectionPool: {pool}}}}}
- kind: VirtualService
  metadata: {{name: {name}}}
  spec: {{hosts: [{name}], http: [{{route: [{{destination: {{host: {name}}}}}], retries: {{}}}}]}}
"""
    return {
        "pods": {"far-0": {"app": "far", "sidecar": False}},
        "services": {name: {"ports": {protocol: f"80 > {port}"}, "selector": {"app": "far"}}},
        "objects": yaml.safe_load(rules),
    }


async def test_a_connection_must_stand_in_time(stage: Stage) -> None:
    await stage.use(far(SILENT_PORT, "{tcp: {connectTimeout: 0.3s}}"))
    began = time.monotonic()
    answer = await stage.get("far:80/")
    assert answer.status == 503
    assert b"connection timeout" in answer.body
    assert 0.25 < time.monotonic() - began < 2


async def test_the_kernel_keeps_connections_alive(stage: Stage) -> None:
    await stage.use(far(17001, "{tcp: {tcpKeepalive: {probes: 7, time: 90s, interval: 11s}}}"))
    async with stage.peer(17001, http):
        assert (await stage.get("far:80/")).status == 200
        assert stage.keepalive(17001) == [1, 7, 90, 11]


async def test_connections_of_bytes_end_when_they_are_old_or_idle(stage: Stage) -> None:
    pools = {
        "old": "{tcp: {maxConnectionDuration: 0.6s}}",
        "idle": "{tcp: {idleTimeout: 0.4s}}",
        "busy": "{tcp: {idleTimeout: 0.3s, maxConnectionDuration: 1s}}",
    }
    await stage.use(*(far(17002, p, name=n, protocol="tcp") for n, p in pools.items()))

    async def lasts(name: str, *, talking: bool) -> float:
        reader, writer = await stage.connect(name, 80)
        began = time.monotonic()
        async with asyncio.timeout(8):
            writer.write(b"x")
            while await reader.read(1):
                if talking:
                    await asyncio.sleep(0.05)
                    writer.write(b"x")
        await closed(writer)
        return time.monotonic() - began

    async with stage.peer(17002, repeat):
        old, idle, busy = await asyncio.gather(
            lasts("old", talking=True), lasts("idle", talking=False), lasts("busy", talking=True)
        )
    assert 0.5 < old < 3
    assert 0.3 < idle < 3
    assert 0.9 < busy < 3, "bytes keep it from being idle"


async def test_connections_of_http_end_when_they_are_old_or_idle(stage: Stage) -> None:
    pools = {
        "idle": ("{http: {idleTimeout: 0.4s}}", 0.3),
        "idle-tcp": ("{tcp: {idleTimeout: 0.4s}}", 0.3),
        "both": ("{tcp: {idleTimeout: 0.2s}, http: {idleTimeout: 0.7s}}", 0.6),
        "old": ("{tcp: {maxConnectionDuration: 0.4s}}", 0.3),
    }
    ports = {name: 17010 + i for i, name in enumerate(pools)}
    await stage.use(*(far(ports[name], pool, name=name) for name, (pool, _) in pools.items()))

    async def lasted(name: str) -> float:
        async with stage.peer(ports[name], http) as peer:
            assert (await stage.get(f"{name}:80/")).status == 200
            await peer.until(lambda visits: visits[0].ended is not None)
            return peer.visits[0].lasted or 0

    for name, spent in zip(pools, await asyncio.gather(*map(lasted, pools)), strict=True):
        assert pools[name][1] < spent < 3, name


async def test_retries_at_once_are_bounded(stage: Stage) -> None:
    async def retried(pool: str) -> int:
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
  spec: {{host: reviews, trafficPolicy: {{connectionPool: {pool}}}}}
"""
        await stage.use(objects(rules))
        before = await stage.retries("reviews")
        sick = {"x_sick": "0=503", "x_envoy_fault_delay_request": "150"}
        await asyncio.gather(*(stage.get("reviews:9080/", **sick) for _ in range(20)))
        return await stage.retries("reviews") - before

    assert await retried("{http: {maxRetries: 2}}") <= 5
    assert await retried("{http: {maxRequestsPerConnection: 5}}") == 20, "no limit by default"


async def _protocols(stage: Stage, pool: str, *more: Json) -> list[str]:
    """What `ratings` is asked in, by a client of HTTP/1.1 and by one of HTTP/2."""
    rule = f"""
- kind: DestinationRule
  metadata: {{name: ratings}}
  spec: {{host: ratings, trafficPolicy: {{connectionPool: {{http: {pool}}}}}}}
"""
    await stage.use(objects(rule), *more)
    one = await stage.get("ratings:9080/")
    two = await http2(*await stage.connect("ratings", 9080), Request("ratings:9080"))
    return [json.loads(body)["protocol"] for body in (one.body, two.body)]


async def test_which_http_endpoints_are_spoken_to(stage: Stage) -> None:
    assert await _protocols(stage, "{maxRetries: 9}") == ["HTTP/1.1", "HTTP/1.1"]
    assert await _protocols(stage, "{h2UpgradePolicy: UPGRADE}") == ["HTTP/2", "HTTP/2"]
    assert await _protocols(stage, "{useClientProtocol: true}") == ["HTTP/1.1", "HTTP/2"]
    mesh = {"mesh": {"h2UpgradePolicy": "UPGRADE"}}
    assert await _protocols(stage, "{h2UpgradePolicy: DEFAULT}", mesh) == ["HTTP/2"] * 2
    no = "{h2UpgradePolicy: DO_NOT_UPGRADE}"
    assert await _protocols(stage, no, mesh) == ["HTTP/1.1"] * 2


async def test_streams_of_one_connection_are_bounded(stage: Stage) -> None:
    async def connections(pool: str) -> list[int]:
        server = Http2()
        server.gate.clear()
        await stage.use(far(17003, pool))
        async with stage.peer(17003, server):
            asked = [asyncio.create_task(stage.get("far:80/"), name="asked") for _ in range(6)]
            async with asyncio.timeout(10):
                while sum(map(len, server.streams)) < 6:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            server.gate.set()
            assert {a.status for a in await asyncio.gather(*asked)} == {200}
        return sorted(map(len, server.streams))

    assert await connections("{http: {h2UpgradePolicy: UPGRADE}}") == [6]
    two = "{http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 2}}"
    assert await connections(two) == [2, 2, 2]


async def test_silent_http2_connections_are_pinged(stage: Stage) -> None:
    pings = "{http: {h2UpgradePolicy: UPGRADE, http2KeepAlive: {interval: 0.2s, timeout: 0.3s}}}"
    await stage.use(far(17003, pings), far(17004, pings, name="deaf"))
    healthy = Http2()
    async with stage.peer(17003, healthy) as peer:
        assert (await stage.get("far:80/")).status == 200
        await peer.until(lambda _: healthy.pings >= 3)
        assert peer.visits[0].ended is None
    async with stage.peer(17004, Http2(pongs=False)) as peer:
        assert (await stage.get("deaf:80/")).status == 200
        await peer.until(lambda visits: visits[0].ended is not None)
        assert 0.4 < (peer.visits[0].lasted or 0) < 3


async def test_a_limit_of_connections_holds_for_bytes(stage: Stage) -> None:
    await stage.use(far(17005, "{tcp: {maxConnections: 2}}", protocol="tcp"))
    async with stage.peer(17005, repeat) as peer:
        writers: list[asyncio.StreamWriter] = []

        async def answered() -> bytes:
            reader, writer = await stage.connect("far", 80)
            writers.append(writer)
            writer.write(b"x")
            return await heard(reader)

        assert [await answered() for _ in range(4)] == [b"x", b"x", b"", b""]
        assert len(peer.visits) == 2
        for writer in writers:
            await closed(writer)

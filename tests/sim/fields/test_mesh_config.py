"""Fields of MeshConfig that connections, bytes, statistics and logs show."""

import asyncio
import json
import ssl
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from ..real.networks import SILENT_PORT
from .caller import Caller
from .certificates import Files
from .conftest import REAL
from .peers import http, keep
from .stage import Json, Stage, closed, heard, objects

pytestmark = REAL
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def config(text: str) -> Json:
    return {"mesh": yaml.safe_load(text)}


def far(port: int, *, name: str = "far", protocol: str = "http", policy: str = "") -> Json:
    """A service on port 80 that leads to a port of one pod."""
    rules = f"""
- kind: VirtualService
  metadata: {{name: {name}}}
  spec: {{hosts: [{name}], http: [{{route: [{{destination: {{host: {name}}}}}], retries: {{}}}}]}}
"""
    if policy:
        rules += f"""
- kind: DestinationRule
  metadata: {{name: {name}}}
  spec: {{host: {name}, trafficPolicy: {policy}}}
"""
    return {
        "pods": {"far-0": {"app": "far", "sidecar": False}},
        "services": {name: {"ports": {protocol: f"80 > {port}"}, "selector": {"app": "far"}}},
        "objects": yaml.safe_load(rules),
    }


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("certificates"))


async def test_how_connections_are_made(stage: Stage) -> None:
    mesh = config("{connectTimeout: 0.3s, tcpKeepalive: {probes: 7, time: 90s, interval: 11s}}")
    own = "{connectionPool: {tcp: {tcpKeepalive: {probes: 3, time: 40s, interval: 5s}}}}"
    await stage.use(
        mesh,
        far(SILENT_PORT, name="silent"),
        far(17001),
        far(17002, name="own", policy=own),
    )
    began = time.monotonic()
    assert (await stage.get("silent:80/")).status == 503
    assert 0.25 < time.monotonic() - began < 2
    async with stage.peer(17001, http), stage.peer(17002, http):
        assert (await stage.get("far:80/")).status == 200
        assert (await stage.get("own:80/")).status == 200
        assert stage.keepalive(17001) == [1, 7, 90, 11]
        assert stage.keepalive(17002) == [1, 3, 40, 5]


async def test_where_inbound_traffic_goes(stage: Stage) -> None:
    async def application() -> str:
        answer = await stage.get("ratings:9080/")
        return str(json.loads(answer.body)["address"])

    await stage.use(server="ratings-v1")
    assert await application() == f"{stage.pod('ratings-v1')}:9080"
    await stage.use(config("inboundTrafficPolicy: {mode: LOCALHOST}"), server="ratings-v1")
    assert await application() == "127.0.0.1:9080"


async def test_whom_servers_believe_and_how_mutual_tls_is_spoken(
    stage: Stage, tmp_path: Path
) -> None:
    caller = Caller(stage, tmp_path)

    async def use(text: str = "{}") -> None:
        await stage.use(config(text), server="ratings-v1")
        assert (await stage.get("ratings:9080/")).status == 200, "the mesh's own clients"

    await use()
    assert [await caller.status(d) for d in ("cluster.local", "old.local")] == [200, 0]
    assert [await caller.status(most=V12), await caller.status(least=V13)] == [200, 200]
    await use("trustDomainAliases: [old.local]")
    domains = ("cluster.local", "old.local", "other.local")
    assert [await caller.status(d) for d in domains] == [200, 200, 0]
    await use("meshMTLS: {minProtocolVersion: TLSV1_3}")
    assert [await caller.status(most=V12), await caller.status(least=V13)] == [0, 200]
    await use("meshMTLS: {cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384]}")
    asked = [f"ECDHE-ECDSA-AES{bits}" for bits in ("128-GCM-SHA256", "256-GCM-SHA384")]
    assert [await caller.status(most=V12, ciphers=c) for c in asked] == [0, 200]
    await use("meshMTLS: {ecdhCurves: [P-384]}")
    assert [await caller.status(curve=c) for c in ("prime256v1", "secp384r1")] == [0, 200]


async def test_how_originated_tls_is_spoken(stage: Stage, ours: Files) -> None:
    pair = ours.pair("server", "right.example")
    tls = f"{{tls: {{mode: SIMPLE, caCertificates: {ours.ca}, subjectAltNames: [right.example]}}}}"

    async def statuses(text: str, *servers: ssl.SSLContext) -> list[int]:
        names = [f"far-{i}" for i in range(len(servers))]
        ports = [17001 + i for i in range(len(servers))]
        mesh = (far(p, name=n, policy=tls) for p, n in zip(ports, names, strict=True))
        await stage.use(config(text), *mesh)
        found = []
        for port, name, server in zip(ports, names, servers, strict=True):
            async with stage.peer(port, http, server):
                found.append((await stage.get(f"{name}:80/")).status)
        return found

    def server(**limits: object) -> ssl.SSLContext:
        context = ours.server(pair)
        if "most" in limits:
            context.maximum_version = V12
        if "ciphers" in limits:
            context.set_ciphers(str(limits["ciphers"]))
        if "curve" in limits:
            context.set_ecdh_curve(str(limits["curve"]))
        return context

    old, new = server(most=V12), server()
    assert await statuses("{}", old, new) == [200, 200]
    assert await statuses("tlsDefaults: {minProtocolVersion: TLSV1_3}", old, new) == [503, 200]
    suites = [
        server(most=V12, ciphers=f"ECDHE-ECDSA-AES{bits}")
        for bits in ("128-GCM-SHA256", "256-GCM-SHA384")
    ]
    limit = "tlsDefaults: {cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384]}"
    assert await statuses(limit, *suites) == [503, 200]
    curves = [server(curve=name) for name in ("prime256v1", "secp384r1")]
    assert await statuses("tlsDefaults: {ecdhCurves: [P-384]}", *curves) == [503, 200]


async def test_names_in_statistics(stage: Stage) -> None:
    text = """
outboundClusterStatName: "%SERVICE%_%SERVICE_PORT_NAME%_%SERVICE_PORT%_%SUBSET_NAME%"
inboundClusterStatName: "in_%SERVICE_FQDN%_%TARGET_PORT%"
"""
    await stage.use(config(text), server="ratings-v1")
    assert (await stage.get("ratings:9080/")).status == 200
    out = await stage.stats("cluster.ratings.default_http_9080_.upstream_rq_total|upstream_rq_200")
    assert any("ratings.default_http_9080_" in name and value for name, value in out.items()), out
    inside = await stage.stats("in_ratings.*upstream_rq_total", role="server")
    assert any(value for value in inside.values()), inside


async def test_silent_routes_have_the_meshs_retries(stage: Stage) -> None:
    rules = objects("""
- kind: VirtualService
  metadata: {name: ratings}
  spec:
    hosts: [ratings]
    http:
    - {route: [{destination: {host: ratings}}], retries: {attempts: 1, retryOn: 5xx}}
- kind: DestinationRule
  metadata: {name: reviews}
  spec:
    host: reviews
    trafficPolicy: {loadBalancer: {simple: RANDOM}, outlierDetection: {consecutive5xxErrors: 1000}}
""")
    places = yaml.safe_load("""
pods:
  client: {labels: {istio-locality: r1.z1.s1}}
  reviews-v1: {app: reviews, version: v1, labels: {istio-locality: r1.z1.s1}}
  reviews-v2: {app: reviews, version: v2, labels: {istio-locality: r1.z1.s1}}
  reviews-v3: {app: reviews, version: v3, labels: {istio-locality: r2.z1.s1}}
""")

    async def use(policy: str) -> None:
        await stage.use(config(f"defaultHttpRetryPolicy: {policy}"), rules, places)

    await use("{attempts: 3, retryOn: '503', backoff: 1ms}")
    assert (await stage.get("reviews:9080/", x_sick="0=503")).status == 503
    assert len(await stage.lab.arrivals(4)) == 4
    assert (await stage.get("reviews:9080/", x_sick="0=500")).status == 500
    assert len(await stage.lab.arrivals(1)) == 1
    await stage.get("ratings:9080/", x_sick="0=503")
    assert len(await stage.lab.arrivals(2)) == 2, "a rule that says its own"

    await use("{attempts: 1, retryOn: '5xx', perTryTimeout: 0.2s, backoff: 1ms}")
    began = time.monotonic()
    assert (await stage.get("reviews:9080/", x_envoy_fault_delay_request="3000")).status == 504
    assert 0.35 < time.monotonic() - began < 2

    async def failures() -> int:
        sick = f"{stage.pod('reviews-v1')}=503"
        asked = (stage.get("reviews:9080/", x_sick=sick) for _ in range(100))
        return sum(answer.status == 503 for answer in await asyncio.gather(*asked))

    await use("{attempts: 1, retryOn: 5xx, backoff: 1ms}")
    assert await failures() <= 7, "chance may choose the same one, again and again"
    await use("{attempts: 1, retryOn: 5xx, backoff: 1ms, retryIgnorePreviousHosts: false}")
    assert await failures() >= 9

    near = ",".join(f"{stage.pod(f'reviews-v{i}')}=503" for i in (1, 2))
    await use("{attempts: 2, retryOn: 5xx, backoff: 1ms, retryRemoteLocalities: true}")
    assert (await stage.get("reviews:9080/", x_sick=near)).status == 200

    await use("{attempts: 2, retryOn: 5xx, backoff: 0.3s}")

    async def one() -> float:
        began = time.monotonic()
        await stage.get("reviews:9080/", x_sick="0=503")
        return time.monotonic() - began

    assert max(await asyncio.gather(*(one() for _ in range(12)))) > 0.3


async def test_lines_of_access_logs(stage: Stage, tmp_path: Path) -> None:
    async def lines(name: str, more: str) -> list[str]:
        path = tmp_path / name
        await stage.use(config(f"accessLogFile: {path}\n{more}"))
        assert (await stage.get("ratings:9080/logged?x=1", user_agent="tester")).status == 200
        async with asyncio.timeout(10):
            while not path.exists() or not path.read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return path.read_text().splitlines()

    (line,) = await lines("plain.log", "")
    assert '"GET /logged?x=1 HTTP/1.1" 200 - via_upstream' in line
    assert '"tester"' in line
    assert '"ratings:9080"' in line
    assert "outbound|9080||ratings.default.svc.cluster.local" in line
    assert await lines("own.log", "accessLogFormat: '%PROTOCOL% %RESPONSE_CODE%'") == [
        "HTTP/1.1 200"
    ]
    (line,) = await lines("json.log", "accessLogEncoding: JSON")
    entry = json.loads(line)
    assert (entry["method"], entry["path"], entry["response_code"]) == ("GET", "/logged?x=1", 200)
    assert entry["upstream_cluster"] == "outbound|9080||ratings.default.svc.cluster.local"
    own = """accessLogEncoding: JSON\naccessLogFormat: '{"code": "%RESPONSE_CODE%"}'"""
    (line,) = await lines("own-json.log", own)
    assert json.loads(line) == {"code": 200}


async def test_how_long_a_silent_client_is_waited_for(stage: Stage) -> None:
    async def greet(_: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"welcome")
        await reader.read(1)

    await stage.use(config("protocolDetectionTimeout: 0.4s"), far(17001, protocol="any"))
    async with stage.peer(17001, greet):
        reader, writer = await stage.connect("far", 80)
        began = time.monotonic()
        assert await heard(reader) == b"welcome"
        assert 0.3 < time.monotonic() - began < 2
        await closed(writer)


async def test_names_are_asked_for_again(stage: Stage) -> None:
    entry = objects("""
- kind: ServiceEntry
  metadata: {name: outside}
  spec:
    hosts: [outside.fleeting.example]
    resolution: DNS
    ports: [{number: 80, name: http, protocol: HTTP}]
""")
    await stage.use(config("dnsRefreshRate: 0.1s"), entry)

    async def asked() -> int:
        found = await stage.stats("outside.fleeting.example;?.update_attempt")
        return sum(found.values())

    async with asyncio.timeout(5):
        while await asked() < 8:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def _policy(policy: str) -> Json:
    return config(f"defaultTrafficPolicy: {policy}")


async def test_the_meshs_policy_stands_where_a_rule_has_none(stage: Stage, ours: Files) -> None:
    """One check for each block; what their fields do is DestinationRule's."""

    async def served(**headers: str) -> Sequence[str]:
        return [stage.who(await stage.get("reviews:9080/", **headers)) for _ in range(12)]

    await stage.use(_policy("{loadBalancer: {consistentHash: {httpHeaderName: x-user}}}"))
    assert len(set(await served(x_user="ann"))) == 1
    own = objects("""
- kind: DestinationRule
  metadata: {name: reviews}
  spec: {host: reviews, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
""")
    await stage.use(_policy("{loadBalancer: {consistentHash: {httpHeaderName: x-user}}}"), own)
    assert len(set(await served(x_user="ann"))) == 3

    ejects = "{outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100}}"
    await stage.use(_policy(ejects), own)
    await served(x_sick=f"{stage.pod('reviews-v1')}=500")
    assert "reviews-v1" not in await served()

    budget = "{retryBudget: {percent: {value: 0}, minRetryConcurrency: 1}}"
    retries = objects("""
- kind: VirtualService
  metadata: {name: reviews}
  spec:
    hosts: [reviews]
    http:
    - route: [{destination: {host: reviews}}]
      retries: {attempts: 1, retryOn: 5xx, backoff: 1ms}
""")
    await stage.use(_policy(budget), retries)
    sick = {"x_sick": "0=503", "x_envoy_fault_delay_request": "100"}
    await asyncio.gather(*(stage.get("reviews:9080/", **sick) for _ in range(15)))
    assert len(await stage.lab.arrivals(15)) <= 20

    pool = "{connectionPool: {tcp: {tcpKeepalive: {probes: 6, time: 50s, interval: 4s}}}}"
    await stage.use(_policy(pool), far(17001))
    async with stage.peer(17001, http):
        assert (await stage.get("far:80/")).status == 200
        assert stage.keepalive(17001) == [1, 6, 50, 4]

    tls = f"{{tls: {{mode: SIMPLE, caCertificates: {ours.ca}, subjectAltNames: [right.example]}}}}"
    await stage.use(_policy(tls), far(17002))
    async with stage.peer(17002, http, ours.server(ours.pair("server", "right.example"))):
        assert (await stage.get("far:80/")).status == 200

    await stage.use(_policy("{proxyProtocol: {version: V1}}"), far(17003))
    async with stage.peer(17003, http) as peer:
        assert (await stage.get("far:80/")).status == 200
        assert peer.said.startswith(b"PROXY TCP4")

    tunnel = "{tunnel: {protocol: CONNECT, targetHost: inner.example, targetPort: 4443}}"
    await stage.use(_policy(tunnel), far(17004, protocol="tcp"))
    async with stage.peer(17004, keep) as peer:
        _, writer = await stage.connect("far", 80)
        writer.write(b"hello")
        await peer.until(lambda visits: bool(visits and visits[0].requests))
        assert peer.visits[0].requests[0].startswith("CONNECT inner.example:4443")
        await closed(writer)


async def test_how_requests_to_resolved_hosts_are_secured(stage: Stage, ours: Files) -> None:
    """Each host's name leads to the peer, which shows a certificate for one of them."""
    right, me = ours.pair("right", "right.example"), ours.pair("me", "me.example")
    gone = ours.authority.sign("right.example")
    crl = ours.write("crl.pem", ours.authority.revoke(gone))
    listeners = far(17001, name="box")
    listeners["services"]["box"]["ports"] = {"http": 17001}

    async def asked(tls: str, host: str = "right.example") -> int:
        policy = f"{{mode: ALLOW_ANY_DYNAMIC_DNS, tls: {{{tls}}}}}"
        await stage.use(config(f"outboundTrafficPolicy: {policy}"), listeners)
        return (await stage.get(f"{host}:17001/", at="198.18.0.9")).status

    ca = f"mode: SIMPLE, caCertificates: {ours.ca}"
    own = f"clientCertificate: {me[0]}, privateKey: {me[1]}"
    async with stage.peer(17001, http, ours.server(right)) as peer:
        assert await asked(ca) == 200
        assert peer.visits[-1].server_name == "right.example"
        assert await asked(ca, "wrong.example") == 503
        assert await asked(f"{ca}, subjectAltNames: [right.example]", "wrong.example") == 200
        assert await asked(f"{ca}, sni: named.example, subjectAltNames: [right.example]") == 200
        assert peer.visits[-1].server_name == "named.example"
        assert await asked("mode: SIMPLE", "right.example") == 503, "the system knows no such CA"
        assert await asked("mode: SIMPLE, insecureSkipVerify: true", "wrong.example") == 200
    async with stage.peer(17001, http, ours.server(right, asks=True)) as peer:
        assert await asked(ca) == 503
        assert await asked(f"{ca.replace('SIMPLE', 'MUTUAL')}, {own}") == 200
        assert ("DNS", "me.example") in peer.visits[-1].certificate["subjectAltName"]
    async with stage.peer(17001, http, ours.server(ours.written("gone", gone))):
        assert await asked(ca) == 200
        assert await asked(f"{ca}, caCrl: {crl}") == 503

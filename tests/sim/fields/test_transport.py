"""What DestinationRule puts around connections: TLS, PROXY headers, tunnels; seen at their end."""

import asyncio
from pathlib import Path

import pytest
import yaml

from meltemi.simulate.request import Request
from tests.certificates import tls_secret

from .certificates import Files
from .conftest import REAL
from .peers import Http2, Visit, http, repeat
from .stage import Json, Stage, closed, heard

pytestmark = REAL


def far(
    port: int, policy: str, *, name: str = "far", protocol: str = "http", service: str = "80"
) -> Json:
    """A service that leads to a port of one pod, under a traffic policy."""
    objects = f"""
- kind: DestinationRule
  metadata: {{name: {name}}}
  spec: {{host: {name}, trafficPolicy: {policy}}}
- kind: VirtualService
  metadata: {{name: {name}}}
  spec: {{hosts: [{name}], http: [{{route: [{{destination: {{host: {name}}}}}], retries: {{}}}}]}}
"""
    ports = {protocol: f"{service} > {port}"}
    return {
        "pods": {"far-0": {"app": "far", "sidecar": False}},
        "services": {name: {"ports": ports, "selector": {"app": "far"}}},
        "objects": yaml.safe_load(objects),
    }


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("certificates"))


async def test_whom_originated_tls_believes(stage: Stage, ours: Files) -> None:
    right = ours.pair("right", "right.example", "spiffe://cluster.local/ns/x/sa/y")
    stranger = Files(Path(ours.ca).parent, "stranger")
    ca, name = f"caCertificates: {ours.ca}", "subjectAltNames: [right.example]"
    policies = {
        "trusting": f"{ca}, {name}, sni: right.example",
        "by-uri": f'{ca}, subjectAltNames: ["spiffe://cluster.local/ns/x/sa/y"]',
        "other-name": f"{ca}, subjectAltNames: [wrong.example]",
        "other-authority": f"caCertificates: {stranger.ca}, {name}",
        "system": f"{name}, sni: right.example",
        "careless": "insecureSkipVerify: true",
    }
    mesh = [
        far(17001, f"{{tls: {{mode: SIMPLE, {tls}}}}}", name=service)
        for service, tls in policies.items()
    ]
    await stage.use(*mesh, _outside(f"{{mode: SIMPLE, caCertificates: {ours.ca}}}"))
    async with stage.peer(17001, http, ours.server(right)) as peer:
        assert (await stage.get("trusting:80/")).status == 200
        assert peer.visits[-1].server_name == "right.example"
        assert peer.visits[-1].version == "TLSv1.3"
        assert (await stage.get("by-uri:80/")).status == 200
        assert peer.visits[-1].server_name == "by-uri", "the host of the request"
        for name in ("other-name", "other-authority", "system"):
            assert (await stage.get(f"{name}:80/")).status == 503, name
        assert (await stage.get("careless:80/")).status == 200
        answer = await stage.get("right.example:80/", at="198.18.0.9")
        assert answer.status == 200, "the host of the request is what the server must be"
        answer = await stage.get("wrong.example:80/", at="198.18.0.9")
        assert answer.status == 503
        answer = await stage.get("other.example:80/", at="198.18.0.9")
        assert answer.status == 200, "the entry says whom its clients meet"


def _outside(tls: str) -> Json:
    """Hosts of one port outside the mesh, whose endpoint is the peer."""
    objects = f"""
- kind: ServiceEntry
  metadata: {{name: outside}}
  spec:
    hosts: [right.example, wrong.example]
    resolution: STATIC
    ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 17001}}]
    endpoints: [{{address: 10.44.0.99}}]
- kind: ServiceEntry
  metadata: {{name: other}}
  spec:
    hosts: [other.example]
    subjectAltNames: [right.example]
    resolution: STATIC
    ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 17001}}]
    endpoints: [{{address: 10.44.0.99}}]
- kind: DestinationRule
  metadata: {{name: other}}
  spec: {{host: "other.example", trafficPolicy: {{tls: {tls}}}}}
- kind: DestinationRule
  metadata: {{name: right}}
  spec: {{host: "right.example", trafficPolicy: {{tls: {tls}}}}}
- kind: DestinationRule
  metadata: {{name: wrong}}
  spec: {{host: "wrong.example", trafficPolicy: {{tls: {tls}}}}}
"""
    return {"objects": yaml.safe_load(objects)}


async def test_the_version_of_http_is_agreed_on_in_the_handshake(stage: Stage, ours: Files) -> None:
    pair = ours.pair("server", "right.example")
    tls = f"tls: {{mode: SIMPLE, caCertificates: {ours.ca}, subjectAltNames: [right.example]}}"
    upgrade = "connectionPool: {http: {h2UpgradePolicy: UPGRADE}}"
    await stage.use(
        far(17001, f"{{{tls}}}", name="one"),
        far(17002, f"{{{tls}, {upgrade}}}", name="two"),
        far(17003, f"{{{tls}}}", name="any", protocol="grpc"),
    )
    context = ours.server(pair)
    context.set_alpn_protocols(["h2", "http/1.1"])
    for name, port, answer, spoken in (
        ("one", 17001, http, "http/1.1"),
        ("two", 17002, Http2(), "h2"),
        ("any", 17003, Http2(), "h2"),
    ):
        async with stage.peer(port, answer, context) as peer:
            assert (await stage.get(f"{name}:80/")).status == 200, name
            assert peer.visits[0].alpn == spoken, name


async def test_certificates_of_clients_and_revoked_ones_of_servers(
    stage: Stage, ours: Files
) -> None:
    server, me = ours.pair("server", "right.example"), ours.pair("me", "me.example")
    gone = ours.authority.sign("right.example")
    crl = ours.write("crl.pem", ours.authority.revoke(gone))
    certificate = f"clientCertificate: {me[0]}, privateKey: {me[1]}"
    ca = f"caCertificates: {ours.ca}, subjectAltNames: [right.example]"
    await stage.use(
        far(17001, f"{{tls: {{mode: MUTUAL, {ca}, {certificate}}}}}"),
        far(17001, f"{{tls: {{mode: SIMPLE, {ca}}}}}", name="simple"),
        far(17002, f"{{tls: {{mode: SIMPLE, {ca}, caCrl: {crl}}}}}", name="strict"),
        far(17002, f"{{tls: {{mode: SIMPLE, {ca}}}}}", name="lax"),
        far(17003, f"{{tls: {{mode: SIMPLE, {ca}, caCrl: {crl}}}}}", name="good"),
    )
    async with stage.peer(17001, http, ours.server(server, asks=True)) as peer:
        assert (await stage.get("far:80/")).status == 200
        assert ("DNS", "me.example") in peer.visits[-1].certificate["subjectAltName"]
        assert (await stage.get("simple:80/")).status == 503
    revoked = ours.written("gone", gone)
    async with (
        stage.peer(17002, http, ours.server(revoked)),
        stage.peer(17003, http, ours.server(server)),
    ):
        assert (await stage.get("lax:80/")).status == 200
        assert (await stage.get("strict:80/")).status == 503
        assert (await stage.get("good:80/")).status == 200


_FRONT = """
include: [gateway]
objects:
- kind: Gateway
  metadata: {name: web}
  spec:
    selector: {istio: ingressgateway}
    servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
- kind: VirtualService
  metadata: {name: web}
  spec:
    hosts: ["*"]
    gateways: [web]
    http: [{route: [{destination: {host: far, port: {number: 80}}}], retries: {}}]
"""


async def test_a_gateway_shows_the_certificate_of_a_secret(stage: Stage, ours: Files) -> None:
    server = ours.pair("server", "right.example")
    secret = tls_secret("mine", ours.authority.sign("gate.example"), authority=ours.authority.pem)
    given = {"objects": secret}
    policy = "{tls: {mode: MUTUAL, credentialName: mine, subjectAltNames: [right.example]}}"
    async with stage.peer(17001, http, ours.server(server, asks=True)) as peer:
        await stage.use(_FRONT, far(17001, policy), given, proxy="front.istio-system")
        assert (await stage.ask(8080, Request("a.example"))).status == 200
        assert ("DNS", "gate.example") in peer.visits[-1].certificate["subjectAltName"]
        tls = {"mode": "MUTUAL", "credentialName": "mine", "subjectAltNames": ["right.example"]}
        mesh = {"mesh": {"defaultTrafficPolicy": {"tls": tls}}}
        silent = far(17001, "{loadBalancer: {simple: RANDOM}}")
        await stage.use(_FRONT, silent, given, mesh, proxy="front.istio-system")
        assert (await stage.ask(8080, Request("a.example"))).status == 200, "the mesh's default"
        assert ("DNS", "gate.example") in peer.visits[-1].certificate["subjectAltName"]
    plain = far(17004, policy)
    await stage.use(_FRONT, plain, given)
    async with stage.peer(17004, http) as peer:
        assert (await stage.get("far:80/")).status == 200, "a sidecar has no Secrets: plaintext"
        assert peer.said.startswith(b"GET / HTTP/1.1")


async def test_a_proxy_header_goes_first(stage: Stage, ours: Files) -> None:
    tls = f"tls: {{mode: SIMPLE, caCertificates: {ours.ca}, subjectAltNames: [right.example]}}"
    await stage.use(
        far(17001, "{proxyProtocol: {version: V1}}", name="one", protocol="tcp"),
        far(17002, "{proxyProtocol: {version: V2}}", name="two", protocol="tcp"),
        far(17003, "{proxyProtocol: {version: V1}}", name="web"),
        far(17004, f"{{proxyProtocol: {{version: V1}}, {tls}}}", name="safe"),
    )

    async def first(name: str, port: int) -> tuple[bytes, int]:
        async with stage.peer(port, repeat) as peer:
            reader, writer = await stage.connect(name, 80)
            writer.write(b"hello")
            await heard(reader)
            await peer.until(lambda visits: visits[0].said.endswith(b"hello"))
            mine = writer.get_extra_info("sockname")[1]
            await closed(writer)
            return peer.said, mine

    said, port = await first("one", 17001)
    words = said.partition(b"\r\n")[0].split()
    assert words[:2] == [b"PROXY", b"TCP4"]
    assert int(words[4]) == port, "the client's own"
    assert said.endswith(b"\r\nhello")
    said, _ = await first("two", 17002)
    assert said.startswith(b"\r\n\r\n\x00\r\nQUIT\n\x21\x11")
    assert said.endswith(b"hello")
    async with stage.peer(17003, http) as peer:
        assert (await stage.get("web:80/")).status == 200
        assert peer.said.startswith(b"PROXY TCP4 ")

    async def behind(visit: Visit, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        visit.said += await reader.readline() + await reader.read(4096)

    async with stage.peer(17004, behind) as peer:
        await stage.get("safe:80/")
        line, _, rest = peer.visits[0].said.partition(b"\r\n")
        assert line.startswith(b"PROXY TCP4 ")
        assert rest[:1] == b"\x16", "then the handshake"


async def _tunnel(visit: Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A proxy that takes CONNECT and POST, and repeats what comes through."""
    head = await reader.readuntil(b"\r\n\r\n")
    visit.said += head
    chunked = b"chunked" in head.lower()
    more = b"transfer-encoding: chunked\r\n" if chunked else b""
    writer.write(b"HTTP/1.1 200 OK\r\n" + more + b"\r\n")
    while data := await reader.read(4096):
        visit.said += data
        writer.write(data)


@pytest.mark.parametrize("protocol", ["", "protocol: CONNECT,", "protocol: POST,"])
async def test_bytes_go_through_a_tunnel(stage: Stage, protocol: str) -> None:
    tunnel = f"{{tunnel: {{{protocol} targetHost: inner.example, targetPort: 4443}}}}"
    await stage.use(far(17001, tunnel, protocol="tcp"))
    async with stage.peer(17001, _tunnel) as peer:
        reader, writer = await stage.connect("far", 80)
        writer.write(b"hello")
        assert await heard(reader) == b"hello"
        await closed(writer)
    head = peer.visits[0].requests[0]
    method = "POST" if "POST" in protocol else "CONNECT"
    assert head.startswith(f"{method} "), head
    assert "host: inner.example:4443" in head.lower()

"""Sidecar's listeners: what a real sidecar serves and opens by itself, and how it keeps it."""

import asyncio
import base64
import hashlib
import ssl
import time
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meltemi.simulate.request import Request
from tests.certificates import tls_secret

from ..real import client as http_client
from ..real.networks import SILENT_PORT
from .certificates import Files, client
from .conftest import REAL
from .peers import http, repeat
from .stage import Json, Stage, closed, heard

pytestmark = REAL
SERVER = "ratings-v1"
HELLO = b"hello world\n"
"""Long enough for the inspectors to see that it is neither TLS nor HTTP."""


def sidecar(spec: str) -> Json:
    """A Sidecar of the pod that serves `ratings`."""
    body = yaml.safe_load(spec)
    body["workloadSelector"] = {"labels": {"app": "ratings"}}
    meta = {"name": "ratings", "namespace": "default"}
    return {"objects": [{"kind": "Sidecar", "metadata": meta, "spec": body}]}


class Door:
    """Connections from outside the mesh to the serving pod."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    async def use(self, spec: str) -> None:
        await self.stage.use(sidecar(spec), server=SERVER)

    @property
    def address(self) -> str:
        return self.stage.pod(SERVER)

    async def get(self, port: int, *, address: str = "") -> int:
        answer = await self.stage.ask(port, Request("x"), address=address or self.address)
        return answer.status

    async def talk(self, port: int) -> bytes:
        reader, writer = await self.stage.arrive(port, address=self.address)
        writer.write(HELLO)
        found = await heard(reader)
        await closed(writer)
        return found


@pytest.fixture
def door(stage: Stage) -> Door:
    return Door(stage)


async def test_where_a_port_of_ingress_leads(door: Door, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    other = "10.44.77.1"
    await door.use(
        f"""
ingress:
- {{port: {{number: 17021, protocol: HTTP, name: a}}, defaultEndpoint: "127.0.0.1:17001"}}
- {{port: {{number: 17022, protocol: TCP, name: b}}, defaultEndpoint: "unix://{path}"}}
- {{port: {{number: 17023, name: http-c}}, defaultEndpoint: "0.0.0.0:17002"}}
- {{port: {{number: 17024, protocol: TCP, name: d}}}}
- port: {{number: 17025, protocol: HTTP, name: e}}
  bind: {other}
  captureMode: NONE
  defaultEndpoint: "127.0.0.1:17001"
"""
    )
    stage = door.stage

    async def at(_: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(f"{writer.get_extra_info('sockname')[0]}".encode())

    async with stage.peer(17001, http) as local, stage.peer(17002, http) as own:
        assert await door.get(17021) == 200
        assert "x-forwarded-proto" in local.visits[0].requests[0]
        assert await door.get(17023) == 200
        assert "x-forwarded-proto" in own.visits[0].requests[0], "HTTP by the name of its port"
        assert await door.get(17025, address=other) == 200, "a listener of its own"
        assert sum(len(visit.requests) for visit in local.visits) == 2
    async with stage.peer(17024, at):
        assert await door.talk(17024) == door.address.encode(), "the port itself"
    server = await asyncio.start_unix_server(_repeat, path)
    assert await door.talk(17022) == HELLO
    server.close()
    await server.wait_closed()


async def _repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(100))
    writer.close()


async def test_tls_for_clients_outside_the_mesh(door: Door, tmp_path: Path) -> None:
    files = Files(tmp_path)
    stage = door.stage
    me, other = files.pair("me", "me.example"), files.pair("other", "other.example")
    gone = files.authority.sign("me.example")
    crl = files.write("crl.pem", files.authority.revoke(gone))
    chain, key = files.pair("server", "x.example")
    big = files.authority.sign("x.example", key=rsa.generate_private_key(65537, 2048))
    first, second = files.written("rsa", big), (chain, key)
    pairs = ", ".join(
        f"{{serverCertificate: {c}, privateKey: {k}, caCertificates: {files.ca}}}"
        for c, k in (first, second)
    )
    mine = x509.load_pem_x509_certificate(Path(me[0]).read_bytes())
    spki = mine.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(spki).digest()).decode()
    whole = hashlib.sha256(mine.public_bytes(Encoding.DER)).hexdigest()
    own = f"serverCertificate: {chain}, privateKey: {key}"
    asks = f"mode: MUTUAL, {own}, caCertificates: {files.ca}"
    ways = {
        "simple": f"mode: SIMPLE, {own}",
        "mutual": asks,
        "optional": asks.replace("MUTUAL", "OPTIONAL_MUTUAL", 1),
        "named": f"{asks}, subjectAltNames: [me.example]",
        "spki": f'{asks}, verifyCertificateSpki: ["{pin}"]',
        "hash": f'{asks}, verifyCertificateHash: ["{whole}"]',
        "revoking": f"{asks}, caCrl: {crl}",
        "old": f"mode: SIMPLE, {own}, maxProtocolVersion: TLSV1_2",
        "new": f"mode: SIMPLE, {own}, minProtocolVersion: TLSV1_3",
        "cipher": f"mode: SIMPLE, {own}, cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384]",
        "pairs": f"mode: MUTUAL, tlsCertificates: [{pairs}]",
        "secrets": "mode: SIMPLE, credentialNames: [rsa, ecdsa]",
        "apart": "mode: MUTUAL, credentialName: ecdsa, caCertCredentialName: authority",
    }
    secrets = [
        tls_secret("rsa", big, namespace="default"),
        tls_secret("ecdsa", files.authority.sign("x.example"), namespace="default"),
        tls_secret("authority", None, authority=files.authority.pem, namespace="default"),
    ]
    ports = {name: 17030 + i for i, name in enumerate(ways)}
    entries = [
        f"{{port: {{number: {ports[name]}, protocol: HTTP, name: {name}}}, "
        f'defaultEndpoint: "127.0.0.1:9080", tls: {{{tls}}}}}'
        for name, tls in ways.items()
    ]
    given = [{"objects": text} for text in secrets]
    await stage.use(sidecar(f"ingress: [{', '.join(entries)}]"), *given, server=SERVER)

    async def status(name: str, pair: tuple[str, str] | None = None, **tls: object) -> int:
        context = client(pair=pair, **tls)  # type: ignore[arg-type]
        asked = Request("x", scheme="https")
        answer = await stage.ask(
            ports[name], asked, address=door.address, tls=context, sni="x.example"
        )
        return answer.status

    assert await status("simple") == 200
    assert await door.get(ports["simple"]) == 0, "no plaintext"
    gone_pair = files.written("gone", gone)
    for name, wanted in {
        "mutual": [200, 200, 0, 200],
        "optional": [200, 200, 200, 200],
        "named": [200, 0, 0, 200],
        "spki": [200, 0, 0, 0],
        "hash": [200, 0, 0, 0],
        "revoking": [200, 200, 0, 0],
        "pairs": [200, 200, 0, 200],
        "apart": [200, 200, 0, 200],
    }.items():
        asked = [await status(name, pair) for pair in (me, other, None, gone_pair)]
        assert asked == wanted, name
    v12, v13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    assert [await status("old", most=v12), await status("old", least=v13)] == [200, 0]
    assert [await status("new", most=v12), await status("new", least=v13)] == [0, 200]
    suites = [f"ECDHE-ECDSA-AES{bits}" for bits in ("128-GCM-SHA256", "256-GCM-SHA384")]
    assert [await status("cipher", most=v12, ciphers=suite) for suite in suites] == [0, 200]
    for kind in ("RSA", "ECDSA"):
        suite = f"ECDHE-{kind}-AES128-GCM-SHA256"
        for name in ("pairs", "secrets"):
            assert await status(name, me, most=v12, ciphers=suite) == 200, (name, kind)


async def test_limits_of_connections_to_the_application(door: Door) -> None:
    stage = door.stage
    pools = {
        17021: ("HTTP", SILENT_PORT, "tcp: {connectTimeout: 0.3s}"),
        17022: ("HTTP", 17001, "tcp: {tcpKeepalive: {probes: 7, time: 90s, interval: 11s}}"),
        17023: ("TCP", 17002, "tcp: {maxConnectionDuration: 0.5s}"),
        17024: ("TCP", 17002, "tcp: {idleTimeout: 0.4s}"),
        17025: ("HTTP", 17003, "http: {idleTimeout: 0.4s}"),
        17026: ("HTTP", 17004, "http: {maxRequestsPerConnection: 1}"),
        17027: ("HTTP", 17005, _COUNTED),
    }
    entries = [
        f"{{port: {{number: {port}, protocol: {speaks}, name: p{port}}}, "
        f'defaultEndpoint: "127.0.0.1:{target}", connectionPool: {{{pool}}}}}'
        for port, (speaks, target, pool) in pools.items()
    ]
    await door.use(f"ingress: [{', '.join(entries)}]")
    began = time.monotonic()
    assert await door.get(17021) == 503
    assert 0.25 < time.monotonic() - began < 3
    async with stage.peer(17001, http):
        assert await door.get(17022) == 200
        assert stage.keepalive(17001, role="server") == [1, 7, 90, 11]

    async def lasts(port: int, *, talking: bool) -> float:
        reader, writer = await stage.arrive(port, address=door.address)
        began = time.monotonic()
        writer.write(HELLO)
        while await heard(reader):
            if talking:
                await asyncio.sleep(0.05)
                writer.write(b"x")
        await closed(writer)
        return time.monotonic() - began

    async with stage.peer(17002, repeat):
        old, idle = await asyncio.gather(lasts(17023, talking=True), lasts(17024, talking=False))
    assert 0.4 < old < 3
    assert 0.3 < idle < 3
    async with stage.peer(17003, http) as peer:
        assert await door.get(17025) == 200
        await peer.until(lambda visits: visits[0].ended is not None)
        assert 0.3 < (peer.visits[0].lasted or 0) < 3
    async with stage.peer(17004, http) as peer:
        assert [await door.get(17026) for _ in range(3)] == [200] * 3
        assert len(peer.visits) == 3
    async with stage.peer(17005, http):
        assert await door.get(17027) == 200
        left = await stage.stats("17027.*circuit_breakers.default.remaining", role="server")
        found = {name.rpartition("remaining_")[2]: value for name, value in left.items()}
        assert (found["pending"], found["rq"], found["retries"]) == (4, 5, 6)
        assert found["cx"] in (2, 3), "one may be kept"


_COUNTED = (
    "tcp: {maxConnections: 3}, "
    "http: {http1MaxPendingRequests: 4, http2MaxRequests: 5, maxRetries: 6}"
)


async def test_limits_of_every_port_and_what_is_nearer(door: Door) -> None:
    async def requests(spec: str, port: int) -> int:
        await door.use(spec)
        assert await door.get(port) == 200
        found = await door.stage.stats(f"{port}.*default.remaining_rq$", role="server")
        return next(v for name, v in found.items() if "inbound" in name)

    general = "inboundConnectionPool: {http: {http2MaxRequests: 7}}"
    assert await requests(general, 9080) == 7
    entry = '{port: {number: 9080, protocol: HTTP, name: a}, defaultEndpoint: "127.0.0.1:9080"'
    assert await requests(f"{general}\ningress: [{entry}}}]", 9080) == 7
    nearer = f"{entry}, connectionPool: {{http: {{http2MaxRequests: 8}}}}}}"
    assert await requests(f"{general}\ningress: [{nearer}]", 9080) == 8


async def test_ways_out_with_listeners_of_their_own(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "out.sock"
    await stage.use(f"""
services:
  near: {{ports: {{http: 17051 > 9080}}, selector: {{app: ratings}}}}
objects:
- kind: Sidecar
  metadata: {{name: default}}
  spec:
    egress:
    - port: {{number: 17051, protocol: HTTP, name: http}}
      bind: 127.0.0.9
      captureMode: NONE
      hosts: ["./near.default.svc.cluster.local"]
    - port: {{number: 0, protocol: HTTP, name: http}}
      bind: unix://{path}
      hosts: ["./reviews.default.svc.cluster.local"]
    - hosts: ["./*"]
""")
    answer = await stage.ask(17051, Request("near:17051"), address="127.0.0.9")
    assert stage.who(answer) == "ratings-v1"
    reader, writer = await asyncio.open_unix_connection(path)
    answer = await http_client.http(reader, writer, Request("reviews:9080"), 0)
    await closed(writer)
    assert stage.who(answer).startswith("reviews")
    assert stage.who(await stage.get("ratings:9080/")) == "ratings-v1", "the rest is captured"

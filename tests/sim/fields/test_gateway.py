"""Fields of Gateway that strangers feel: certificates, versions, pins, addresses, protocols."""

import base64
import hashlib
import json
import ssl
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meltemi.simulate.request import Request
from tests.certificates import Signed, tls_secret

from .certificates import Files, client
from .conftest import REAL
from .peers import GRPC_MESSAGE, Http2, http, repeat
from .stage import Json, Stage, closed, heard, http2, objects

pytestmark = REAL
FRONT = "front.istio-system"
_ROUTES = """
- kind: VirtualService
  metadata: {name: all}
  spec: {hosts: ["*"], gateways: [web], http: [{directResponse: {status: 201}}]}
"""


class Doors:
    """A gateway with one HTTPS server for each way of TLS, told apart by its name."""

    def __init__(self, stage: Stage, files: Files) -> None:
        self.stage = stage
        self.files = files
        self.me = self._client("me", "me.example", "spiffe://cluster.local/ns/x/sa/me")
        self.other = self._client("other", "other.example")
        self.gone = files.authority.sign("me.example")
        self.stranger = Files(files.directory, "stranger").pair("me", "me.example")
        names = ("pairs.org", "secrets.org")
        self.rsa = files.authority.sign(*names, key=rsa.generate_private_key(65537, 2048))
        self.ecdsa = files.authority.sign(*names)

    def _client(self, name: str, *names: str) -> tuple[str, str]:
        return self.files.pair(name, *names)

    async def open(self) -> None:
        servers = [
            f"""
    - port: {{number: 443, name: {name}, protocol: HTTPS}}
      hosts: [{name}.org]
      tls: {{{tls}}}"""
            for name, tls in self._servers().items()
        ]
        gateway = f"""
- kind: Gateway
  metadata: {{name: web}}
  spec:
    selector: {{istio: ingressgateway}}
    servers:{"".join(servers)}
"""
        ca = self.files.authority.pem
        secrets = [
            tls_secret("rsa", self.rsa),
            tls_secret("ecdsa", self.ecdsa),
            tls_secret("authority", None, authority=ca),
        ]
        given = [objects(gateway + _ROUTES), *({"objects": text} for text in secrets)]
        await self.stage.use({"include": ["gateway"]}, *given, proxy=FRONT)

    def _servers(self) -> dict[str, str]:
        files = self.files
        chain, key = files.pair("server", "simple.org")
        own = f"serverCertificate: {chain}, privateKey: {key}"
        asks = f"mode: MUTUAL, {own}, caCertificates: {files.ca}"
        first, second = files.written("rsa", self.rsa), files.written("ecdsa", self.ecdsa)
        pairs = (
            f"{{serverCertificate: {first[0]}, privateKey: {first[1]}}}, "
            f"{{serverCertificate: {second[0]}, privateKey: {second[1]}, "
            f"caCertificates: {files.ca}}}"
        )
        mine = x509.load_pem_x509_certificate(_read(self.me[0]))
        spki = mine.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        pin = base64.b64encode(hashlib.sha256(spki).digest()).decode()
        whole = hashlib.sha256(mine.public_bytes(Encoding.DER)).hexdigest()
        crl = files.write("crl.pem", files.authority.revoke(self.gone))
        suite = "ECDHE-ECDSA-AES256-GCM-SHA384"
        return {
            "simple": f"mode: SIMPLE, {own}",
            "mutual": asks,
            "optional": asks.replace("MUTUAL", "OPTIONAL_MUTUAL", 1),
            "named": f"{asks}, subjectAltNames: [me.example]",
            "uri": f'{asks}, subjectAltNames: ["spiffe://cluster.local/ns/x/sa/me"]',
            "spki": f'{asks}, verifyCertificateSpki: ["{pin}"]',
            "hash": f'{asks}, verifyCertificateHash: ["{whole}"]',
            "revoking": f"{asks}, caCrl: {crl}",
            "old": f"mode: SIMPLE, {own}, maxProtocolVersion: TLSV1_2",
            "new": f"mode: SIMPLE, {own}, minProtocolVersion: TLSV1_3",
            "cipher": f"mode: SIMPLE, {own}, cipherSuites: [{suite}]",
            "pairs": f"mode: MUTUAL, tlsCertificates: [{pairs}]",
            "secrets": "mode: SIMPLE, credentialNames: [rsa, ecdsa]",
            "apart": "mode: MUTUAL, credentialName: ecdsa, caCertCredentialName: authority",
        }

    async def status(self, name: str, pair: tuple[str, str] | None = None, **tls: object) -> int:
        """What a client with this certificate is answered; 0: its connection ends."""
        context = client(pair=pair, **tls)  # type: ignore[arg-type]
        asked = Request(f"{name}.org", scheme="https")
        return (await self.stage.ask(8443, asked, tls=context, sni=f"{name}.org")).status

    async def handshake(self, name: str, context: ssl.SSLContext) -> ssl.SSLObject:
        _, writer = await self.stage.arrive(8443, tls=context, sni=f"{name}.org")
        found: ssl.SSLObject = writer.get_extra_info("ssl_object")
        await closed(writer)
        return found


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def doors(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Doors]:
    made = Doors(stage, Files(tmp_path_factory.mktemp("doors")))
    await made.open()
    yield made


async def test_who_may_enter(doors: Doors) -> None:
    me, other, stranger = doors.me, doors.other, doors.stranger
    assert await doors.status("simple") == 201
    assert [await doors.status("mutual", p) for p in (me, other, None, stranger)] == [
        201,
        201,
        0,
        0,
    ]
    asked = [await doors.status("optional", pair) for pair in (me, None, stranger)]
    assert asked == [201, 201, 0], "without one, or with a good one"
    for name in ("named", "uri", "spki", "hash"):
        asked = [await doors.status(name, pair) for pair in (me, other, None)]
        assert asked == [201, 0, 0], name
    gone = doors.files.written("gone", doors.gone)
    assert [await doors.status("revoking", pair) for pair in (me, gone)] == [201, 0]
    assert await doors.status("mutual", gone) == 201
    assert [await doors.status("pairs", pair) for pair in (me, None)] == [201, 0]
    assert [await doors.status("apart", pair) for pair in (me, None)] == [201, 0]


async def test_versions_and_ciphers(doors: Doors) -> None:
    v11, v12, v13 = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    assert await doors.status("simple", most=v12) == 201
    assert await doors.status("simple", least=v13) == 201
    assert await doors.status("simple", least=v11, most=v11, ciphers="ALL:@SECLEVEL=0") == 0
    assert [await doors.status("old", most=v12), await doors.status("old", least=v13)] == [201, 0]
    assert [await doors.status("new", most=v12), await doors.status("new", least=v13)] == [0, 201]
    suite = "ECDHE-ECDSA-AES256-GCM-SHA384"
    spoken = await doors.handshake("cipher", client(most=v12))
    assert (spoken.cipher() or ("",))[0] == suite
    assert await doors.status("cipher", most=v12, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256") == 0


async def test_the_certificate_follows_the_kind_of_key_a_client_takes(doors: Doors) -> None:
    async def shown(name: str, ciphers: str) -> bytes:
        context = client(pair=doors.me, most=ssl.TLSVersion.TLSv1_2, ciphers=ciphers)
        return (await doors.handshake(name, context)).getpeercert(binary_form=True) or b""

    for name in ("pairs", "secrets"):
        assert await shown(name, "ECDHE-RSA-AES128-GCM-SHA256") == _der(doors.rsa), name
        assert await shown(name, "ECDHE-ECDSA-AES128-GCM-SHA256") == _der(doors.ecdsa), name


def _der(signed: Signed) -> bytes:
    return x509.load_pem_x509_certificate(signed.certificate).public_bytes(Encoding.DER)


async def test_the_ports_name_is_part_of_the_name_of_routes(doors: Doors) -> None:
    dump = json.loads(await doors.stage.lab.admin("/config_dump?resource=dynamic_route_configs"))
    names = {config["route_config"]["name"] for config in dump["configs"]}
    assert {"https.443.simple.web.default", "https.443.old.web.default"} <= names


_PLAIN = """
include: [gateway]
pods: {far-0: {app: far, sidecar: false}}
services: {far: {ports: {mongo: 80 > 17001, grpc-a: 81 > 17003}}}
objects:
- kind: Gateway
  metadata: {name: web}
  spec:
    selector: {istio: ingressgateway}
    servers:
    - {port: {number: 9001, name: a, protocol: HTTP}, hosts: ["*"], bind: 127.0.0.2}
    - {port: {number: 9001, name: b, protocol: HTTP}, hosts: ["*"], bind: 127.0.0.3}
    - {port: {number: 9002, name: mongo, protocol: MONGO}, hosts: ["*"]}
    - {port: {number: 9003, name: tcp, protocol: TCP}, hosts: ["*"]}
    - {port: {number: 9004, name: web, protocol: GRPC-WEB}, hosts: ["*"]}
    - {port: {number: 9005, name: h2, protocol: HTTP2}, hosts: ["*"]}
    - {port: {number: 9006, name: grpc, protocol: GRPC}, hosts: ["*"]}
- kind: VirtualService
  metadata: {name: web}
  spec:
    hosts: ["*"]
    gateways: [web]
    http:
    - {match: [{uri: {prefix: /call}}], route: [{destination: {host: far, port: {number: 81}}}]}
    - {directResponse: {status: 201}}
    tcp:
    - route: [{destination: {host: far, port: {number: 80}}}]
"""


async def test_addresses_and_protocols_of_servers(stage: Stage) -> None:
    await stage.use(_PLAIN, proxy=FRONT)
    for address, wanted in (("127.0.0.2", 201), ("127.0.0.3", 201), ("127.0.0.1", 0)):
        answer = await stage.ask(9001, Request("a.example"), address=address)
        assert answer.status == wanted, address
    async with stage.peer(17001, repeat) as peer:
        for port in (9002, 9003):
            reader, writer = await stage.arrive(port)
            writer.write(_MONGO_QUERY)
            assert await heard(reader) == _MONGO_QUERY
            await closed(writer)
        assert len(peer.visits) == 2
    found = await stage.stats("mongo.*op_query$")
    assert sum(found.values()) >= 1, "MongoDB operations are counted"
    for port in (9004, 9005, 9006):
        one = await stage.ask(port, Request("a.example"))
        two = await http2(*await stage.arrive(port), Request("a.example"))
        assert (one.status, two.status) == (201, 201), port


_MONGO_QUERY = (
    b"\x2a\0\0\0\1\0\0\0\0\0\0\0\xd4\x07\0\0"  # length 42, request 1, OP_QUERY
    b"\0\0\0\0db.items\0\0\0\0\0\1\0\0\0"
    b"\5\0\0\0\0"
)


async def test_browsers_call_grpc_services(stage: Stage) -> None:
    """gRPC-Web comes by HTTP/1.1 and goes on as gRPC; its trailers come back in the body."""
    await stage.use(_PLAIN, proxy=FRONT)
    service = Http2(grpc=True)
    async with stage.peer(17003, service):
        kind = ("content-type", "application/grpc-web+proto")
        call = Request("a.example", "/call.Me/Hello", "POST", (kind,))
        answer = await stage.ask(9004, call)
        assert (answer.status, answer.header("content-type")) == (200, kind[1])
        message, trailers = answer.body[: len(GRPC_MESSAGE)], answer.body[len(GRPC_MESSAGE) :]
        assert message == GRPC_MESSAGE
        assert trailers[:1] == b"\x80"
        assert b"grpc-status:0" in trailers
        assert service.asked[0]["content-type"].startswith("application/grpc")
        assert "web" not in service.asked[0]["content-type"]
        other = await stage.ask(9005, call)
        assert (other.header("content-type") or "") != kind[1], "elsewhere it is not translated"


_TOPOLOGY = """
include: [gateway]
pods: {far-0: {app: far, sidecar: false}}
services: {far: {ports: {http: 80 > 17001}}}
objects:
- kind: Gateway
  metadata: {name: web}
  spec:
    selector: {istio: ingressgateway}
    servers:
    - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}
- kind: VirtualService
  metadata: {name: web}
  spec:
    hosts: ["*"]
    gateways: [web]
    http: [{route: [{destination: {host: far}}]}]
"""


async def test_what_stands_before_a_gateway(stage: Stage) -> None:
    async def seen(topology: Json, before: bytes = b"", **headers: str) -> dict[str, str]:
        config = {"gatewayTopology": topology} if topology else {}
        await stage.use(_TOPOLOGY, proxy=FRONT, PROXY_CONFIG=config)
        pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        async with stage.peer(17001, http) as peer:
            answer = await stage.ask(8080, Request("a.example", headers=pairs), before=before)
            lines = peer.visits[0].requests[0].split("\r\n")[1:] if answer.status == 200 else []
        return dict(line.split(": ", 1) for line in lines)

    via = {"x_forwarded_for": "1.1.1.1, 2.2.2.2, 3.3.3.3"}
    outside = "x-envoy-external-address"
    assert (await seen({}, **via))[outside] not in via["x_forwarded_for"]
    assert (await seen({"numTrustedProxies": 1}, **via))[outside] == "3.3.3.3"
    assert (await seen({"numTrustedProxies": 2}, **via))[outside] == "2.2.2.2"

    claim = {"x_forwarded_client_cert": "By=x;Hash=y"}
    xfcc = "x-forwarded-client-cert"
    assert xfcc not in await seen({}, **claim)
    always = {"forwardClientCertDetails": "ALWAYS_FORWARD_ONLY"}
    assert (await seen(always, **claim))[xfcc] == "By=x;Hash=y"
    assert xfcc not in await seen({"forwardClientCertDetails": "SANITIZE"}, **claim)

    header = b"PROXY TCP4 9.8.7.6 10.0.0.1 4321 80\r\n"
    assert (await seen({"proxyProtocol": {}}, header))[outside] == "9.8.7.6"
    assert await seen({"proxyProtocol": {}}) == {}, "without it nothing is answered"


async def test_sidecars_translate_calls_of_browsers(stage: Stage) -> None:
    """At the client, and at the server for clients without a proxy."""
    await stage.use(
        """
pods: {far-0: {app: far, ip: 10.44.0.88}}
services: {far: {ports: {grpc-web: 17003, grpc-plain: 17004}}}
objects:
- kind: DestinationRule
  metadata: {name: far}
  spec: {host: far, trafficPolicy: {tls: {mode: DISABLE}}}
""",
        server="far-0",
    )
    kind = "application/grpc-web+proto"
    call = Request("far", "/call.Me/Hello", "POST", (("content-type", kind),))
    service = Http2(grpc=True)
    async with stage.peer(17003, service), stage.peer(17004, service):
        stranger = await stage.ask(17003, call, address="10.44.0.88")
        ours = await stage.get("far:17003/call.Me/Hello", "POST", content_type=kind)
        for answer in (stranger, ours):
            assert (answer.status, answer.header("content-type")) == (200, kind)
            assert answer.body.startswith(GRPC_MESSAGE)
            assert b"grpc-status:0" in answer.body
        assert {"web" in asked["content-type"] for asked in service.asked} == {False}
        plain = await stage.get("far:17004/call.Me/Hello", "POST", content_type=kind)
        assert plain.header("content-type") != kind

"""Gateways with real TLS: certificates from Secrets, passthrough, redirects, TCP, Ingress."""

import asyncio
import json
import socket
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
from cryptography import x509

from tests.certificates import Authority, Signed, tls_secret
from tests.real.conftest import Mesh, running_mesh
from tests.real.load import until

SHOP, GUARDED, PASSED = "shop.example.com", "guarded.example.com", "passed.example.com"
HTTP, HTTPS = 8080, 8443


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def shared(own_network: None, authority: Authority) -> Iterator[Mesh]:
    """A mesh with an echo server, and a Gateway that offers everything."""
    for mesh in running_mesh():
        mesh.kubectl("label", "namespace", "default", "istio-injection=enabled", "--overwrite")
        mesh.apply("echo/echo.yaml")
        mesh.apply(tls_secret("shop", authority.sign(SHOP)))
        guarded = authority.sign(GUARDED)
        mesh.apply(tls_secret("guarded", guarded, authority=authority.pem))
        mesh.apply("gateway/https.yaml")
        mesh.kubectl("rollout", "status", "deploy/echo-v1", "deploy/echo-v2", "--timeout=60s")
        mesh.meltemi("wait", "--for=distribution", "gateway/shop")
        yield mesh


@pytest.fixture
def mesh(shared: Mesh) -> Iterator[Mesh]:
    yield shared
    refused = [line for proxy in shared.proxies() for line in proxy["rejected"]]
    assert refused == []


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: str
    serial: int
    """Of the server's certificate; 0 without TLS."""

    @property
    def echo(self) -> Any:
        return json.loads(self.body)


class Client:
    """Opens a connection for each request, as it is told."""

    def __init__(self, authority: Authority, own: Signed | None = None) -> None:
        self._context = ssl.create_default_context(cadata=authority.pem.decode())
        if own is not None:
            with tempfile.NamedTemporaryFile() as file:
                file.write(own.key + own.certificate)
                file.flush()
                self._context.load_cert_chain(file.name)

    async def get(
        self, sni: str, path: str = "/", *, host: str = "", port: int = HTTPS, at: str = "127.0.0.1"
    ) -> Answer:
        """One request over TLS. Raises ssl.SSLError or OSError."""
        return await _get(at, port, host or sni, path, ssl=self._context, server_hostname=sni)


async def plain(host: str, path: str = "/", *, port: int = HTTP) -> Answer:
    return await _get("127.0.0.1", port, host, path)


async def _get(at: str, port: int, host: str, path: str, **tls: Any) -> Answer:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(at, port, **tls)
        try:
            request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            writer.write(request.encode())
            raw = await reader.read()
            tls_object = writer.get_extra_info("ssl_object")
        finally:
            writer.transport.abort()
    if not raw:
        raise ConnectionResetError("closed without an answer")
    serial = 0
    if tls_object is not None:
        serial = x509.load_der_x509_certificate(tls_object.getpeercert(True)).serial_number
    head, _, body = raw.decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = body.partition("\r\n")[2]
    return Answer(int(first.split()[1]), headers, body, serial)


async def test_https_with_a_certificate_from_a_secret(mesh: Mesh, authority: Authority) -> None:
    answer = await Client(authority).get(SHOP)
    assert answer.status == 200
    headers = answer.echo["headers"]
    assert headers["x-forwarded-proto"] == "https"
    assert headers["host"] == SHOP


async def test_plaintext_is_redirected(mesh: Mesh) -> None:
    answer = await plain(SHOP, "/cart?x=1")
    assert (answer.status, answer.headers["location"]) == (301, f"https://{SHOP}/cart?x=1")


async def test_mutual_tls_needs_a_certificate_of_the_authority(
    mesh: Mesh, authority: Authority
) -> None:
    known = Client(authority, authority.sign("client.example.com"))
    answer = await known.get(GUARDED)
    assert answer.status == 200
    claimed = answer.echo["headers"]["x-forwarded-client-cert"]
    assert "client.example.com" in claimed
    for stranger in (Client(authority), Client(authority, Authority("other").sign("x"))):
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await stranger.get(GUARDED)


async def test_a_connection_to_one_server_does_not_reach_another(
    mesh: Mesh, authority: Authority
) -> None:
    answer = await Client(authority).get(SHOP, host=GUARDED)
    assert answer.status == 421


async def test_a_client_cannot_claim_an_identity(mesh: Mesh, authority: Authority) -> None:
    async with asyncio.timeout(10):
        context = ssl.create_default_context(cadata=authority.pem.decode())
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", HTTPS, ssl=context, server_hostname=SHOP
        )
        writer.write(
            f"GET / HTTP/1.1\r\nHost: {SHOP}\r\nx-forwarded-client-cert: By=a;URI=spiffe://evil\r\n"
            "x-envoy-upstream-rq-timeout-ms: 1\r\nConnection: close\r\n\r\n".encode()
        )
        raw = (await reader.read()).decode()
        writer.transport.abort()
    assert " 200 " in raw.split("\r\n")[0]
    assert "spiffe://evil" not in raw
    assert "rq-timeout-ms" not in raw


async def test_certificates_rotate_without_a_failed_request(
    mesh: Mesh, authority: Authority
) -> None:
    client = Client(authority)
    stopping = asyncio.Event()
    seen: list[int] = []

    async def visit() -> None:
        while not stopping.is_set():
            answer = await client.get(SHOP)
            assert answer.status == 200
            seen.append(answer.serial)

    first = (await client.get(SHOP)).serial
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(visit(), name="visitor")
        for _ in range(3):
            signed = authority.sign(SHOP)
            serial = x509.load_pem_x509_certificate(signed.certificate).serial_number
            await asyncio.to_thread(mesh.apply, tls_secret("shop", signed))
            await until(lambda wanted=serial: wanted in seen[-3:])  # type: ignore[misc]
        stopping.set()
    assert len(set(seen)) >= 3
    print(f"{len(set(seen) - {first})} rotations under {len(seen)} handshakes")


async def test_keys_are_shown_nowhere(mesh: Mesh) -> None:
    pod = json.loads(
        mesh.kubectl(
            "get", "pods", "-n", "istio-system", "-l", "istio=ingressgateway", "-o", "json"
        )
    )["items"][0]["metadata"]["name"]
    shown = mesh.meltemi("proxy-config", "all", f"{pod}.istio-system", "-o", "json")
    assert "kubernetes://shop" in shown
    assert "PRIVATE KEY" not in shown
    assert "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS" not in shown, "a key in base64"
    assert "PRIVATE KEY" not in mesh.logs()


async def test_tcp_through_a_gateway(mesh: Mesh) -> None:
    pod = json.loads(
        mesh.kubectl(
            "get", "pods", "-n", "istio-system", "-l", "istio=ingressgateway", "-o", "json"
        )
    )["items"][0]
    with socket.create_connection((pod["status"]["podIP"], 31400), timeout=10) as connection:
        connection.sendall(b"to the echo and back\n")
        assert connection.recv(100) == b"to the echo and back\n"

"""Gateways with real TLS: certificates from Secrets, passthrough, redirects, TCP, Ingress."""

import asyncio
import json
import os
import signal
import socket
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import aiohttp
import pytest
import yaml
from cryptography import x509

from tests.certificates import Authority, Signed, tls_secret
from tests.real.conftest import Mesh, running_mesh
from tests.real.load import until

SHOP, GUARDED, PASSED = "shop.example.com", "guarded.example.com", "passed.example.com"
INGRESS = "ingress.example.org"
HTTP, HTTPS = 8080, 8443


TLS_SERVER = """
import http.server, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"server": "legacy"}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer(("0.0.0.0", 8443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/certs/tls.crt", "/certs/tls.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
LEGACY = yaml.safe_dump_all(
    [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "legacy", "namespace": "legacy", "labels": {"app": "legacy"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {
                        "name": "server",
                        "image": "debian",
                        "command": ["/usr/bin/env", "python3", "-c", TLS_SERVER],
                        "volumeMounts": [{"name": "certs", "mountPath": "/certs"}],
                        "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1},
                    }
                ],
                "volumes": [{"name": "certs", "secret": {"secretName": "legacy"}}],
            },
        },
        *(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": "legacy"},
                "spec": {
                    "selector": {"app": "legacy"},
                    "ports": [
                        {"name": "http", "port": 80, "targetPort": 8080},
                        {"name": "https", "port": 443, "targetPort": 8443},
                    ],
                },
            }
            for name in ("legacy", "passed")
        ),
    ]
)
CALLER = """
apiVersion: v1
kind: Pod
metadata: {name: caller, labels: {app: caller}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: curl, image: curlimages/curl, command: [/bin/sleep, infinity]}
"""


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
        mesh.apply(tls_secret("ingress", authority.sign(INGRESS)))
        mesh.kubectl("create", "namespace", "legacy")
        legacy = authority.sign(PASSED, "legacy.legacy.svc.cluster.local")
        mesh.apply(tls_secret("legacy", legacy, namespace="legacy"))
        mesh.apply(tls_secret("legacy-ca", None, authority=authority.pem))
        mesh.apply(LEGACY)
        mesh.apply(CALLER)
        for sample in ("egressgateway", "https", "passthrough", "egress", "east-west", "ingress"):
            mesh.apply(f"gateway/{sample}.yaml")
        mesh.kubectl("wait", "--for=condition=Ready", "pod", "--all", "-A", "--timeout=90s")
        for name in ("gateway/shop", "gateway/passed", "gateway/egress", "virtualservice/passed"):
            mesh.meltemi("wait", "--for=distribution", name)
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


async def test_visitors_notice_nothing_when_the_control_plane_dies(
    mesh: Mesh, authority: Authority
) -> None:
    """And the next certificate arrives: a gateway proves itself again, and is believed."""
    client = Client(authority)
    stopping = asyncio.Event()
    serials: list[int] = []

    async def visit() -> None:
        while not stopping.is_set():
            answer = await client.get(SHOP)
            assert answer.status == 200
            serials.append(answer.serial)

    signed = authority.sign(SHOP)
    serial = x509.load_pem_x509_certificate(signed.certificate).serial_number
    async with asyncio.TaskGroup() as group:
        group.create_task(visit(), name="visitor")
        os.kill(mesh.pid("control-plane"), signal.SIGKILL)
        await asyncio.to_thread(mesh.apply, tls_secret("shop", signed))
        await until(lambda: serial in serials[-3:])
        stopping.set()
    await until(lambda: len(mesh.proxies()) == 5)


def pods(mesh: Mesh, gateway: str) -> Any:
    chosen = ("-n", "istio-system", "-l", f"istio={gateway}")
    return json.loads(mesh.kubectl("get", "pods", *chosen, "-o", "json"))["items"]


def ingress_pod(mesh: Mesh) -> Any:
    return pods(mesh, "ingressgateway")[0]


def call(mesh: Mesh, url: str, *options: str) -> str:
    """What the caller in the mesh gets."""
    return mesh.kubectl(
        "exec", "caller", "-c", "curl", "--", "curl", "-s", "-m", "10", *options, url
    )


async def test_keys_are_shown_nowhere(mesh: Mesh) -> None:
    pod = ingress_pod(mesh)["metadata"]["name"]
    shown = mesh.meltemi("proxy-config", "all", f"{pod}.istio-system", "-o", "json")
    assert "kubernetes://shop" in shown
    assert "PRIVATE KEY" not in shown
    assert "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS" not in shown, "a key in base64"
    assert "PRIVATE KEY" not in mesh.logs()


async def test_commands_run_in_a_gateways_container(mesh: Mesh) -> None:
    inside = ("exec", "-n", "istio-system", "deploy/istio-egressgateway", "--")
    assert mesh.kubectl(*inside, "/bin/echo", "inside") == "inside\n"


async def test_tcp_through_a_gateway(mesh: Mesh) -> None:
    where = (ingress_pod(mesh)["status"]["podIP"], 31400)
    with socket.create_connection(where, timeout=10) as connection:
        connection.sendall(b"to the echo and back\n")
        assert connection.recv(100) == b"to the echo and back\n"


async def test_tls_passes_unopened_to_the_server_it_names(mesh: Mesh, authority: Authority) -> None:
    client = Client(authority)
    answer = await client.get(PASSED)
    assert answer.echo == {"server": "legacy"}
    assert answer.serial != (await client.get(SHOP)).serial


async def test_an_egress_gateway_speaks_tls_for_callers(mesh: Mesh) -> None:
    assert json.loads(call(mesh, "http://legacy.legacy.svc.cluster.local/")) == {"server": "legacy"}
    (pod,) = pods(mesh, "egressgateway")
    async with aiohttp.ClientSession() as session:
        url = f"http://{pod['status']['podIP']}:15020/stats/prometheus"
        async with session.get(url) as reply:
            page = await reply.text()
    counted = [line for line in page.splitlines() if line.startswith("istio_requests_total{")]
    assert any('destination_service_name="legacy"' in line for line in counted)


async def test_east_west_passes_mutual_tls_from_end_to_end(mesh: Mesh) -> None:
    """The caller's certificate reaches the server; the gateway between them opens nothing."""
    address = ingress_pod(mesh)["status"]["podIP"]
    mesh.apply(REMOTE.replace("GATEWAY", address), "destinationrule/remote")
    headers = json.loads(call(mesh, "http://remote/"))["headers"]
    claimed = headers["x-forwarded-client-cert"]
    assert "URI=spiffe://cluster.local/ns/default/sa/default" in claimed
    assert "ingressgateway" not in claimed


async def test_east_west_leads_strangers_nowhere(mesh: Mesh) -> None:
    """Not to a cluster of the gateway's own, which would carry its identity."""
    at = ingress_pod(mesh)["status"]["podIP"]
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name in ("outbound-80--echo.default.svc.cluster.local", "outbound_.80_._.lost.local"):
        with pytest.raises((ssl.SSLError, OSError)):
            await _get(at, 15443, "echo", "/", ssl=context, server_hostname=f"{name}.meltemi")


async def test_ingress_routes_and_says_where_it_is(mesh: Mesh, authority: Authority) -> None:
    client = Client(authority)
    found = [(await plain(INGRESS, path)).status for path in ("/only", "/only/x", "/underneath")]
    assert found == [200, 404, 404]
    assert (await client.get(INGRESS, "/under/way")).echo["path"] == "/under/way"
    assert (await client.get(INGRESS, "/under")).status == 200
    service = ("service", "istio-ingressgateway", "-n", "istio-system")
    where = "jsonpath={.status.loadBalancer.ingress[*].ip}"
    await until(lambda: bool(mesh.kubectl("get", *service, "-o", where)))
    address = mesh.kubectl("get", *service, "-o", where)
    await until(lambda: mesh.kubectl("get", "ingress", "echo", "-o", where) == address)


REMOTE = """
apiVersion: v1
kind: Service
metadata: {name: remote}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: remote-1, labels: {kubernetes.io/service-name: remote}}
addressType: IPv4
ports: [{name: http, port: 15443, protocol: TCP}]
endpoints: [{addresses: [GATEWAY], conditions: {ready: true}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: remote}
spec:
  host: remote
  trafficPolicy:
    tls:
      mode: ISTIO_MUTUAL
      sni: outbound_.80_._.echo.default.svc.cluster.local
      subjectAltNames: ["spiffe://cluster.local/ns/default/sa/default"]
"""


FAR = """
apiVersion: v1
kind: Pod
metadata:
  name: crossing
  labels:
    app: crossing
    istio: crossing
    topology.istio.io/network: far
    sidecar.istio.io/inject: "true"
  annotations: {inject.istio.io/templates: gateway}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: istio-proxy, image: auto}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: crossing}
spec:
  selector: {istio: crossing}
  servers:
  - port: {number: 15443, name: tls, protocol: TLS}
    hosts: ["*.local"]
    tls: {mode: AUTO_PASSTHROUGH}
---
apiVersion: v1
kind: Pod
metadata: {name: distant, labels: {app: distant, topology.istio.io/network: far}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: meltemi/echo, args: ["--port", "8080"]}]
---
apiVersion: v1
kind: Service
metadata: {name: distant}
spec: {selector: {app: distant}, ports: [{name: http, port: 80, targetPort: 8080}]}
"""
NETWORKS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  meshNetworks: |
    networks:
      near: {endpoints: [{fromRegistry: Kubernetes}]}
      far: {gateways: [{address: GATEWAY, port: 15443}]}
"""


async def test_another_network_is_reached_through_its_gateway(mesh: Mesh) -> None:
    """In mutual TLS from end to end; without the gateway the network is not reached at all."""
    mesh.apply(FAR, "gateway/crossing")
    mesh.kubectl("wait", "--for=condition=Ready", "pod/crossing", "pod/distant", "--timeout=60s")
    address, direct = (
        mesh.kubectl("get", "pod", name, "-o", "jsonpath={.status.podIP}")
        for name in ("crossing", "distant")
    )
    assert direct in endpoints_of(mesh, "distant")
    mesh.apply(NETWORKS.replace("GATEWAY", address))
    try:
        await until(lambda: f"{address}:15443" in endpoints_of(mesh, "distant"))
        assert direct not in endpoints_of(mesh, "distant")
        headers = json.loads(call(mesh, "http://distant/"))["headers"]
        claimed = headers["x-forwarded-client-cert"]
        assert "URI=spiffe://cluster.local/ns/default/sa/default" in claimed
        mesh.kubectl("delete", "pod", "crossing")
        ask = ("exec", "caller", "-c", "curl", "--", "curl", "-s", "-f", "-m", "1")
        await until(lambda: mesh.result("kubectl", *ask, "http://distant/").returncode != 0)
    finally:
        mesh.kubectl("delete", "configmap", "istio", "-n", "istio-system")
    await until(lambda: direct in endpoints_of(mesh, "distant"))
    assert "headers" in json.loads(call(mesh, "http://distant/"))


def endpoints_of(mesh: Mesh, name: str) -> str:
    """The endpoints of a service's port 80, as the caller's Envoy has them."""
    cluster = f"outbound|80||{name}.default.svc.cluster.local"
    return mesh.meltemi("proxy-config", "endpoint", "caller", "--cluster", cluster)

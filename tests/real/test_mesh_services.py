"""Services of every kind on a real mesh: names, protocols, ServiceEntries, Sidecars, workloads."""

import json
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dnslib import DNSRecord

from tests import certificates
from tests.real.conftest import Mesh, running_mesh

BRIDGE = "10.44.0.1"
"""The machine as pods see it: where these tests stand in for the world outside."""

NAMESPACE = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
"""
SHOP = """
apiVersion: v1
kind: Pod
metadata:
  name: caller
  namespace: shop
  labels: {app: caller}
  annotations: {proxy.istio.io/config: '{"proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true"}}'}
spec:
  containers:
  - {name: main, image: python, command: [python3, "-c", "import time; time.sleep(1e6)"]}
---
apiVersion: v1
kind: Pod
metadata: {name: echo, namespace: shop, labels: {app: echo}}
spec:
  containers:
  - {name: main, image: meltemi/echo, args: ["--port", "8080", "--tcp-port", "9000"]}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop}
spec:
  selector: {app: echo}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: tcp, port: 9000}
---
apiVersion: v1
kind: Service
metadata: {name: sniffed, namespace: shop}
spec:
  selector: {app: both}
  ports: [{name: web, port: 8090, targetPort: 8081}, {name: raw, port: 9001, targetPort: 9002}]
---
apiVersion: v1
kind: Pod
metadata: {name: both, namespace: shop, labels: {app: both}}
spec:
  containers:
  - {name: main, image: meltemi/echo, args: ["--port", "8081", "--tcp-port", "9002"]}
---
apiVersion: v1
kind: Service
metadata: {name: peers, namespace: shop}
spec: {clusterIP: None, selector: {app: echo}, ports: [{name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: shop}
spec: {type: ExternalName, externalName: echo.shop.svc.cluster.local}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
"""
ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %(name)s, namespace: shop}
spec:
  hosts: [%(host)s]
  location: MESH_EXTERNAL
  resolution: %(resolution)s
  ports: [{number: %(number)s, name: %(port)s, protocol: %(protocol)s}]
  %(more)s
"""
GROUP = """
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: vm, namespace: shop}
spec:
  metadata: {labels: {app: vm, version: v1}}
  template: {serviceAccount: default, ports: {http: 8000}}
  probe: {periodSeconds: 1, httpGet: {path: /, port: 8000}}
---
apiVersion: v1
kind: Service
metadata: {name: vm, namespace: shop}
spec: {selector: {app: vm}, ports: [{name: http, port: 80, targetPort: 8000}]}
"""
GET = """
import urllib.request, urllib.error
try:
    request = urllib.request.Request({url!r}, headers={headers!r})
    answer = urllib.request.urlopen(request, timeout=20)
    print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""
TALK = """
import socket
with socket.create_connection(({host!r}, {port}), timeout=20) as sock:
    if {said!r}:
        sock.sendall({said!r})
    try:
        print(sock.recv(1000))
    except ConnectionResetError:
        print(b"")
"""


class Shop:
    """The mesh, and what its caller sees."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

    def python(self, code: str) -> str:
        return self.mesh.kubectl(
            "exec", "-n", "shop", "caller", "-c", "main", "--", "python3", "-c", code
        ).strip()

    def get(self, url: str, **headers: str) -> tuple[int, str]:
        status, _, body = self.python(GET.format(url=url, headers=headers)).partition(" ")
        return int(status), body

    def echoed(self, url: str) -> dict[str, str]:
        """The headers that the echo program was sent."""
        status, body = self.get(url)
        assert status == 200, body
        headers: dict[str, str] = json.loads(body)["headers"]
        return headers

    def talk(self, host: str, port: int, said: bytes = b"hello\n") -> bytes:
        found = self.python(TALK.format(host=host, port=port, said=said))
        return bytes(found[2:-1], "ascii").decode("unicode_escape").encode("latin1")

    def address(self, host: str) -> str:
        return self.python(f"import socket; print(socket.gethostbyname({host!r}))")

    def entry(self, name: str, host: str, resolution: str, port: str, more: str) -> None:
        """`port`: `name:number:protocol`."""
        label, number, protocol = port.split(":")
        text = ENTRY % {
            "name": name,
            "host": host,
            "resolution": resolution,
            "number": number,
            "port": label,
            "protocol": protocol,
            "more": more,
        }
        self.mesh.apply(text, f"serviceentry/{name}.shop")


@pytest.fixture(scope="module")
def shop(own_network: None) -> Iterator[Shop]:
    for mesh in running_mesh():
        mesh.apply(NAMESPACE, "namespace/shop")
        mesh.apply(SHOP)
        for pod in ("caller", "echo", "both"):
            mesh.kubectl("wait", "-n", "shop", "--for=condition=Ready", f"pod/{pod}",
                         "--timeout=60s")  # fmt: skip
        yield Shop(mesh)
        refused = [line for proxy in mesh.proxies() for line in proxy["rejected"]]
        assert refused == []


@contextmanager
def outside(
    answer: Callable[[socket.socket], None], context: ssl.SSLContext | None = None
) -> Iterator[int]:
    """A server beyond the mesh; its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if context is None:
                answer(self.request)
            else:
                with context.wrap_socket(self.request, server_side=True) as wrapped:
                    answer(wrapped)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server((BRIDGE, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def repeats(sock: socket.socket) -> None:
    sock.sendall(b"outside: " + sock.recv(1000))


def speaks_first(sock: socket.socket) -> None:
    sock.sendall(b"welcome")


def test_http_and_tcp_are_spoken_in_mutual_tls(shop: Shop) -> None:
    assert "spiffe://" in shop.echoed("http://echo.shop/")["x-forwarded-client-cert"]
    assert b"hello" in shop.talk("echo", 9000)


def test_what_is_not_declared_is_sniffed_inside_mutual_tls_too(shop: Shop) -> None:
    assert "spiffe://" in shop.echoed("http://sniffed:8090/")["x-forwarded-client-cert"]
    assert b"hello" in shop.talk("sniffed", 9001)


def test_headless_services_and_aliases_lead_to_their_pods(shop: Shop) -> None:
    assert b"hello" in shop.talk("peers", 9000)
    assert "spiffe://" in shop.echoed("http://alias/")["x-forwarded-client-cert"]


def test_web_sockets_pass_both_proxies(shop: Shop) -> None:
    upgrade = (
        b"GET /ws HTTP/1.1\r\nHost: echo\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert shop.talk("echo", 80, upgrade).startswith(b"HTTP/1.1 101")


def test_a_static_entry_gets_an_address_and_a_name(shop: Shop) -> None:
    with outside(repeats) as port:
        endpoint = f"endpoints: [{{address: {BRIDGE}, ports: {{tcp: {port}}}}}]"
        shop.entry("legacy", "legacy.example.com", "STATIC", "tcp:7000:TCP", endpoint)
        assert shop.address("legacy.example.com").startswith("240.240.")
        assert shop.talk("legacy.example.com", 7000) == b"outside: hello\n"
        status = json.loads(
            shop.mesh.kubectl("get", "serviceentry", "legacy", "-n", "shop", "-o", "json")
        )["status"]
        assert {a["host"] for a in status["addresses"]} == {"legacy.example.com"}
        assert len(status["addresses"]) == 2


def test_a_server_that_speaks_first_is_not_waited_on(shop: Shop) -> None:
    with outside(speaks_first) as port:
        endpoint = f"endpoints: [{{address: {BRIDGE}, ports: {{db: {port}}}}}]"
        shop.entry("db", "db.example.com", "STATIC", "db:3306:''", endpoint)
        started = time.monotonic()
        assert shop.talk("db.example.com", 3306, b"") == b"welcome"
        assert time.monotonic() - started < 4


def test_names_are_resolved_by_envoy(shop: Shop) -> None:
    more = "endpoints: [{address: free.shop.svc.cluster.local, ports: {http: 8080}}]"
    shop.mesh.apply(FREE)
    shop.mesh.kubectl("wait", "-n", "shop", "--for=condition=Ready", "pod/free", "--timeout=60s")
    shop.entry("api", "api.example.com", "DNS", "http:80:HTTP", more)
    assert shop.echoed("http://api.example.com/")["host"] == "api.example.com"
    shop.entry("one", "one.example.com", "DNS_ROUND_ROBIN", "http:80:HTTP", more)
    assert shop.echoed("http://one.example.com/")["host"] == "one.example.com"


def test_wildcards_are_resolved_from_the_request(shop: Shop) -> None:
    shop.mesh.apply(FREE)
    shop.mesh.kubectl("wait", "-n", "shop", "--for=condition=Ready", "pod/free", "--timeout=60s")
    shop.entry("wild", '"*.svc.cluster.local"', "DYNAMIC_DNS", "http:8080:HTTP", "")
    headers = shop.echoed("http://free.shop.svc.cluster.local:8080/")
    assert headers["host"] == "free.shop.svc.cluster.local:8080"


FREE = """
apiVersion: v1
kind: Pod
metadata:
  name: free
  namespace: shop
  labels: {app: free, sidecar.istio.io/inject: "false"}
spec: {containers: [{name: main, image: meltemi/echo, args: ["--port", "8080"]}]}
---
apiVersion: v1
kind: Service
metadata: {name: free, namespace: shop}
spec: {clusterIP: None, selector: {app: free}, ports: [{name: tcp-x, port: 9999}]}
"""
TLS = """
import socket, ssl
context = ssl.create_default_context(cadata={ca!r})
with socket.create_connection(({host!r}, 443), timeout=20) as raw:
    with context.wrap_socket(raw, server_hostname={host!r}) as sock:
        sock.sendall(b"sealed")
        print(sock.recv(1000).decode())
"""


def test_tls_goes_through_unopened_by_its_name(shop: Shop, tmp_path: Path) -> None:
    authority = certificates.Authority()
    signed = authority.sign("*.tls.example.com")
    (tmp_path / "pair.pem").write_bytes(signed.certificate + signed.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    with outside(repeats, context) as port:
        endpoint = (
            f"addresses: [10.99.9.9]\n  endpoints: [{{address: {BRIDGE}, ports: {{tls: {port}}}}}]"
        )
        shop.entry("tls", '"*.tls.example.com"', "STATIC", "tls:443:TLS", endpoint)
        code = TLS.format(ca=authority.pem.decode(), host="a.tls.example.com")
        assert shop.python(code) == "outside: sealed"


def test_every_question_for_a_name_is_captured(shop: Shop) -> None:
    shop.entry("named", "named.example.com", "STATIC", "tcp:7001:TCP",
               f"addresses: [10.99.9.8]\n  endpoints: [{{address: {BRIDGE}}}]")  # fmt: skip
    question = bytes(DNSRecord.question("named.example.com").pack()).hex()
    code = (
        "import socket\n"
        "sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "sock.settimeout(10)\n"
        f"sock.sendto(bytes.fromhex('{question}'), ('192.0.2.53', 53))\n"
        "print(sock.recv(1000).hex())"
    )
    answer = DNSRecord.parse(bytes.fromhex(shop.python(code)))
    assert [str(r.rdata) for r in answer.rr] == ["10.99.9.8"]


def test_a_sidecar_object_closes_the_world(shop: Shop) -> None:
    shop.mesh.apply(
        """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: closed, namespace: shop}
spec:
  egress: [{hosts: ["./echo.shop.svc.cluster.local"]}]
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
""",
        "sidecar/closed.shop",
    )
    try:
        assert shop.echoed("http://echo/")
        with outside(repeats) as port:
            assert shop.talk(BRIDGE, port) == b""
        assert shop.get("http://echo/", Host="unknown.example.com")[0] == 502
    finally:
        shop.mesh.kubectl("delete", "sidecar", "closed", "-n", "shop")


GUARDED = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: trusted, namespace: shop}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reads-secrets, namespace: shop}
rules: [{apiGroups: [""], resources: [secrets], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reads-secrets, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reads-secrets}
subjects: [{kind: ServiceAccount, name: trusted, namespace: shop}]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: guarded, namespace: shop}
spec:
  workloadSelector: {labels: {guarded: "yes"}}
  ingress:
  - port: {number: 8080, protocol: HTTP, name: http}
    tls: {mode: SIMPLE, credentialName: guarded}
"""
GUARD = """
---
apiVersion: v1
kind: Pod
metadata: {name: %(name)s, namespace: shop, labels: {app: %(name)s, guarded: "yes"}}
spec:
  serviceAccountName: %(account)s
  containers: [{name: main, image: meltemi/echo, args: ["--port", "8080"]}]
---
apiVersion: v1
kind: Service
metadata: {name: %(name)s, namespace: shop}
spec: {selector: {app: %(name)s}, ports: [{name: http, port: 80, targetPort: 8080}]}
"""


def shown_by(address: str, authority: certificates.Authority) -> str:
    """The names in the certificate of a pod's port 8080, as a client of the machine sees it;
    empty: it speaks no TLS. It answers a request inside."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    try:
        with (
            socket.create_connection((address, 8080), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="guarded.example.com") as sock,
        ):
            sock.sendall(b"GET / HTTP/1.1\r\nhost: guarded\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200")
            names = (sock.getpeercert() or {}).get("subjectAltName", ())
            return ",".join(str(name[1]) for name in names)
    except (ssl.SSLError, ConnectionError):
        return ""


def until_shown(address: str, authority: certificates.Authority, serial: str) -> None:
    deadline = time.monotonic() + 90
    while f"{serial}.example.com" not in shown_by(address, authority):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_sidecar_ends_tls_with_a_secret_that_its_account_may_read(shop: Shop) -> None:
    authority = certificates.Authority()

    def certify(serial: str) -> None:
        signed = authority.sign("guarded.example.com", f"{serial}.example.com")
        shop.mesh.apply(certificates.tls_secret("guarded", signed, namespace="shop"))

    certify("one")
    pods = {"trusted": "trusted", "stranger": "default"}
    guards = [GUARD % {"name": name, "account": account} for name, account in pods.items()]
    shop.mesh.apply(GUARDED + "".join(guards), "sidecar/guarded.shop")
    for name in pods:
        shop.mesh.kubectl("wait", "-n", "shop", "--for=condition=Ready", f"pod/{name}",
                          "--timeout=60s")  # fmt: skip
    trusted, stranger = (
        str(shop.mesh.kubectl("get", "pod", name, "-n", "shop", "-o", "jsonpath={.status.podIP}"))
        for name in pods
    )
    until_shown(trusted, authority, "one")
    assert shown_by(stranger, authority) == ""
    for name in pods:
        assert "spiffe://" in shop.echoed(f"http://{name}/")["x-forwarded-client-cert"]
    certify("two")
    until_shown(trusted, authority, "two")
    assert shown_by(stranger, authority) == ""
    shop.mesh.kubectl("delete", "sidecar", "guarded", "-n", "shop")


FILED = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: filed, namespace: shop}
spec:
  workloadSelector: {labels: {app: filed}}
  ingress:
  - port: {number: 8080, protocol: HTTP, name: http}
    tls: {mode: SIMPLE, serverCertificate: /etc/filed/tls.crt, privateKey: /etc/filed/tls.key}
---
apiVersion: v1
kind: Pod
metadata: {name: filed, namespace: shop, labels: {app: filed}}
spec:
  volumes: [{name: filed, secret: {secretName: filed}}]
  containers:
  - {name: istio-proxy, image: auto, volumeMounts: [{name: filed, mountPath: /etc/filed}]}
  - {name: main, image: meltemi/echo, args: ["--port", "8080"]}
"""


def test_certificates_of_a_mounted_secret_are_watched(shop: Shop) -> None:
    authority = certificates.Authority()
    address = ""
    for serial in ("one", "two", "three"):
        signed = authority.sign("guarded.example.com", f"{serial}.example.com")
        shop.mesh.apply(certificates.tls_secret("filed", signed, namespace="shop"))
        if not address:
            shop.mesh.apply(FILED, "sidecar/filed.shop")
            shop.mesh.kubectl("wait", "-n", "shop", "--for=condition=Ready", "pod/filed",
                              "--timeout=60s")  # fmt: skip
            where = ("get", "pod", "filed", "-n", "shop", "-o", "jsonpath={.status.podIP}")
            address = shop.mesh.kubectl(*where)
        until_shown(address, authority, serial)
    shop.mesh.kubectl("delete", "sidecar", "filed", "-n", "shop")


class Member:
    """A command that `meltemi workload` runs."""

    def __init__(self, mesh: Mesh, output: Path, *command: str, group: str = "vm") -> None:
        program = str(Path(sys.executable).parent / "meltemi")
        self._output = output
        argv = (program, "workload", "run", "--group", group, "-n", "shop")
        with output.open("wb") as said:
            self.process = subprocess.Popen(
                (*argv, "--data", str(mesh.data), "--", *command),
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def said(self) -> str:
        return self._output.read_text()

    def joined(self) -> None:
        """Wait until it is a member."""
        deadline = time.monotonic() + 60
        while "joined the mesh" not in self.said():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)


COUNTED = """
import urllib.request
print(urllib.request.urlopen("http://localhost:15020/stats/prometheus").read().decode())
"""
PRIVATE = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: private, namespace: shop}
spec:
  hosts: [private.example.com]
  addresses: [192.0.2.77]
  exportTo: ["."]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 192.0.2.78}]
"""


def test_a_command_of_the_machine_joins_the_mesh(shop: Shop, tmp_path: Path) -> None:
    mesh = shop.mesh
    mesh.apply(GROUP)
    serve = ("python3", "-m", "http.server", "8000", "--bind", "0.0.0.0")
    server = Member(mesh, tmp_path / "server", *serve)
    try:
        server.joined()
        mesh.kubectl("wait", "-n", "shop", "workloadentry", "--all", "--timeout=60s",
                     "--for=condition=Healthy")  # fmt: skip
        deadline = time.monotonic() + 30
        while shop.get("http://vm/")[0] != 200 and time.monotonic() < deadline:
            continue
        assert shop.get("http://vm/")[0] == 200, server.said()
        question = GET.format(url="http://echo.shop/", headers={})
        asks = Member(mesh, tmp_path / "asks", "python3", "-c", question)
        assert asks.process.wait(60) == 0, asks.said()
        headers = json.loads(asks.said().partition("\n")[2].partition(" ")[2])["headers"]
        assert "/ns/shop/sa/default" in headers["x-forwarded-client-cert"]
        seen = mesh.kubectl("exec", "echo", "-n", "shop", "--", "python3", "-c", COUNTED)
        assert 'source_workload="vm",source_workload_namespace="shop"' in seen
        listed = mesh.kubectl("get", "workloadentry", "-n", "shop", "-o", "name").split()
        assert len(listed) == 1
        mesh.apply(PRIVATE)
        resolve = "import socket; print(socket.gethostbyname('private.example.com'))"
        names = Member(mesh, tmp_path / "names", "python3", "-c", resolve)
        assert names.process.wait(60) == 0, names.said()
        assert "192.0.2.77" in names.said(), "it sees what its namespace keeps to itself"
    finally:
        server.process.terminate()
        server.process.wait(30)
    assert mesh.kubectl("get", "workloadentry", "-n", "shop", "-o", "name").split() == []


VAULT = """
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: vault, namespace: shop}
spec:
  metadata: {labels: {app: vault, guarded: "yes"}}
  template: {serviceAccount: trusted, ports: {http: 8080}}
  probe: {periodSeconds: 1, tcpSocket: {port: 8080}}
"""


def test_a_member_may_show_a_secret_of_its_account(shop: Shop, tmp_path: Path) -> None:
    authority = certificates.Authority()
    signed = authority.sign("guarded.example.com", "vault.example.com")
    shop.mesh.apply(certificates.tls_secret("guarded", signed, namespace="shop"))
    shop.mesh.apply(GUARDED + "---" + VAULT, "sidecar/guarded.shop")
    code = "import http.server as h; h.HTTPServer(('', 8080), h.SimpleHTTPRequestHandler)"
    serve = ("python3", "-c", f"{code}.serve_forever()")
    server = Member(shop.mesh, tmp_path / "vault", *serve, group="vault")
    try:
        server.joined()
        shop.mesh.kubectl("wait", "-n", "shop", "workloadentry", "--all", "--timeout=60s",
                          "--for=condition=Healthy")  # fmt: skip
        address = server.said().partition("joined the mesh: ")[2].split()[0]
        until_shown(address, authority, "vault")
    finally:
        server.process.terminate()
        server.process.wait(30)
        shop.mesh.kubectl("delete", "sidecar", "guarded", "-n", "shop")


def test_a_killed_member_is_forgotten(shop: Shop, tmp_path: Path) -> None:
    mesh = shop.mesh
    mesh.apply(GROUP)
    member = Member(mesh, tmp_path / "member", "sleep", "1000")
    member.joined()
    (place,) = Path("/run/netns").glob("mvm*")
    member.process.kill()
    began = time.monotonic()
    member.process.wait(10)
    mesh.kubectl("wait", "-n", "shop", "workloadentry", "--all", "--for=delete", "--timeout=60s")
    assert time.monotonic() - began < 8, "sooner than by the control plane's grace"
    assert mesh.kubectl("get", "workloadentry", "-n", "shop", "-o", "name").split() == []
    assert not place.exists()
    assert not Path(f"/run/meltemi-{place.name}").exists()


def test_an_address_is_registered_without_a_proxy(shop: Shop) -> None:
    mesh = shop.mesh
    mesh.apply(GROUP)
    with outside(repeats) as port:
        said = mesh.meltemi(
            "workload", "entry", BRIDGE, "--group", "vm", "-n", "shop", "--port", f"tcp={port}"
        )
        assert "registered" in said
        more = "workloadSelector: {labels: {app: vm}}"
        shop.entry("plain", "plain.example.com", "STATIC", "tcp:7002:TCP", more)
        assert shop.talk("plain.example.com", 7002) == b"outside: hello\n"

"""Every protocol between two sidecars in strict mutual TLS, and open connections over changes."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.real.conftest import Mesh, running_mesh
from tests.real.load import Load
from tests.real.protocol_peer import EITHER, FIRST, GRPC

PEER = (sys.executable, str(Path(__file__).parent / "protocol_peer.py"))
NAMESPACE = """
apiVersion: v1
kind: Namespace
metadata: {name: talk, labels: {istio-injection: enabled}}
"""
PEERS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: peer-%(version)s, namespace: talk}
spec:
  selector: {matchLabels: {app: peer, version: %(version)s}}
  template:
    metadata: {labels: {app: peer, version: %(version)s}}
    spec:
      containers:
      - name: main
        image: python
        command: [%(python)s, %(program)s, serve]
        readinessProbe: {tcpSocket: {port: %(either)s}, periodSeconds: 1}
---
"""
APPLICATIONS = f"""
apiVersion: v1
kind: Pod
metadata: {{name: caller, namespace: talk, labels: {{app: caller}}}}
spec: {{containers: [{{name: main, image: meltemi/sleep}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: talk}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: main
        image: meltemi/echo
        args: ["--port", "8080", "--tcp-port", "9000"]
        readinessProbe: {{httpGet: {{path: /health, port: 8080}}, periodSeconds: 1}}
      - {{name: h2, image: meltemi/h2-echo, args: ["--port", "8082"]}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: talk}}
spec:
  selector: {{app: web}}
  ports:
  - {{name: http, port: 80, targetPort: 8080}}
  - {{name: http2, port: 82, targetPort: 8082}}
  - {{name: tcp, port: 9000}}
---
apiVersion: v1
kind: Service
metadata: {{name: peer, namespace: talk}}
spec:
  selector: {{app: peer}}
  ports:
  - {{name: grpc, port: {GRPC}}}
  - {{name: tcp-first, port: {FIRST}}}
  - {{name: either, port: {EITHER}}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: talk}}
spec: {{mtls: {{mode: STRICT}}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: door, namespace: talk}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ["*"]}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: peer, namespace: talk}}
spec:
  host: peer
  subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]
"""
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: %s, namespace: talk}
spec: {hosts: [%s], gateways: [%s], http: [%s]}
"""
TO_WEB = "{%s, route: [{destination: {host: web, port: {number: 80}}}]}"


class Talk:
    """The mesh, and what its caller does."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

    def inside(self, *command: str) -> tuple[str, ...]:
        return ("kubectl", "exec", "-i", "-n", "talk", "caller", "-c", "main", "--", *command)

    def peer(self, *arguments: str) -> str:
        return self.mesh.run(*self.inside(*PEER, *arguments))

    def calls(self, method: str, count: int) -> Counter[str]:
        """Who answered that many gRPC calls on one connection, by the name of the pod."""
        return Counter(json.loads(self.peer("calls", f"peer:{GRPC}", method, str(count))))

    def raw(self, host: str, port: int, said: str) -> str:
        code = (
            "import socket\n"
            f"with socket.create_connection(({host!r}, {port}), timeout=20) as sock:\n"
            f"    sock.sendall({said!r}.encode())\n"
            "    print(sock.makefile().readline(), end='')"
        )
        return self.mesh.run(*self.inside("python3", "-c", code))

    def route(self, name: str, *rules: str) -> None:
        """Rules for callers inside the mesh."""
        text = ROUTE % (name, name, "mesh", ", ".join(rules))
        self.mesh.apply(text, f"virtualservice/{name}.talk")

    def let_in(self, rule: str) -> None:
        """A rule for whatever comes to the gateway."""
        self.mesh.apply(ROUTE % ("in", '"*"', "door", rule), "virtualservice/in.talk")

    def pods(self, app: str, version: str = "") -> Any:
        label = f"app={app}" + (f",version={version}" if version else "")
        found = self.mesh.kubectl("get", "pods", "-n", "talk", "-l", label, "-o", "json")
        return json.loads(found)["items"]

    def scale(self, name: str, replicas: int) -> None:
        self.mesh.kubectl("scale", "-n", "talk", f"deployment/{name}", f"--replicas={replicas}")
        self.settled(name)

    def settled(self, name: str) -> None:
        self.mesh.kubectl("rollout", "status", "-n", "talk", f"deployment/{name}", "--timeout=90s")

    @contextlib.contextmanager
    def open(self, *arguments: str) -> Iterator["Conversation"]:
        env = {**os.environ, "KUBECONFIG": str(self.mesh.data / "kubeconfig")}
        with subprocess.Popen(
            self.inside(*PEER, *arguments),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        ) as process:  # fmt: skip
            yield Conversation(process)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(30) == 0


class Conversation:
    """A connection that stays open in the caller's pod."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def repeats(self, said: str) -> bool:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(said + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline() == said + "\n"


@pytest.fixture(scope="module")
def talk(own_network: None) -> Iterator[Talk]:
    for mesh in running_mesh():
        mesh.apply(NAMESPACE, "namespace/talk")
        words = {"python": json.dumps(PEER[0]), "program": json.dumps(PEER[1]), "either": EITHER}
        peers = "".join(PEERS % {**words, "version": version} for version in ("v1", "v2"))
        mesh.apply(peers + APPLICATIONS, "gateway/door.talk", "destinationrule/peer.talk")
        mesh.kubectl("wait", "-n", "talk", "--for=condition=Ready", "pod/caller", "--timeout=60s")
        found = Talk(mesh)
        for name in ("peer-v1", "peer-v2", "web"):
            found.settled(name)
        yield found
        refused = [line for proxy in mesh.proxies() for line in proxy["rejected"]]
        assert refused == []


@pytest.fixture(autouse=True)
def without_routes(talk: Talk) -> Iterator[None]:
    yield
    talk.mesh.kubectl("delete", "virtualservice", "-n", "talk", "--all")


def share(found: Counter[str], version: str) -> int:
    return sum(n for pod, n in found.items() if pod.startswith(f"peer-{version}-"))


def test_grpc_calls_of_one_connection_are_balanced(talk: Talk) -> None:
    found = talk.calls("Say", 60)
    assert share(found, "v1") + share(found, "v2") == 60, found
    assert min(share(found, "v1"), share(found, "v2")) > 8, found


def test_grpc_calls_are_split_by_weight(talk: Talk) -> None:
    split = (
        "{destination: {host: peer, subset: v1}, weight: 75}, "
        "{destination: {host: peer, subset: v2}, weight: 25}"
    )
    talk.route("peer", f"{{route: [{split}]}}")
    found = talk.calls("Say", 100)
    assert share(found, "v1") + share(found, "v2") == 100, found
    assert 5 <= share(found, "v2") <= 45, found


def test_grpc_calls_are_retried_on_unavailable(talk: Talk) -> None:
    to_first = "route: [{destination: {host: peer, subset: v1}}]"
    talk.route("peer", f"{{{to_first}, retries: {{attempts: 0}}}}")
    assert talk.calls("Shy", 3) == {"UNAVAILABLE": 3}
    talk.route("peer", f"{{{to_first}, retries: {{attempts: 2, retryOn: unavailable}}}}")
    assert share(talk.calls("Shy", 3), "v1") == 3


def test_a_grpc_status_is_injected(talk: Talk) -> None:
    fault = "fault: {abort: {percentage: {value: 100}, grpcStatus: RESOURCE_EXHAUSTED}}"
    talk.route("peer", f"{{{fault}, route: [{{destination: {{host: peer}}}}]}}")
    assert talk.calls("Say", 3) == {"RESOURCE_EXHAUSTED": 3}


def test_a_grpc_stream_outlives_changes_of_routes_and_endpoints(talk: Talk) -> None:
    with talk.open("talk", f"peer:{GRPC}") as stream:
        assert stream.repeats("before")
        talk.route("peer", "{route: [{destination: {host: peer, subset: v2}}]}")
        assert stream.repeats("after a route")
        talk.mesh.kubectl(
            "patch", "destinationrule", "peer", "-n", "talk", "--type=merge", "-p",
            '{"spec": {"trafficPolicy": {"loadBalancer": {"simple": "ROUND_ROBIN"}}}}',
        )  # fmt: skip
        talk.mesh.meltemi("wait", "--for=distribution", "destinationrule/peer.talk")
        assert stream.repeats("after a policy")
        talk.scale("peer-v2", 2)
        assert share(talk.calls("Say", 20), "v2") == 20
        assert stream.repeats("after an endpoint")


def test_http2_is_spoken_end_to_end_and_from_http1(talk: Talk) -> None:
    answers = [
        talk.peer("http2", "web", "82", "/from-h2"),
        talk.mesh.run(*talk.inside("curl", "-s", "http://web:82/from-h1")),
    ]
    for answer, path in zip(map(json.loads, answers), ("/from-h2", "/from-h1"), strict=True):
        assert (answer["protocol"], answer["path"]) == ("HTTP/2", path)
        assert "/ns/talk/" in answer["headers"]["x-forwarded-client-cert"]


def test_a_websocket_between_sidecars_outlives_a_route(talk: Talk) -> None:
    with talk.open("websocket", "http://web/ws") as stream:
        assert stream.repeats("before")
        talk.route("web", TO_WEB % "timeout: 5s")
        assert stream.repeats("after")


def test_a_websocket_through_the_gateway_outlives_a_route(talk: Talk) -> None:
    talk.let_in(TO_WEB % "timeout: 50s")

    async def converse() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{talk.mesh.ingress}/ws") as stream,
        ):
            await stream.send_str("before")
            assert await stream.receive_str(timeout=20) == "before"
            await asyncio.to_thread(
                talk.let_in, TO_WEB % "headers: {request: {set: {route: changed}}}"
            )
            async with session.get(f"{talk.mesh.ingress}/") as reply:
                assert (await reply.json())["headers"]["route"] == "changed"
            await stream.send_bytes(b"after")
            assert await stream.receive_bytes(timeout=20) == b"after"

    asyncio.run(converse())


def test_bytes_pass_a_tcp_port_and_only_in_mutual_tls(talk: Talk) -> None:
    assert talk.raw("web", 9000, "hello\n") == "hello\n"
    address = talk.pods("web")[0]["status"]["podIP"]
    with socket.create_connection((address, 9000), timeout=20) as sock:
        sock.sendall(b"hello\n")
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""


def test_a_server_on_a_tcp_port_may_speak_first(talk: Talk) -> None:
    code = (
        "import socket\n"
        f"with socket.create_connection(('peer', {FIRST}), timeout=20) as sock:\n"
        "    lines = sock.makefile()\n"
        "    print(lines.readline().strip())\n"
        "    sock.sendall(b'thanks\\n')\n"
        "    print(lines.readline().strip())"
    )
    said = talk.mesh.run(*talk.inside("python3", "-c", code))
    assert said.splitlines() == ["welcome", "then thanks"]


def test_one_undeclared_port_carries_http_and_bytes(talk: Talk) -> None:
    head = talk.mesh.run(*talk.inside("curl", "-s", f"http://peer:{EITHER}/sniffed"))
    assert head.startswith("GET /sniffed HTTP/1.1")
    assert "/ns/talk/" in head.lower().partition("x-forwarded-client-cert:")[2]
    assert talk.raw("peer", EITHER, "\x01 not a request\n") == "\x01 not a request\n"


def test_a_restart_under_load_fails_no_request(talk: Talk) -> None:
    talk.let_in(TO_WEB % "timeout: 20s")

    async def restart() -> Load:
        async with Load(f"{talk.mesh.ingress}/delay/1", at_once=8) as load:
            await load.reach(8)
            await asyncio.to_thread(
                talk.mesh.kubectl, "rollout", "restart", "-n", "talk", "deployment/web"
            )
            await asyncio.to_thread(talk.settled, "web")
            await load.reach(16)
        return load

    load = asyncio.run(restart())
    assert load.failures == {}, load.answers


def test_a_deleted_pod_finishes_what_it_began(talk: Talk) -> None:
    talk.route("peer", "{route: [{destination: {host: peer, subset: v1}}]}")
    with talk.open("talk", f"peer:{GRPC}") as stream:
        assert stream.repeats("before")
        before = talk.pods("peer", "v1")[0]["metadata"]["name"]
        talk.mesh.kubectl("delete", "pod", "-n", "talk", before, "--wait=false")
        talk.settled("peer-v1")
        assert before not in talk.calls("Say", 10)
        ending = {pod["metadata"]["name"]: pod for pod in talk.pods("peer", "v1")}[before]
        assert "deletionTimestamp" in ending["metadata"]
        assert stream.repeats("after the others went elsewhere")
    talk.mesh.kubectl("wait", "-n", "talk", "--for=delete", f"pod/{before}", "--timeout=30s")

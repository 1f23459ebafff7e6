"""What kubectl and other clients stream: logs, exec, attach, copies, forwarded ports, usage."""

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from meltemi.kube.kubeconfig import access_from_file, ssl_context

from .conftest import Mesh, running_mesh
from .load import until

PODS = """
apiVersion: v1
kind: Pod
metadata: {name: talker, labels: {app: talker, sidecar.istio.io/inject: "false"}}
spec:
  containers:
  - name: main
    image: busybox
    stdin: true
    command: [sh, -c]
    args:
    - echo first; echo second; while read line; do echo heard $line; echo told $line >&2; done
  - name: once
    image: busybox
    stdin: true
    stdinOnce: true
    command: [sh, -c, "wc -l; echo counted >&2; exit 3"]
  - name: other
    image: busybox
    command: [sh, -c, "echo from the other; sleep 3600"]
"""


@pytest.fixture(scope="module")
def plain(own_network: None) -> Iterator[Mesh]:
    """The platform alone, with one pod that listens to its standard input."""
    for mesh in running_mesh():
        mesh.kubectl("apply", "-f", "-", text=PODS)
        mesh.kubectl("wait", "--for=condition=Ready", "pod/talker", "--timeout=60s")
        yield mesh


def test_logs_by_their_options(plain: Mesh) -> None:
    kubectl = plain.kubectl
    assert kubectl("logs", "talker", "-c", "main").splitlines() == ["first", "second"]
    assert kubectl("logs", "talker", "-c", "main", "--tail=1") == "second\n"
    assert kubectl("logs", "talker", "-c", "main", "--limit-bytes=5") == "first"
    assert kubectl("logs", "talker", "--all-containers", "--prefix").count("[pod/talker/") == 3
    stamped = kubectl("logs", "talker", "-c", "main", "--timestamps", "--tail=1")
    stamp, said = stamped.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", stamp)
    assert said == "second\n"
    later = (time.time() + 3600, time.time() - 3600)
    times = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(t)) for t in later]
    assert kubectl("logs", "talker", "-c", "main", f"--since-time={times[0]}") == ""
    assert "first" in kubectl("logs", "talker", "-c", "main", f"--since-time={times[1]}")
    assert "first" in kubectl("logs", "talker", "-c", "main", "--since=1h")
    refused = plain.result("kubectl", "logs", "talker", "-c", "main", "--previous")
    assert "previous terminated container main not found" in refused.stderr


def test_attach_talks_to_what_runs(plain: Mesh) -> None:
    said = plain.result("kubectl", "attach", "-i", "talker", "-c", "main", text="hello\n")
    assert said.returncode == 0, said.stderr
    assert said.stdout == "heard hello\n"
    assert "told hello" in said.stderr
    again = plain.kubectl("attach", "-i", "talker", "-c", "main", text="again\n")
    assert again == "heard again\n"
    logged = plain.kubectl("logs", "talker", "-c", "main", "--tail=4").splitlines()
    assert sorted(logged) == ["heard again", "heard hello", "told again", "told hello"]
    once = plain.result("kubectl", "attach", "-i", "talker", "-c", "once", text="one\ntwo\n")
    assert once.stdout == "2\n"
    assert "counted" in once.stderr


def test_files_are_copied_in_and_out(plain: Mesh, tmp_path: Path) -> None:
    source = tmp_path / "note.txt"
    source.write_text("carried\n" * 1000)
    plain.kubectl("cp", str(source), "talker:/tmp/note.txt", "-c", "main")
    assert plain.kubectl("exec", "talker", "-c", "main", "--", "wc", "-l", "/tmp/note.txt")
    back = tmp_path / "back.txt"
    plain.kubectl("cp", "talker:/tmp/note.txt", str(back), "-c", "main")
    assert back.read_text() == source.read_text()


def test_exec_carries_both_streams_and_the_code(plain: Mesh) -> None:
    command = ("sh", "-c", "cat; echo bad >&2; exit 7")
    failed = plain.result("kubectl", "exec", "-i", "talker", "-c", "main", "--", *command,
                          text="in\n")  # fmt: skip
    assert (failed.returncode, failed.stdout) == (7, "in\n")
    assert "bad" in failed.stderr
    unknown = plain.result("kubectl", "exec", "talker", "-c", "none", "--", "true")
    assert "none" in unknown.stderr


def test_usage_is_shown(plain: Mesh) -> None:
    deadline = time.monotonic() + 30
    table = ""
    while "talker" not in table and time.monotonic() < deadline:
        table = plain.result("kubectl", "top", "pod", "--containers").stdout
    assert re.search(r"talker\s+main\s+\d+m\s+\d+Mi", table), table
    assert re.search(r"meltemi\s+\d+m", plain.kubectl("top", "node"))


WEB = """
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {sidecar.istio.io/inject: "false"}
spec:
  containers:
  - name: main
    image: meltemi/echo
    args: [--port=8000]
    readinessProbe: {tcpSocket: {port: 8000}, periodSeconds: 1}
"""


def test_ports_are_forwarded_by_kubectl_and_over_channels(plain: Mesh) -> None:
    plain.kubectl("apply", "-f", "-", text=WEB)
    plain.kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
    with forwarded(plain, "pod/web", 8000) as port:
        for _ in range(3):
            body = urllib.request.urlopen(f"http://127.0.0.1:{port}/hello", timeout=10).read()
            assert b"/hello" in body
    assert b"/world" in asyncio.run(over_channels(plain, "web", 8000))


@contextlib.contextmanager
def forwarded(mesh: Mesh, target: str, port: int) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        local = sock.getsockname()[1]
    env = {**os.environ, "KUBECONFIG": str(mesh.data / "kubeconfig")}
    with subprocess.Popen(["kubectl", "port-forward", target, f"{local}:{port}"], env=env,
                          stdout=subprocess.PIPE, text=True) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert "Forwarding from" in process.stdout.readline()
            yield local
        finally:
            process.terminate()


async def over_channels(mesh: Mesh, pod: str, port: int) -> bytes:
    """As clients do that speak v4.channel.k8s.io: data is channel 0, errors are channel 1."""
    access = access_from_file(mesh.data / "kubeconfig")
    tls = ssl_context(access)
    assert tls is not None
    url = f"{access.server}/api/v1/namespaces/default/pods/{pod}/portforward?ports={port}"
    received = b""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, protocols=("v4.channel.k8s.io",), ssl=tls) as stream,
    ):
        sock = stream.get_extra_info("socket")
        opened = sorted([await stream.receive_bytes(), await stream.receive_bytes()])
        assert opened == [bytes([c]) + port.to_bytes(2, "little") for c in (0, 1)]
        await stream.send_bytes(b"\x00GET /world HTTP/1.0\r\n\r\n")
        async for message in stream:
            if message.type is aiohttp.WSMsgType.BINARY:
                received += message.data[1:]
    # The end of TLS comes after the session's; a loop that ends before it leaks the socket.
    await until(lambda: sock.fileno() == -1)
    return received


def test_node_says_what_it_has(plain: Mesh) -> None:
    summary = json.loads(plain.kubectl("get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes"))
    [node] = summary["items"]
    assert set(node["usage"]) == {"cpu", "memory"}

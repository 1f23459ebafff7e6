"""Mutual TLS between real sidecars: on the wire, by policy, and while certificates change."""

import asyncio
import ipaddress
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.conftest import Mesh, running_mesh
from tests.real.load import Load, answers

PLAIN_POD = """
apiVersion: v1
kind: Pod
metadata:
  name: plain
  labels: {sidecar.istio.io/inject: "false"}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: curl
    image: curlimages/curl
    command: [/bin/sleep, infinity]
"""


class Wire:
    """The first payload bytes of TCP segments on the pods' bridge."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        self._socket.bind(("meltemi0", 0x0800))
        self._socket.setblocking(False)

    def payloads(self) -> Iterator[bytes]:
        """What was captured so far, to the port."""
        while True:
            try:
                packet = self._socket.recv(65536)
            except BlockingIOError:
                return
            header = (packet[0] & 0x0F) * 4
            if packet[9] != socket.IPPROTO_TCP:
                continue
            segment = packet[header:]
            data = segment[(segment[12] >> 4) * 4 :]
            if int.from_bytes(segment[2:4], "big") == self._port and data:
                yield data

    def close(self) -> None:
        self._socket.close()


async def test_between_sidecars_the_wire_is_tls(mesh: Mesh) -> None:
    wire = Wire(9080)
    try:
        mesh.kubectl("rollout", "restart", "deploy/details-v1")
        mesh.kubectl("rollout", "status", "deploy/details-v1", "--timeout=60s")
        await answers(f"{mesh.ingress}/api/v1/products/0", 20)
        captured = list(wire.payloads())
    finally:
        wire.close()
    assert any(data[:2] == b"\x16\x03" for data in captured), "no TLS handshake was seen"
    assert not any(b"GET /details" in data or b"HTTP/1.1" in data for data in captured)


async def test_proxies_hold_spiffe_identities(mesh: Mesh) -> None:
    pod = mesh.pod("app=ratings")["metadata"]["name"]
    secrets = mesh.meltemi("proxy-config", "secret", pod, "-o", "json")
    names = {secret["name"] for secret in json.loads(secrets)}
    assert names == {"default", "ROOTCA"}
    assert "PRIVATE KEY" not in secrets
    stats = mesh.kubectl(
        "exec", "deploy/ratings-v1", "-c", "ratings", "--",
        "curl", "-s", "http://127.0.0.1:15000/certs",
    )  # fmt: skip
    assert "spiffe://cluster.local/ns/default/sa/bookinfo-ratings" in stats


async def test_strict_refuses_plaintext_and_permissive_serves_it(mesh: Mesh) -> None:
    mesh.kubectl("apply", "-f", "-", text=PLAIN_POD)
    mesh.kubectl("wait", "--for=condition=Ready", "pod/plain", "--timeout=60s")
    ask = ("exec", "plain", "--", "curl", "-s", "-m", "15", "-o", "/dev/null",
           "-w", "%{http_code}", "http://details:9080/details/0")  # fmt: skip
    try:
        assert mesh.kubectl(*ask) == "200"
        mesh.apply("bookinfo/policy/mtls-strict.yaml", "peerauthentication/default")
        refused = mesh.result("kubectl", *ask)
        assert refused.returncode != 0
        assert refused.stdout == "000"
        inside = await answers(f"{mesh.ingress}/api/v1/products/0", 20)
        assert all(body["author"] for body in inside)
        mesh.apply("bookinfo/policy/mtls-permissive.yaml", "peerauthentication/default")
        assert mesh.kubectl(*ask) == "200"
    finally:
        mesh.kubectl("delete", "pod/plain", "--now")


def listening() -> set[str]:
    """The IPv4 addresses that this network namespace listens on."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    words = [fields[1].partition(":")[0] for fields in lines if fields[3] == "0A"]
    return {str(ipaddress.ip_address(bytes.fromhex(word)[::-1])) for word in words}


async def test_the_sockets_of_the_mesh_are_closed_to_others(mesh: Mesh) -> None:
    for path in (mesh.data / "run" / "control.sock", mesh.data / "run" / "node.sock"):
        assert path.stat().st_mode & 0o077 == 0
    for path in (mesh.data, mesh.data / "run", mesh.data / "kubeconfig"):
        assert path.stat().st_mode & 0o077 == 0
    outside = {a for a in listening() if not ipaddress.ip_address(a).is_loopback}
    assert outside <= {"10.44.0.1"}, "only the pods' resolver is not on loopback"


async def test_tokens_and_keys_stay_out_of_logs(mesh: Mesh) -> None:
    said = mesh.logs()
    assert not re.search(r"eyJ[A-Za-z0-9_-]{20,}\.", said), "a JWT is in a log"
    assert "PRIVATE KEY" not in said


@pytest.fixture(scope="module")
def short_lived(bookinfo: Mesh) -> Iterator[Mesh]:
    """Certificates that live for half a minute; the shared mesh makes room."""
    bookinfo.down()
    yield from running_mesh("--demo", "bookinfo", "--cert-lifetime", "0.008")


def serial(mesh: Mesh) -> str:
    said = mesh.kubectl(
        "exec", "deploy/reviews-v1", "-c", "reviews", "--",
        "curl", "-s", "http://127.0.0.1:15000/certs",
    )  # fmt: skip
    chains = [c["cert_chain"][0] for c in json.loads(said)["certificates"] if c.get("cert_chain")]
    return str(chains[0]["serial_number"])


async def test_certificates_rotate_under_load_without_a_failed_request(short_lived: Mesh) -> None:
    first = serial(short_lived)
    seen = {first}
    url = f"{short_lived.ingress}/api/v1/products/0/reviews"
    async with Load(url, most=50_000) as load:
        deadline = time.monotonic() + 60
        while len(seen) < 3 and time.monotonic() < deadline:
            await load.reach(50)
            seen.add(await asyncio.to_thread(serial, short_lived))
    print(f"{len(seen) - 1} rotations, {load.answers}")
    assert len(seen) >= 3
    assert load.failures == {}

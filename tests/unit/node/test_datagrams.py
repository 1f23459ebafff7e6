"""Datagrams do not go on to endpoints that have ended: in the kernel's memory, and in ours."""

import asyncio
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping

import msgspec
import pytest

from meltemi.base.keys import ObjectKey
from meltemi.kube.informer import Event
from meltemi.local.node.conntrack import Flow, datagram_places, leads_elsewhere
from meltemi.local.node.forward import Route, serve_udp
from meltemi.local.node.network import Subnet
from meltemi.local.node.services import Backend, Port, ServiceTable, Virtual

NAMES = Virtual(
    namespace="default",
    name="names",
    cluster_ip="10.43.0.20",
    ports=(Port("dns", 53, "UDP", 30053), Port("web", 80, "TCP")),
    backends=(Backend("10.44.0.5", "", True, True, {"dns": 5353, "web": 8080}),),
)


def flow(wanted: tuple[str, int], reached: tuple[str, int]) -> Flow:
    return Flow(2, wanted, reached, b"")


def test_only_ways_of_services_to_what_is_no_endpoint_are_forgotten() -> None:
    known = datagram_places([NAMES], Subnet())
    place, node_place, endpoint = ("10.43.0.20", 53), ("10.44.0.1", 30053), ("10.44.0.5", 5353)
    assert set(known) == {place, node_place}
    assert not leads_elsewhere(flow(place, endpoint), known)
    assert not leads_elsewhere(flow(node_place, endpoint), known)
    assert leads_elsewhere(flow(place, ("10.44.0.6", 5353)), known)
    assert leads_elsewhere(flow(place, place), known), "it was sent before the Service was there"
    assert not leads_elsewhere(flow(("10.44.0.9", 53), ("10.44.0.9", 53)), known)
    gone = datagram_places([msgspec.structs.replace(NAMES, backends=())], Subnet())
    assert leads_elsewhere(flow(place, endpoint), gone)


IN_THE_KERNEL = """
import fcntl, socket, struct, subprocess
from meltemi.local.node.conntrack import forget
family, host, table, target = INPUT
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    fcntl.ioctl(sock, 0x8914, struct.pack("16sH22x", b"lo", 1))

def lead(port):
    rules = f'''
    add table {table} t
    delete table {table} t
    table {table} t {{ chain out {{
      type nat hook output priority -100;
      udp dport 53 dnat to {target}:{port};
    }}
    }}'''
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)

def server():
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    sock.settimeout(5)
    return sock

first, second, client = server(), server(), server()
old, new = first.getsockname()[1], second.getsockname()[1]
lead(old)
client.sendto(b"a", (host, 53))
assert first.recv(9) == b"a"
lead(new)
client.sendto(b"b", (host, 53))
assert first.recv(9) == b"b", "the kernel remembers"
known = {(host, 53): frozenset({(host, new)})}
assert forget(known) == 1
client.sendto(b"c", (host, 53))
assert second.recv(9) == b"c"
assert forget(known) == 0
"""


@pytest.mark.skipif(not shutil.which("nft"), reason="needs nft")
@pytest.mark.parametrize("rights", [("--user", "--map-root-user"), ()], ids=["rootless", "root"])
@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_forgets(rights: tuple[str, ...], version: int) -> None:
    unshare = ("unshare", *rights, "--net")
    if subprocess.run((*unshare, "true"), capture_output=True, check=False).returncode:
        pytest.skip("needs rights to make a network")
    place = (
        (int(socket.AF_INET), "127.0.0.1", "ip", "127.0.0.1")
        if version == 4
        else (int(socket.AF_INET6), "::1", "ip6", "[::1]")
    )
    script = IN_THE_KERNEL.replace("INPUT", repr(place))
    done = subprocess.run(
        (*unshare, sys.executable, "-c", script), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


class Endpoint(asyncio.DatagramProtocol):
    """Answers with its name."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        self._transport.sendto(self._name, addr)


def objects(port: int) -> list[Event]:
    """The Service `names` and its one endpoint."""
    bodies: Mapping[str, object] = {
        "Service": {
            "metadata": {"uid": "u"},
            "spec": {"clusterIP": "10.43.0.20", "ports": [{"port": 53, "protocol": "UDP"}]},
        },
        "EndpointSlice": {
            "metadata": {"labels": {"kubernetes.io/service-name": "names"}},
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
            "ports": [{"name": "", "port": port}],
        },
    }
    return [
        Event(ObjectKey(kind, "default", "names"), msgspec.json.encode(body))
        for kind, body in bodies.items()
    ]


async def test_a_published_port_turns_to_another_endpoint() -> None:
    loop = asyncio.get_running_loop()
    table = ServiceTable()
    ends = [
        await loop.create_datagram_endpoint(
            lambda name=name: Endpoint(name),
            local_addr=("127.0.0.1", 0),  # type: ignore[misc]
        )
        for name in (b"first", b"second")
    ]
    ports = [transport.get_extra_info("sockname")[1] for transport, _ in ends]
    near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    near.bind(("127.0.0.1", 0))
    serving = asyncio.create_task(serve_udp(near, Route(table, "default", "names", 53)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(near.getsockname())
        for port, name in zip(ports, (b"first", b"second"), strict=True):
            table.deliver(objects(port))
            await asyncio.sleep(0)
            client.send(b"who")
            assert await loop.sock_recv(client, 99) == name
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    near.close()
    for transport, _ in ends:
        transport.close()

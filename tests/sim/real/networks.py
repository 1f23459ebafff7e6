"""Two networks, a client's and the servers', joined by a cable; capture as in real pods.

Namespaces belong to threads, so the test's own process stays where it is: sockets and processes
made on a network's thread live in that network.
"""

import concurrent.futures
import itertools
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import TypeVar

from meltemi.local.node import syscalls

T = TypeVar("T")

MARK = 0x539
"""On Envoy's own sockets, which capture leaves alone."""
ECHO_PORT = 19000
OWN_PORTS = range(17000, 17100)
"""Of the servers' network, on every address: where tests put servers of their own."""
SILENT_PORT = 17099
"""Nobody ever answers here, not even to say no."""
_CLIENT_SIDE, _SERVER_SIDE = "172.31.255.1", "172.31.255.2"
_SO_MARK = 36

_CAPTURE = f"""
table ip matrix {{
  chain output {{
    type nat hook output priority -100; policy accept;
    meta mark {MARK} return
    ip daddr 127.0.0.0/8 return
    meta l4proto tcp redirect to :15001
  }}
}}
"""
_SERVE = f"""
table ip matrix {{
  set served {{ type ipv4_addr; }}
  chain prerouting {{
    type nat hook prerouting priority -100; policy accept;
    iifname "lo" return
    ip daddr @served meta l4proto tcp redirect to :15006
    tcp dport {SILENT_PORT} drop
    tcp dport {OWN_PORTS.start}-{OWN_PORTS.stop - 1} accept
    meta l4proto tcp redirect to :{ECHO_PORT}
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    ip saddr 127.0.0.6 tcp dport {SILENT_PORT} drop
    ip saddr 127.0.0.6 tcp dport {OWN_PORTS.start}-{OWN_PORTS.stop - 1} accept
    ip saddr 127.0.0.6 meta l4proto tcp redirect to :{ECHO_PORT}
  }}
}}
"""
"""Every address is of this network: the echo server answers for all of them, except that pods in
`served` have a real sidecar, whose application the echo server plays."""


class Network:
    """One network namespace and the thread that lives in it."""

    def __init__(self, name: str) -> None:
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=name)
        self.do(syscalls.unshare, syscalls.CLONE_NEWNET)
        self.path = self.do(lambda: f"/proc/{os.getpid()}/task/{_thread_id()}/ns/net")
        self.run("ip", "link", "set", "lo", "up")
        self.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=61000 65000")
        self._ports = itertools.cycle(range(20000, 61000))

    def do(self, work: Callable[..., T], *args: object) -> T:
        """Call something inside the network."""
        return self._thread.submit(work, *args).result()

    def run(self, *argv: str, text: str = "") -> None:
        def call() -> None:
            subprocess.run(argv, input=text, text=True, check=True, capture_output=True)

        self.do(call)

    def start(self, argv: Sequence[str], log: int) -> subprocess.Popen[bytes]:
        """A process inside the network."""
        return self.do(
            lambda: subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        )

    def datagrams(self, port: int) -> socket.socket:
        """A UDP socket on a port of the network's loopback."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.setblocking(False)
            made.bind(("127.0.0.1", port))
            return made

        return self.do(make)

    def listener(self, port: int, *, address: str = "0.0.0.0") -> socket.socket:
        """A TCP socket that takes connections inside the network."""

        def make() -> socket.socket:
            made = socket.create_server((address, port), backlog=256)
            made.setblocking(False)
            return made

        return self.do(make)

    def socket(self, *, marked: bool = False) -> socket.socket:
        """A TCP socket inside the network; a marked one is not captured. No port is used twice
        soon, so that late lines of access logs are not taken for another connection's."""
        port = next(self._ports)

        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(("", port))
            if marked:
                made.setsockopt(socket.SOL_SOCKET, _SO_MARK, MARK)
            return made

        return self.do(make)

    def close(self) -> None:
        self._thread.shutdown()


def _thread_id() -> int:
    import threading

    return threading.get_native_id()


def joined() -> tuple[Network, Network]:
    """The client's network and the servers', with capture on."""
    client, servers = Network("client"), Network("servers")
    client.run("ip", "link", "add", "cable", "type", "veth", "peer", "name", "other")
    client.run("ip", "link", "set", "other", "netns", servers.path)
    for network, device, address in (
        (client, "cable", _CLIENT_SIDE),
        (servers, "other", _SERVER_SIDE),
    ):
        network.run("ip", "addr", "add", f"{address}/30", "dev", device)
        network.run("ip", "link", "set", device, "up")
    client.run("ip", "route", "add", "default", "via", _SERVER_SIDE)
    for half in ("0.0.0.0/1", "128.0.0.0/1"):
        servers.run("ip", "route", "add", "local", half, "dev", "lo")
    servers.run("ip", "route", "add", f"{_CLIENT_SIDE}/32", "dev", "other")
    client.run("nft", "-f", "-", text=_CAPTURE)
    servers.run("nft", "-f", "-", text=_SERVE)
    return client, servers


def serve(servers: Network, addresses: Sequence[str]) -> None:
    """Exactly these addresses have a real sidecar."""
    elements = f"add element ip matrix served {{ {', '.join(addresses)} }}\n" if addresses else ""
    servers.run("nft", "-f", "-", text=f"flush set ip matrix served\n{elements}")

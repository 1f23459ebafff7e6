"""The pod network: one bridge, one namespace and one address per pod.

A pod's address is a /32 and all its traffic goes through the machine's side of the bridge, so that
a connection to a ClusterIP and its answers pass the same rules (see `vips`).
"""

import asyncio
import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import msgspec

from meltemi.local import ipv6
from meltemi.local.ipv6 import SERVICES
from meltemi.local.node import links
from meltemi.local.node.errors import NetworkFailed

NAMESPACES = Path("/run/netns")
WORKLOAD = "mvm"
"""Begins the names of namespaces that `meltemi workload` makes."""


class Subnet(msgspec.Struct, frozen=True):
    """Where the pods of this machine live."""

    bridge: str = "meltemi0"
    pods: ipaddress.IPv4Network = ipaddress.IPv4Network("10.44.0.0/16")
    services: ipaddress.IPv4Network = ipaddress.IPv4Network("10.43.0.0/16")
    has_ipv6: bool = False
    """Pods have an IPv6 address, too."""
    pods6: ipaddress.IPv6Network = ipaddress.IPv6Network("fd00:10:44::/64")
    services6: ipaddress.IPv6Network = SERVICES

    @property
    def gateway(self) -> str:
        """The machine's own address among the pods: router and name server."""
        return str(self.pods[1])

    @property
    def gateways(self) -> tuple[str, ...]:
        """The same of every family, IPv4 first."""
        return (self.gateway, str(self.pods6[1])) if self.has_ipv6 else (self.gateway,)

    def gateway_for(self, address: str) -> str:
        """Of an address's family; empty where there is none."""
        return next((g for g in self.gateways if (":" in g) == (":" in address)), "")

    def addresses(self, ip: str) -> tuple[str, ...]:
        """All of a pod: the other families' follow from its IPv4 address."""
        if not self.has_ipv6:
            return (ip,)
        number = int(ipaddress.IPv4Address(ip)) - int(self.pods[0])
        return ip, str(self.pods6[number])


class Link(msgspec.Struct, frozen=True):
    """A pod's connection: its namespace and addresses."""

    namespace: str
    """Name under /run/netns."""
    ips: tuple[str, ...]
    """IPv4 first; empty before there is any."""

    @property
    def ip(self) -> str:
        return self.ips[0] if self.ips else ""

    @property
    def path(self) -> str:
        """Empty for a pod on the machine's own network."""
        return str(NAMESPACES / self.namespace) if self.namespace else ""


class Addresses:
    """Hands out pod addresses; one that was given back is used again last."""

    def __init__(self, subnet: Subnet) -> None:
        self._size = subnet.pods.num_addresses
        self._subnet = subnet
        self._next = 10
        self._used: set[int] = set()

    def take(self) -> str:
        """Raises NetworkFailed when every address is in use."""
        for _ in range(self._size):
            number = self._next
            self._next = self._next + 1 if self._next + 2 < self._size else 10
            if number not in self._used:
                self._used.add(number)
                return str(self._subnet.pods[number])
        raise NetworkFailed(f"no free address in {self._subnet.pods}")

    def give_back(self, ip: str) -> None:
        self._used.discard(int(ipaddress.IPv4Address(ip)) - int(self._subnet.pods[0]))


class Network:
    """Makes and removes the bridge and the pods' namespaces."""

    def __init__(self, subnet: Subnet) -> None:
        self.subnet = subnet
        self._addresses = Addresses(subnet)
        self._count = 0

    async def set_up(self) -> None:
        """Make the bridge; what an earlier run left behind is removed. Raises NetworkFailed."""
        await self.clean()
        bridge, gateway = self.subnet.bridge, self.subnet.gateway
        await _ip(
            (),
            f"link add {bridge} type bridge",
            f"addr add {gateway}/{self.subnet.pods.prefixlen} dev {bridge}",
            f"link set {bridge} up",
            # The machine itself reaches virtual addresses, too.
            f"route replace {self.subnet.services} dev {bridge}",
        )
        if self.subnet.has_ipv6:
            await _ip(
                (),
                f"addr add {self.subnet.gateways[1]}/{self.subnet.pods6.prefixlen} dev {bridge} "
                "nodad",
                f"route replace {self.subnet.services6} dev {bridge}",
            )
            await asyncio.to_thread(ipv6.forward, bridge)
        # The first namespace makes /run/netns a mount that others, the zygote's too, follow.
        await _ip((), f"netns add {bridge}-0", f"netns del {bridge}-0")
        await asyncio.to_thread(self._settings)

    def _settings(self) -> None:
        base = Path("/proc/sys/net/ipv4/conf") / self.subnet.bridge
        try:
            (base / "forwarding").write_text("1")
            (base / "send_redirects").write_text("0")
            Path("/proc/sys/net/ipv4/conf/all/send_redirects").write_text("0")
        except OSError as error:
            raise NetworkFailed(f"{error.filename}: {error.strerror}") from error

    async def clean(self) -> None:
        """Remove the bridge and every namespace of ours that is left without its process."""
        await sweep_workloads()
        names = [n for n in _namespaces() if n.startswith(f"{self.subnet.bridge}-")]
        if names:
            await _ip((), *(f"netns del {name}" for name in names))
        if any(name == self.subnet.bridge for _, name in socket.if_nameindex()):
            await _ip((), f"link del {self.subnet.bridge}")

    async def connect(self) -> Link:
        """A namespace for a pod, with loopback and eth0 up. Raises NetworkFailed."""
        self._count += 1
        number, ip = self._count, self._addresses.take()
        ips = self.subnet.addresses(ip)
        link = Link(f"{self.subnet.bridge}-{number}", ips)
        try:
            await asyncio.to_thread(self._make, link, f"{self.subnet.bridge[:8]}v{number}")
        except OSError as error:
            self._addresses.give_back(ip)
            await asyncio.to_thread(_give_up, link)
            raise NetworkFailed(f"network of a pod: {error.strerror or error}") from error
        return link

    def _make(self, link: Link, cable: str) -> None:
        links.make_namespace(Path(link.path))
        links.join(link.path, cable, self.subnet.bridge)
        ways = [(ip, self.subnet.gateway_for(ip)) for ip in link.ips]

        def furnish() -> None:
            links.furnish(ways)
            if self.subnet.has_ipv6:
                # Envoy calls the application from here.
                links.add_to_loopback("::6")

        links.inside(link.path, furnish)

    async def disconnect(self, link: Link) -> None:
        """Remove a pod's namespace; its link goes with it. Raises NetworkFailed."""
        self._addresses.give_back(link.ip)
        try:
            await asyncio.to_thread(links.remove_namespace, Path(link.path))
        except OSError as error:
            raise NetworkFailed(f"{link.path}: {error.strerror}") from error


def _give_up(link: Link) -> None:
    """Remove a namespace that was made in part."""
    path = Path(link.path)
    with contextlib.suppress(OSError):
        links.remove_namespace(path)
    path.unlink(missing_ok=True)


def _namespaces() -> Iterable[str]:
    return sorted(os.listdir(NAMESPACES)) if NAMESPACES.is_dir() else ()


async def _ip(options: tuple[str, ...], *commands: str) -> None:
    await run("ip", *options, "-batch", "-", text="\n".join(commands) + "\n")


async def nft(script: str, *, namespace: str = "") -> None:
    """Apply an nftables script, in a namespace under /run/netns if one is named."""
    inside = ("nsenter", f"--net={NAMESPACES / namespace}") if namespace else ()
    await run(*inside, "nft", "-f", "-", text=script)


async def run(*argv: str, text: str) -> str:
    """What a tool of the machine says, run to its end. Raises NetworkFailed with its words."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except FileNotFoundError as error:
        raise NetworkFailed(f"{argv[0]} is not installed") from error
    output, _ = await process.communicate(text.encode())
    said = output.decode(errors="replace")
    if process.returncode != 0:
        first = said.strip().partition("\n")[0] or f"exit {process.returncode}"
        raise NetworkFailed(f"{argv[0]}: {first}")
    return said


async def sweep_workloads() -> None:
    """Remove the namespaces of workloads that were killed: nobody is left in them."""
    for name in _namespaces():
        if name.startswith(WORKLOAD) and not await run("ip", "netns", "pids", name, text=""):
            await _ip((), f"netns del {name}")


async def dial(path: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a port on the loopback of a network namespace; "" is our own. Raises OSError."""
    if not path:
        return await asyncio.open_connection("127.0.0.1", port)
    sock = await asyncio.to_thread(_socket_in, path)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return await asyncio.open_connection(sock=sock)
    except BaseException:
        sock.close()
        raise


def bound_in(path: str, address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A datagram and a listening socket at an address of a namespace. Raises OSError."""
    return links.inside(path, lambda: bound(address, port))


def bound(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A datagram and a listening socket at an address of this network. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    try:
        datagrams.bind((address, port))
        return datagrams, socket.create_server((address, port), family=family)
    except OSError:
        datagrams.close()
        raise


def _socket_in(path: str) -> socket.socket:
    sock = links.inside(path, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    sock.setblocking(False)
    return sock

"""A network for one workload: a namespace joined to the machine, from where pods are reached.

Needs real root, and a mesh that runs in the machine's own network.
"""

import asyncio
import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec

from meltemi.inject.rules import capture_rules
from meltemi.local.node.errors import NetworkFailed
from meltemi.local.node.network import NAMESPACES, WORKLOAD, Subnet, nft, run, sweep_workloads

RANGE = ipaddress.IPv4Network("10.46.0.0/16")


class Place(msgspec.Struct, frozen=True):
    """Where a workload lives."""

    number: int

    @property
    def name(self) -> str:
        return f"{WORKLOAD}{self.number}"

    @property
    def path(self) -> Path:
        return NAMESPACES / self.name

    @property
    def gateway(self) -> str:
        """The machine's end."""
        return str(RANGE[4 * self.number + 1])

    @property
    def address(self) -> str:
        """The workload's end."""
        return str(RANGE[4 * self.number + 2])


def free_place(names: Sequence[str]) -> Place:
    """The first place whose link is not there. `names`: the machine's interfaces."""
    for number in range(1, RANGE.num_addresses // 4):
        if f"{WORKLOAD}{number}" not in names:
            return Place(number)
    raise NetworkFailed(f"no free place in {RANGE}")


def check_machine() -> None:
    """Raises NetworkFailed where a workload cannot be joined to the mesh's network."""
    if os.geteuid() != 0:
        raise NetworkFailed("a network of its own needs root: run `meltemi` as root")
    bridge = Subnet().bridge
    if bridge not in (name for _, name in socket.if_nameindex()):
        raise NetworkFailed(
            f"the mesh's bridge {bridge} is not in this network: the mesh runs without root, in "
            "a network of its own; start it as root"
        )


async def connect() -> Place:
    """Make a namespace with an address that pods reach. Raises NetworkFailed."""
    await sweep_workloads()
    place = free_place([name for _, name in socket.if_nameindex()])
    await run("ip", "netns", "add", place.name, text="")
    await run("ip", "-batch", "-", text=_link(place))
    await run("ip", "-n", place.name, "-batch", "-", text=_inside(place))
    setting = Path(f"/proc/sys/net/ipv4/conf/{place.name}/forwarding")
    await asyncio.to_thread(setting.write_text, "1")
    return place


def _link(place: Place) -> str:
    return (
        f"link add {place.name} type veth peer name eth0 netns {place.name}\n"
        f"addr add {place.gateway}/30 dev {place.name}\n"
        f"link set {place.name} up\n"
    )


def _inside(place: Place) -> str:
    return (
        "link set lo up\n"
        f"addr add {place.address}/30 dev eth0\n"
        "link set eth0 up\n"
        f"route add default via {place.gateway}\n"
    )


async def capture(place: Place) -> None:
    """Lead all of the workload's traffic through its Envoy."""
    never = "15090,15021,15020"
    await nft(capture_rules(["-i", "*", "-b", "*", "-d", never]), namespace=place.name)


async def disconnect(place: Place) -> None:
    """Remove the namespace; its link goes with it."""
    await run("ip", "netns", "del", place.name, text="")


def resolv_conf(namespace: str, domain: str = "cluster.local") -> str:
    """The mesh's names, as a pod of the namespace has them."""
    search = f"{namespace}.svc.{domain} svc.{domain} {domain}"
    return f"nameserver {Subnet().gateway}\nsearch {search}\noptions ndots:5\n"

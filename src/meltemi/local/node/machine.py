"""What every pod of the node shares."""

from collections.abc import Sequence

import msgspec
from aiohttp import ClientSession

from meltemi.base.clock import Clock
from meltemi.kube.client import Client
from meltemi.local.home import Home
from meltemi.local.images.store import ImageStore
from meltemi.local.node.cgroups import Cgroups
from meltemi.local.node.claims import Claims
from meltemi.local.node.entries import EntryTable
from meltemi.local.node.events import Events
from meltemi.local.node.names import NameServer
from meltemi.local.node.network import Network
from meltemi.local.node.objects import Objects
from meltemi.local.node.services import ServiceTable
from meltemi.local.node.spawn import Spawner
from meltemi.proxy.agent import Agent

PROXY_USER = 1337
"""The user Envoy runs as; capture rules know its traffic by it."""
PROXY_MARK = 0x539
"""Without root there is one user only: Envoy's sockets carry this mark instead."""

DEFAULT_CAPABILITIES = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 29, 31)
"""What container runtimes leave to a container, less mknod."""
NET_ADMIN = 12


class Machine(msgspec.Struct, frozen=True):
    """The node's parts, made once at its start."""

    home: Home
    node_name: str
    is_root: bool
    """Real root: users can be changed, and Envoy has one of its own."""
    client: Client
    clock: Clock
    spawner: Spawner
    images: ImageStore
    cgroups: Cgroups
    agent: Agent
    network: Network
    events: Events
    objects: Objects
    claims: Claims
    services: ServiceTable
    entries: EntryTable
    names: NameServer
    session: ClientSession

    @property
    def host_ip(self) -> str:
        return self.network.subnet.gateway

    @property
    def host_ips(self) -> Sequence[str]:
        """Of every family, IPv4 first."""
        return self.network.subnet.gateways

    @property
    def proxy_mark(self) -> int | None:
        return None if self.is_root else PROXY_MARK

    def stamp(self) -> str:
        """Now, as the API writes it."""
        return f"{self.clock.now():%Y-%m-%dT%H:%M:%SZ}"

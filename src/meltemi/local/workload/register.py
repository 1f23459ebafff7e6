"""Registers an address as a member of a group, without a proxy."""

from meltemi.kube.client import Client
from meltemi.kube.kubeconfig import access_from_file
from meltemi.kube.writer import ensure
from meltemi.local.home import Home
from meltemi.local.workload.entry import entry_of_group
from meltemi.local.workload.run import Wanted, group_of


async def register(home: Home, wanted: Wanted, address: str) -> str:
    """The entry's name. Raises Refused, KubeError."""
    async with Client(access_from_file(home.kubeconfig), user_agent="meltemi-workload") as client:
        group = await group_of(client, wanted.namespace, wanted.group)
        body = entry_of_group(group, address, name=wanted.name, ports=wanted.ports, has_proxy=False)
        await ensure(client, body)
    name: str = body["metadata"]["name"]
    return name

"""`python -m meltemi.local.node`: the node of a local mesh, with the controllers."""

import argparse
import asyncio
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web

from meltemi.base.clock import SystemClock
from meltemi.kube.client import Client
from meltemi.kube.informer import Event, Informer
from meltemi.kube.kubeconfig import Access, access_from_file
from meltemi.kube.paths import Selection
from meltemi.local import controllers
from meltemi.local.home import SECRETS, Home
from meltemi.local.images.store import ImageStore
from meltemi.local.images.table import BadTable, Table, table_of
from meltemi.local.node import api_access, cgroups, names, publish, register, vips
from meltemi.local.node.api import Api
from meltemi.local.node.balancer import Balancer
from meltemi.local.node.claims import Claims
from meltemi.local.node.conntrack import Datagrams
from meltemi.local.node.entries import EntryTable
from meltemi.local.node.errors import NodeError, ZygoteGone
from meltemi.local.node.events import Events
from meltemi.local.node.machine import Machine
from meltemi.local.node.members import Members
from meltemi.local.node.network import Network, Subnet, nft
from meltemi.local.node.objects import Objects
from meltemi.local.node.pods import Pods
from meltemi.local.node.services import ServiceTable
from meltemi.local.node.spawn import Spawner
from meltemi.local.porter import Porter
from meltemi.proxy.agent import Agent

log = logging.getLogger("meltemi.local.node")

NODE = "meltemi"
_QUIET = 0.01
_POLL = 0.02


class Options(msgspec.Struct, frozen=True):
    """What the supervisor tells the node."""

    home: Home
    images: Table
    published: Sequence[publish.Published]
    porter: Porter
    ipv6: bool
    """Pods have IPv6 addresses, too."""


async def _access(kubeconfig: Path) -> Access:
    """How to reach the API, which starts at the same time and writes this down first."""
    while True:
        if kubeconfig.exists():
            return access_from_file(kubeconfig)
        await asyncio.sleep(_POLL)


async def run(options: Options) -> None:
    """Run until SIGTERM."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    home, clock = options.home, SystemClock()
    network = Network(Subnet(has_ipv6=options.ipv6))
    async with AsyncExitStack() as stack:
        await network.set_up()
        stack.push_async_callback(network.clean)
        spawner = await stack.enter_async_context(Spawner())
        client = await stack.enter_async_context(
            Client(await _access(home.kubeconfig), user_agent="meltemi-node")
        )
        agent = await stack.enter_async_context(
            Agent(ca_target=f"unix:{home.xds_socket}", clock=clock, secrets_target=SECRETS)
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        groups = cgroups.find(home.root)
        stack.callback(groups.close)
        if groups.unlimited:
            log.warning("limits of CPU and memory are not enforced: %s", groups.unlimited)
        services, entries = ServiceTable(), EntryTable()
        upstream = names.upstream_servers(_resolv_conf(), network.subnet.gateway)
        images = ImageStore(options.images, home.images)
        images.sweep(home.rootfs)
        machine = Machine(
            home=home,
            node_name=NODE,
            is_root=os.environ.get("MELTEMI_ROOTLESS") != "1",
            client=client,
            clock=clock,
            spawner=spawner,
            images=images,
            cgroups=groups,
            agent=agent,
            network=network,
            events=Events(client, clock, NODE),
            objects=Objects(),
            claims=Claims(client, home.claims),
            services=services,
            entries=entries,
            names=names.NameServer(names.Zone(services), upstream, entries),
            session=session,
        )
        try:
            await _serve(machine, stack, options, stopping)
        except* _Stopped:
            log.info("stopping")


async def _serve(
    machine: Machine, stack: AsyncExitStack, options: Options, stopping: asyncio.Event
) -> None:
    client, table, spread = machine.client, machine.services, random.Random()
    early = _informers(machine, spread)
    async with asyncio.TaskGroup() as group:
        pods = Pods(machine, group)
        members = Members(client, group)
        api = Api(machine, pods.find, pods.all, members)
        await _listen(machine.home.node_socket, api.application(), stack)
        balancer = Balancer(client, table, options.porter, machine.events)
        machine.names.know(
            lambda ip: next(
                (w.key.namespace for w in pods.all() if ip in w.ips), members.namespace_of(ip)
            ),
            lambda: all(informer.synced.is_set() for informer in early),
        )
        tasks = [
            *(informer.run() for informer in early),
            machine.events.run(),
            machine.names.serve(machine.host_ips),
            _keep_vips(table, machine.network.subnet),
            *(publish.serve(p, table) for p in options.published),
            controllers.run(client, machine.clock, NODE, spread),
            _end(stopping, machine.spawner),
        ]
        for task in tasks:
            group.create_task(task, name="node")
        await register.register(machine)
        for informer in early:
            await informer.synced.wait()
        own = Selection("Pod", fields=f"spec.nodeName={NODE}")
        follow = Informer(client, own, pods.deliver, random=spread)
        late = (
            follow.run(),
            balancer.run(),
            machine.claims.run(),
            register.heartbeat(machine),
            api.measure(),
            api_access.serve(machine),
        )
        for task in late:
            group.create_task(task, name="node")


def _informers(machine: Machine, spread: random.Random) -> Sequence[Informer]:
    """What has to be known before the first pod starts."""

    def deliver_claims(events: Sequence[Event]) -> None:
        machine.claims.deliver(events)
        # Volumes that wait for objects wait for claims, too.
        machine.objects.deliver(())

    return [
        Informer(machine.client, Selection(kind), deliver, random=spread)
        for kind, deliver in (
            ("Service", machine.services.deliver),
            ("EndpointSlice", machine.services.deliver),
            ("ServiceEntry", machine.entries.deliver),
            ("ConfigMap", machine.objects.deliver),
            ("Secret", machine.objects.deliver),
            ("PersistentVolumeClaim", deliver_claims),
        )
    ]


class _Stopped(Exception):
    """Ends the task group, and with it everything the node does."""


async def _end(stopping: asyncio.Event, spawner: Spawner) -> None:
    """End the node when it is told to, or when its containers are lost."""
    waits = [asyncio.create_task(event.wait()) for event in (stopping, spawner.gone)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    if spawner.gone.is_set():
        raise ZygoteGone("the process that starts containers ended; the node starts anew")
    raise _Stopped


async def _listen(path: Path, application: web.Application, stack: AsyncExitStack) -> None:
    path.unlink(missing_ok=True)
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.UnixSite(runner, str(path)).start()
    path.chmod(0o600)


async def _keep_vips(table: ServiceTable, subnet: Subnet) -> None:
    """Keep the kernel's rules as the services are."""
    applied, datagrams = "", Datagrams(subnet)
    while True:
        changed = table.changed
        services = list(table)
        script = vips.ruleset(services, subnet)
        try:
            if script != applied:
                await nft(script)
            applied = script
            await datagrams.follow(services)
            if changed is table.changed:
                table.in_force()
        except NodeError as error:
            log.error("virtual addresses: %s", error)
        await changed.wait()
        await asyncio.sleep(_QUIET)


def _resolv_conf() -> str:
    try:
        return Path("/etc/resolv.conf").read_text()
    except OSError:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="meltemi-node")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--publish", action="append", default=[], type=publish.Published.parse)
    parser.add_argument("--ipv6", action="store_true", help="Pods have IPv6 addresses, too.")
    parser.add_argument("--porter", type=int, help="Descriptor of the porter's socket.")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    porter = Porter(socket.socket(fileno=options.porter) if options.porter is not None else None)
    try:
        table = table_of(options.images) if options.images else Table()
        asyncio.run(run(Options(Home(options.data), table, options.publish, porter, options.ipv6)))
    except (NodeError, BadTable) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

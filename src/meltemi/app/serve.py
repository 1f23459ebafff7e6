"""The control plane as a process: everything is made here, joined, started and ended."""

import asyncio
import gc
import logging
import os
import random as random_module
import signal
import socket
import ssl
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
from aiohttp import web

from meltemi.api.kinds import KINDS as ALL_KINDS
from meltemi.app.access import ProxyAccess
from meltemi.app.analysis_status import AnalysisStatus
from meltemi.app.control import Control
from meltemi.app.engine import Engine
from meltemi.app.entry_addresses import EntryAddresses
from meltemi.app.entry_grace import EntryGrace
from meltemi.app.ingress_status import IngressStatus
from meltemi.app.injection import Injection
from meltemi.app.insight import Insight
from meltemi.app.memory import Memory
from meltemi.app.options import Options
from meltemi.app.registration import Endpoint, Registration
from meltemi.base.clock import SystemClock
from meltemi.ca.authenticate import Authenticator
from meltemi.ca.edge import Edge
from meltemi.ca.server_identity import ServerIdentity
from meltemi.ca.service import CertificateService, add_ca
from meltemi.ca.sign import Authority
from meltemi.ca.store import RootPublisher, load_or_create
from meltemi.compile.settings import MeshSettings
from meltemi.inject.patch import InjectConfig
from meltemi.inject.webhook import application as webhook_application
from meltemi.kube.client import Client
from meltemi.kube.errors import KubeError
from meltemi.kube.informer import Informer
from meltemi.kube.kubeconfig import Access, access_from_file, access_in_cluster
from meltemi.kube.paths import Selection
from meltemi.model.build import Domain
from meltemi.model.objects import KINDS
from meltemi.protos.pool import load
from meltemi.proxy.envoy import envoy_path
from meltemi.xds.cache import Cache
from meltemi.xds.server import OPTIONS, Discovery
from meltemi.xds.status import Status

log = logging.getLogger("meltemi.app")

_ISTIO_KINDS = frozenset(k.name for k in ALL_KINDS.values() if k.group.endswith(".istio.io"))
"""A cluster without their definitions counts as one without such objects."""
_FIELDS = {"Secret": "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token"}
"""Secrets that can be large or many and never hold a certificate stay where they are."""
_API_RETRY = 0.1
GC = (20_000, 20, 50)
"""Collections cost as much as is alive, and a push of a thousand proxies makes no cycles."""


def run(options: Options) -> None:
    """Run until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    asyncio.run(_run(options))


async def _run(options: Options) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        plane = await ControlPlane.make(options, stack)
        async with asyncio.TaskGroup() as group:
            tasks = await plane.start(group)
            await stopping.wait()
            for task in tasks:
                task.cancel()


class ControlPlane:
    """The parts, made but not started."""

    def __init__(
        self, options: Options, client: Client, authority: Authority, stack: AsyncExitStack
    ) -> None:
        self._options = options
        self._client = client
        self._stack = stack
        self._clock = SystemClock()
        self._random = random_module.Random()
        self._authority = authority
        self._cache = Cache()
        self.status = Status(self._cache)
        domain = Domain(options.domain, options.trust_domain, options.root_namespace)
        settings = MeshSettings(
            domain=options.domain,
            trust_domain=options.trust_domain,
            root_namespace=options.root_namespace,
            cluster=options.cluster,
        )
        protos = self._protos = load(envoy_path(), options.cache_dir)
        self.engine = Engine(protos, domain, settings, self._cache.apply)
        self._access = ProxyAccess(
            client,
            self._clock,
            identity_of=lambda peer: self._edge.identity_of(peer) if self._edge else None,
            workload=self.engine.model.workloads.get,
        )
        self.engine.refused = self.status.problems
        self.discovery = Discovery(
            self._cache,
            self.status,
            on_connect=self.engine.connect,
            on_disconnect=self._disconnected,
            on_demand=self.engine.demand,
            admit=self._access.admit,
            admit_secrets=self._access.admit_secrets,
        )
        self._memory = Memory(client, self.engine, options.root_namespace)
        self._identity = ServerIdentity(lambda: self._authority, self._clock)
        self._edge: Edge | None = None
        self._insight = Insight(self.engine, self.status, self._clock, self._random)

    @classmethod
    async def make(cls, options: Options, stack: AsyncExitStack) -> "ControlPlane":
        """Connect to the API, waiting for it, and load the authority. Raises KubeError, CaError."""
        path = options.kubeconfig
        access = access_from_file(path) if path is not None else _access_inside()
        client = await stack.enter_async_context(Client(access, user_agent="meltemi-control-plane"))
        while True:
            try:
                authority = await load_or_create(
                    client,
                    SystemClock(),
                    trust_domain=options.trust_domain,
                    namespace=options.root_namespace,
                )
                break
            except KubeError as error:
                log.info("waiting for the API: %s", error)
                await asyncio.sleep(_API_RETRY)
        return cls(options, client, authority, stack)

    async def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[Any]]:
        """Start everything; returns the tasks once proxies are served."""
        options = self._options
        informers = [
            Informer(
                self._client,
                Selection(kind, fields=_FIELDS.get(kind, "")),
                self.engine.deliver,
                random=self._random,
                optional=kind in _ISTIO_KINDS,
            )
            for kind in KINDS
        ]
        registration = Registration(
            self._client,
            Endpoint(options.webhook_url, options.root_namespace),
            lambda: self._authority.roots,
        )
        publisher = RootPublisher(self._client, lambda: self._authority.roots, random=self._random)
        await self._serve_webhook()
        await self._serve_http()
        await self._serve_grpc()
        background: Mapping[str, Any] = {
            **{f"informer {i.selection}": i.run() for i in informers},
            "webhook registration": registration.run(),
            "root publisher": publisher.run(),
            "own certificate": self._identity.run(self._random),
            "telemetry": self._insight.run(),
            "learned names": self._memory.run(),
            "addresses of entries": EntryAddresses(self.engine, self._client).run(),
            "grace of entries": EntryGrace(self.engine, self._client, self._clock).run(),
            "problems of objects": AnalysisStatus(self.engine, self._client, self._clock).run(),
            "status of ingresses": IngressStatus(self.engine, self._client).run(),
            "access of proxies": self._access.run(
                self.engine.proxies.get,
                self.engine.connect,
                lambda: self.engine.compiled.plans.in_need,
                self.engine.propagated_after,
            ),
        }
        tasks = [group.create_task(work, name=name) for name, work in background.items()]
        for informer in informers:
            await informer.synced.wait()
        await self._memory.recall()
        await self.engine.propagate()
        tasks.append(group.create_task(self.engine.run(), name="engine"))
        await registration.done.wait()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC)
        gc.enable()
        self.discovery.ready.set()
        log.info("ready: serving proxies")
        return tasks

    async def _serve_grpc(self) -> None:
        """ADS and CA on the unix socket; port 15012 carries its bytes there, out of TLS."""
        options = self._options
        listening = socket.create_server((options.host, options.grpc_port), backlog=2048)
        context = self._identity.context(verify_clients=True, alpn=("h2",))
        self._edge = await self._stack.enter_async_context(
            Edge(listening, context, options.xds_socket)
        )
        server = grpc.aio.server(options=OPTIONS)
        self.discovery.add_to(server)
        service = CertificateService(
            lambda: self._authority,
            Authenticator(self._client, self._clock, trust_domain=options.trust_domain),
            self._client,
            self._clock,
            default_lifetime=options.certificate_lifetime,
            peer_identity=self._edge.identity_of,
        )
        add_ca(server, service)
        _remove(options.xds_socket)
        server.add_insecure_port(f"unix:{options.xds_socket}")
        await server.start()
        # Proxies run as another user; who may reach the socket is decided by its directory.
        options.xds_socket.chmod(0o666)
        self._stack.push_async_callback(server.stop, 0.2)

    async def _serve_webhook(self) -> None:
        options = self._options
        config = InjectConfig(
            root_namespace=options.root_namespace,
            cluster=options.cluster,
            domain=options.domain,
            trust_domain=options.trust_domain,
        )
        injection = Injection(self.engine, self._protos, config)
        app = webhook_application(injection.config)
        context = self._identity.context(verify_clients=False, alpn=("http/1.1",))
        await self._site(app, (options.host, options.webhook_port), context)

    async def _serve_http(self) -> None:
        """The console, the CLI's socket, and the monitoring port."""
        options = self._options
        control = Control(self.engine, self.discovery, self.status, self._client)
        inner = web.Application()
        inner.add_routes([*control.routes(), *self._insight.data_routes()])
        _remove(options.run_dir / "control.sock")
        runner = await self._runner(inner)
        path = options.run_dir / "control.sock"
        await web.UnixSite(runner, str(path)).start()
        path.chmod(0o600)
        await self._site(self._insight.monitoring(), (options.host, options.monitoring_port))
        console = self._insight.console()
        if options.console_fd is not None:
            listening = socket.socket(fileno=options.console_fd)
            await web.SockSite(await self._runner(console), listening).start()
        else:
            await self._site(console, (options.host, options.console_port))

    async def _site(
        self,
        app: web.Application,
        address: tuple[str, int],
        context: ssl.SSLContext | None = None,
    ) -> None:
        runner = await self._runner(app)
        await web.TCPSite(runner, *address, ssl_context=context).start()

    async def _runner(self, app: web.Application) -> web.AppRunner:
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        return runner

    def _disconnected(self, node_id: str) -> None:
        self._access.forget(node_id)
        self.engine.disconnect(node_id)


def _access_inside() -> Access:
    """The cluster this pod runs in, by the variables that Kubernetes sets."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "")
    return access_in_cluster(host, port)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)

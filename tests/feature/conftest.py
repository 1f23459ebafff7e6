"""The real app in one process: the embedded API, informers, the engine, xDS sessions in memory.

A test writes objects to the API and looks at what a proxy was sent and what the objects' problems
are. Only the network is left out: a proxy here is a session whose answers are taken at once.
"""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.xds.fake_envoy import Response

from meltemi.app.engine import Engine
from meltemi.base.keys import ObjectKey
from meltemi.base.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, NodeInfo, node_from_id
from meltemi.compile.settings import MeshSettings
from meltemi.kube.client import Client
from meltemi.kube.informer import Informer
from meltemi.kube.kubeconfig import access_from_file
from meltemi.kube.paths import Selection
from meltemi.kube.writer import patch_status
from meltemi.local.apiserver.server import running
from meltemi.model.build import Domain
from meltemi.model.objects import KINDS
from meltemi.protos import Protos, load
from meltemi.proxy.envoy import envoy_path
from meltemi.xds.cache import Cache
from meltemi.xds.messages import DeltaRequest
from meltemi.xds.session import DeltaSession
from meltemi.xds.status import Status

TYPES = {
    CLUSTER: "envoy.config.cluster.v3.Cluster",
    ENDPOINT: "envoy.config.endpoint.v3.ClusterLoadAssignment",
    LISTENER: "envoy.config.listener.v3.Listener",
    ROUTE: "envoy.config.route.v3.RouteConfiguration",
}


class Proxy:
    """A connected Envoy that takes everything: subscribes to what it needs, acknowledges."""

    def __init__(self, node: NodeInfo, app: "App") -> None:
        self.node = node
        self._app = app
        self._session = DeltaSession(node.id, app.cache, self.pump)
        self._held: dict[str, dict[str, Any]] = {url: {} for url in TYPES}
        self.taken: list[tuple[str, frozenset[str]]] = []
        """(type, names) of each response since the test last cleared it."""
        app.cache.open(self._session)
        app.status.add(self._session)
        for url in (CLUSTER, LISTENER):
            self._session.on_request(DeltaRequest(url, (), (), frozenset(), "", None, node))

    def pump(self) -> None:
        """Take what the session has to send, until it is silent."""
        loop = asyncio.get_running_loop()
        while bodies := self._session.flush(loop.time()):
            for body in bodies:
                self._take(Response(body))
        self._app.status.progressed(self._session)
        due = self._session.due()
        if due is not None:
            loop.call_at(due, self.pump)

    def _take(self, response: Response) -> None:
        url, held = response.type_url, self._held[response.type_url]
        self.taken.append((url, frozenset((*response.resources, *response.removed))))
        for name, (_, body) in response.resources.items():
            message = self._app.protos.message(TYPES[url])()
            message.ParseFromString(body)
            held[name] = self._app.protos.to_dict(message)
        for name in response.removed:
            held.pop(name, None)
        wanted: dict[str, tuple[str, ...]] = {}
        if url == CLUSTER:
            wanted[ENDPOINT] = tuple(
                name for name in response.resources if held[name].get("type") == "EDS"
            )
        if url == LISTENER:
            found = {r for name in response.resources for r in _routes_of(held[name])}
            wanted[ROUTE] = tuple(found - self._held[ROUTE].keys())
        for other, names in wanted.items():
            if names:
                self._session.on_request(DeltaRequest(other, names, (), frozenset(), "", None))
        self._session.on_request(DeltaRequest(url, (), (), frozenset(), response.nonce, None))

    def close(self) -> None:
        self._app.cache.close(self._session)
        self._app.status.remove(self._session)

    @property
    def clusters(self) -> Mapping[str, Any]:
        return self._held[CLUSTER]

    @property
    def listeners(self) -> Mapping[str, Any]:
        return self._held[LISTENER]

    def addresses(self, cluster: str) -> set[str]:
        """The endpoints of a cluster."""
        localities = self._held[ENDPOINT].get(cluster, {}).get("endpoints", [])
        return {
            e["endpoint"]["address"]["socket_address"]["address"]
            for locality in localities
            for e in locality.get("lb_endpoints", [])
        }

    def routes(self, configuration: str, host: str) -> list[Any]:
        """The routes of a virtual host, by the start of its name."""
        hosts = self._held[ROUTE][configuration]["virtual_hosts"]
        return [r for h in hosts if h["name"].startswith(host) for r in h.get("routes", [])]


def _routes_of(value: Any) -> set[str]:
    """Every `route_config_name` in a listener."""
    if isinstance(value, dict):
        own = {value["route_config_name"]} if "route_config_name" in value else set()
        return own.union(*map(_routes_of, value.values()))
    if isinstance(value, list):
        return set().union(*map(_routes_of, value))
    return set()


class App:
    """What a test sees."""

    def __init__(self, client: Client, protos: Protos) -> None:
        self.client = client
        self.protos = protos
        self.cache = Cache()
        self.status = Status(self.cache)
        self.engine = Engine(protos, Domain(), MeshSettings(), self.cache.apply)
        self._proxies: list[Proxy] = []

    async def apply(self, text: str) -> None:
        """Write objects; return when every proxy has acknowledged what they mean."""
        for document in yaml.safe_load_all(text):
            if document["kind"] != "Namespace":
                document["metadata"].setdefault("namespace", "default")
            stored = await self.client.apply(document, manager="test")
            if "status" in document:
                await patch_status(self.client, _key(document), document["status"])
                stored = await self.client.get(_key(document))
            await self._distributed(stored)

    async def _distributed(self, stored: Any) -> None:
        version = int(stored["metadata"]["resourceVersion"])
        revision = await self.engine.caught_up(_key(stored), version)
        await self.status.settled(revision)

    async def delete(self, kind: str, name: str, namespace: str = "default") -> None:
        key = ObjectKey(kind, namespace, name)
        await self.client.delete(key)
        while key in self.engine.objects.raw[kind]:
            async with self.engine.changed:
                await self.engine.changed.wait()
        await self.engine.propagate()
        await self.status.settled(self.engine.graph.revision)

    async def connect(
        self,
        name: str,
        ip: str,
        *,
        kind: str = "sidecar",
        namespace: str = "default",
        **labels: str,
    ) -> Proxy:
        node_id = f"{kind}~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local"
        node = node_from_id(node_id, labels, {})
        proxy = Proxy(node, self)
        self._proxies.append(proxy)
        self.engine.connect(node)
        async with self.engine.changed:
            await self.engine.changed.wait_for(lambda: self.cache.is_known(node.id))
        await self.status.settled(self.engine.graph.revision)
        return proxy

    def problems(self, name: str) -> list[tuple[str, str]]:
        """(field, message) of what is wrong with an object."""
        found = (p for p in self.engine.problems() if p.about.name == name)
        return [(problem.path, problem.message) for problem in found]

    async def close(self) -> None:
        for proxy in self._proxies:
            proxy.close()
        self._proxies.clear()


def _key(document: Any) -> ObjectKey:
    meta = document["metadata"]
    return ObjectKey(document["kind"], meta.get("namespace", ""), meta["name"])


@pytest.fixture(scope="session")
def protos(tmp_path_factory: pytest.TempPathFactory) -> Protos:
    return load(envoy_path(), tmp_path_factory.mktemp("descriptors"))


@pytest.fixture
async def app(tmp_path: Path, protos: Protos) -> AsyncIterator[App]:
    """A fresh API and a control plane on it; afterwards its graph equals one built from scratch."""
    async with AsyncExitStack() as stack:
        listening = socket.create_server(("127.0.0.1", 0))
        await stack.enter_async_context(running(tmp_path, [listening]))
        access = access_from_file(tmp_path / "kubeconfig")
        client = await stack.enter_async_context(Client(access))
        app = App(client, protos)
        dice = random.Random(1)
        informers = [
            Informer(client, Selection(kind), app.engine.deliver, random=dice, optional=True)
            for kind in KINDS
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(informer.run()) for informer in informers]
            for informer in informers:
                await informer.synced.wait()
            await app.engine.propagate()
            tasks.append(group.create_task(app.engine.run()))
            try:
                yield app
                app.engine.graph.verify()
            finally:
                await app.close()
                for task in tasks:
                    task.cancel()

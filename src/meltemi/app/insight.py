"""Telemetry and the console, joined to the mesh."""

import asyncio
import datetime
import random as random_module
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import msgspec
from aiohttp import web

from meltemi.app.engine import Engine
from meltemi.app.scopes import common_labels, suggested
from meltemi.base.clock import Clock
from meltemi.console.api import Console, State
from meltemi.console.facts import facts
from meltemi.console.graph import graph
from meltemi.console.types import Graph, GraphType, Mesh, NamespaceSummary, Problem
from meltemi.simulate.analyze import complaints
from meltemi.telemetry.scrape import Scraper
from meltemi.telemetry.store import Store
from meltemi.telemetry.traffic import traffic
from meltemi.xds.status import Status

_METRICS_PORT = 15020


class Insight:
    """Scrapes the connected proxies; answers for the console and the monitoring port."""

    def __init__(
        self, engine: Engine, status: Status, clock: Clock, random: random_module.Random
    ) -> None:
        self._engine = engine
        self._status = status
        self._clock = clock
        self._store = Store()
        self._changed = asyncio.Condition()
        self._told = asyncio.Event()
        self._version = metadata.version("meltemi")
        self._scraper = Scraper(
            self._targets, self._store, clock, random=random, on_round=self._told.set
        )
        self._console = Console(
            State(
                graph=self._graph,
                mesh=self._mesh,
                proxies=status.proxies,
                problems=self.problems,
                revision=lambda: self._store.revision,
                changed=self._changed,
            )
        )

    async def run(self) -> None:
        """Scrape, and tell who listens, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._scraper.run(), name="scraper")
            group.create_task(self._tell(), name="telemetry events")

    async def _tell(self) -> None:
        while True:
            await self._told.wait()
            self._told.clear()
            async with self._changed:
                self._changed.notify_all()

    def _targets(self) -> Mapping[str, str]:
        return {
            f"{node.name}.{node.namespace}": f"http://{node.ip}:{_METRICS_PORT}/stats/prometheus"
            for node in self._engine.proxies.values()
        }

    def data_routes(self) -> list[web.RouteDef]:
        return [*self._console.data_routes(), web.get("/debug/scopes", self._scopes)]

    async def _scopes(self, request: web.Request) -> web.Response:
        """Sidecar objects from what a namespace's workloads were seen to call."""
        namespace = request.query.get("namespace", "")
        try:
            seconds = min(max(float(request.query.get("duration", "3600")), 1.0), 86_400.0)
        except ValueError:
            return web.json_response({"message": "duration is not a number"}, status=422)
        end = self._store.latest or self._clock.now().timestamp()
        seen = traffic(self._store.window(seconds, end), self._store.span(seconds, end))
        pods = (
            (w.name, w.labels)
            for w in self._engine.model.workloads.values()
            if w.key.namespace == namespace
        )
        return web.json_response(suggested(seen, namespace, common_labels(pods)))

    def console(self) -> web.Application:
        return self._console.application()

    def monitoring(self) -> web.Application:
        """The control plane's own metrics."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        return app

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the objects, and what proxies refused."""
        found = msgspec.to_builtins(complaints(self._engine.problems()))
        return msgspec.convert(found, tuple[Problem, ...])

    def _graph(self, spaces: tuple[str, ...], seconds: float, graph_type: GraphType) -> Graph:
        end = self._store.latest or self._clock.now().timestamp()
        window = self._store.window(seconds, end)
        return graph(
            traffic(window, self._store.span(seconds, end)),
            facts(self._engine.model),
            namespaces=spaces,
            graph_type=graph_type,
            at=datetime.datetime.fromtimestamp(end, datetime.UTC).isoformat(),
            duration=seconds,
        )

    def _mesh(self) -> Mesh:
        workloads: dict[str, set[str]] = {}
        for workload in self._engine.model.workloads.values():
            workloads.setdefault(workload.key.namespace, set()).add(workload.name)
        spaces = sorted(self._engine.objects.namespaces.values(), key=lambda n: n.metadata.name)
        proxies = self._status.proxies()
        return Mesh(
            version=self._version,
            namespaces=tuple(
                NamespaceSummary(
                    name=space.metadata.name,
                    injection=space.metadata.labels.get("istio-injection") == "enabled",
                    workloads=len(workloads.get(space.metadata.name, ())),
                )
                for space in spaces
            ),
            proxies=len(proxies),
            proxies_synced=sum(p.is_synced for p in proxies),
            problems=len(self._engine.problems()),
            components={"control-plane": "healthy"},
        )

    async def _metrics(self, _: web.Request) -> web.Response:
        proxies = self._status.proxies()
        values: dict[str, tuple[str, Any]] = {
            "meltemi_proxies": ("gauge", len(proxies)),
            "meltemi_proxies_synced": ("gauge", sum(p.is_synced for p in proxies)),
            "meltemi_revision": ("counter", self._engine.graph.revision),
            "meltemi_problems": ("gauge", len(self._engine.problems())),
            "meltemi_scrape_failures_total": ("counter", self._scraper.failures),
        }
        lines = [
            line
            for name, (kind, value) in values.items()
            for line in (f"# TYPE {name} {kind}", f"{name} {value}")
        ]
        return web.Response(text="\n".join(lines) + "\n")

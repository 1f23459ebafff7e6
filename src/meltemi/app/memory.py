"""What on-demand workloads have learned, kept in a ConfigMap so that a restart starts warm."""

import asyncio
import json
import logging

from meltemi.app.engine import Engine
from meltemi.base.keys import ObjectKey
from meltemi.compile.demand.learn import KIND
from meltemi.kube.client import Client
from meltemi.kube.errors import KubeError, NotFound

log = logging.getLogger(__name__)

CONFIG_MAP = "meltemi-learned"
_PAUSE = 1.0
"""Seconds between two writes: names come in bursts."""
_AGAIN = 5.0
"""Seconds until a failed write is tried again."""


class Memory:
    """Writes behind; a name that is lost is learned again at its next use."""

    def __init__(self, client: Client, engine: Engine, namespace: str) -> None:
        self._client = client
        self._engine = engine
        self._key = ObjectKey("ConfigMap", namespace, CONFIG_MAP)
        self._written: dict[ObjectKey, frozenset[str]] = {}

    async def recall(self) -> None:
        """Put what was learned before into the graph."""
        try:
            found = await self._client.get(self._key)
        except NotFound:
            return
        except KubeError as error:
            log.warning("learned names cannot be read, proxies start cold: %s", error)
            return
        for name, text in (found.get("data") or {}).items():
            namespace, _, workload = name.partition(".")
            try:
                hosts = frozenset(str(host) for host in json.loads(text))
            except ValueError:
                continue
            self._engine.demands.set(ObjectKey(KIND, namespace, workload), hosts)
        self._written = self._learned()

    async def run(self) -> None:
        """Write whenever something was learned, until cancelled."""
        while True:
            async with self._engine.changed:
                await self._engine.changed.wait_for(lambda: self._learned() != self._written)
            try:
                await self._write(self._learned())
            except KubeError as error:
                log.warning("learned names are not kept: %s", error)
                await asyncio.sleep(_AGAIN)
            await asyncio.sleep(_PAUSE)

    def _learned(self) -> dict[ObjectKey, frozenset[str]]:
        return dict(self._engine.demands.items())

    async def _write(self, learned: dict[ObjectKey, frozenset[str]]) -> None:
        data = {
            f"{key.namespace}.{key.name}": json.dumps(sorted(names))
            for key, names in learned.items()
        }
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self._key.name, "namespace": self._key.namespace},
            "data": data,
        }
        await self._client.apply(body, manager="meltemi", force=True)
        self._written = learned

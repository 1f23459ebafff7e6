"""Removes the WorkloadEntries of members that are gone without a word: killed, or cut off.

A member that registered itself is there as long as its proxy is connected; Istio's grace is ten
seconds, so that a reconnection or a restart of the control plane costs nobody its place.
"""

import asyncio
import logging
from collections.abc import Iterator

from meltemi.api.names import CONTROLLED
from meltemi.app.engine import Engine
from meltemi.base.clock import Clock
from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client
from meltemi.kube.errors import KubeError, NotFound

log = logging.getLogger(__name__)

GRACE = 10.0
"""Seconds."""
_LOOK = 1.0


class EntryGrace:
    """Watches who is connected."""

    def __init__(self, engine: Engine, client: Client, clock: Clock) -> None:
        self._engine = engine
        self._client = client
        self._clock = clock
        self._away: dict[ObjectKey, float] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for key in list(self.expired()):
                await self._remove(key)
            await asyncio.sleep(_LOOK)

    def expired(self) -> Iterator[ObjectKey]:
        """The entries whose proxies have been away for too long."""
        now = self._clock.monotonic()
        proxies = self._engine.proxies.items().values()
        there = {(node.namespace, node.name) for node in proxies}
        entries = self._engine.objects.workload_entries.items()
        own = {k for k, entry in entries.items() if CONTROLLED in entry.metadata.annotations}
        away = {key for key in own if (key.namespace, key.name) not in there}
        self._away = {key: self._away.get(key, now) for key in away}
        yield from (key for key, since in self._away.items() if now - since >= GRACE)

    async def _remove(self, key: ObjectKey) -> None:
        try:
            await self._client.delete(key)
        except NotFound:
            pass
        except KubeError as error:
            log.warning("%s: its workload is gone, but it cannot be removed: %s", key, error)
            return
        log.info("%s: removed, its workload is gone", key)
        self._away.pop(key, None)

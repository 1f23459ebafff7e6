"""Keeps what objects say of themselves as the mesh sees them: one loop for every such status."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, ClassVar

from meltemi.app.engine import Engine
from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client
from meltemi.kube.errors import KubeError
from meltemi.kube.writer import patch_status

log = logging.getLogger(__name__)

_RETRY = 5.0
"""Seconds."""
Status = dict[str, Any]


class StatusWriter:
    """Base of the writers: each says which objects are outdated, and what they should say."""

    what: ClassVar[str]
    """What is written, for the log: `addresses`."""
    settle: ClassVar[float] = 0.0
    """Seconds between a change and a look."""

    def __init__(self, engine: Engine, client: Client) -> None:
        self._engine = engine
        self._client = client

    def outdated(self) -> Iterable[tuple[ObjectKey, Status]]:
        """The objects whose status is not true, with the part to merge into it."""
        raise NotImplementedError

    async def run(self) -> None:
        """Look after every propagation, also one that came while the last look was written, until
        cancelled."""
        seen = self._engine.graph.revision
        while True:
            if not await self.write():
                await asyncio.sleep(_RETRY)
                continue
            await self._engine.propagated_after(seen)
            await asyncio.sleep(self.settle)
            seen = self._engine.graph.revision

    async def write(self) -> bool:
        """Bring every status up to date; False where the API does not take it now."""
        for key, status in list(self.outdated()):
            try:
                await patch_status(self._client, key, status)
            except KubeError as error:
                log.warning("%s: its %s cannot be written: %s", key, self.what, error)
                return False
        return True

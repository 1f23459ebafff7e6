"""Writes the addresses that the model allocates into the status of their ServiceEntries."""

import asyncio
import logging
from collections.abc import Iterator

import msgspec

from meltemi.api.service_entry import EntryAddress
from meltemi.app.engine import Engine
from meltemi.base.keys import HostKey, ObjectKey
from meltemi.kube.client import Client
from meltemi.kube.errors import KubeError
from meltemi.kube.writer import patch_status
from meltemi.model.allocate import is_allocated, wanted_by_entry

log = logging.getLogger(__name__)

_RETRY = 5.0
"""Seconds."""
Addresses = tuple[EntryAddress, ...]


class EntryAddresses:
    """Keeps `status.addresses` as the model has them; addresses of others are left alone."""

    def __init__(self, engine: Engine, client: Client) -> None:
        self._engine = engine
        self._client = client

    async def run(self) -> None:
        """Look after every propagation, until cancelled."""
        while True:
            if not await self._write():
                await asyncio.sleep(_RETRY)
                continue
            async with self._engine.changed:
                await self._engine.changed.wait()

    def outdated(self) -> Iterator[tuple[ObjectKey, Addresses]]:
        """The entries whose status says something else, with what it should say."""
        allocated = self._engine.model.allocated
        for key, entry in self._engine.objects.service_entries.items().items():
            others = tuple(a for a in entry.status.addresses if not is_allocated(a.value))
            own = tuple(
                EntryAddress(value=address, host=wanted.key.host)
                for wanted in wanted_by_entry(entry)
                for address in allocated.get(HostKey(*wanted.key)) or ()
            )
            if (*others, *own) != entry.status.addresses:
                yield key, (*others, *own)

    async def _write(self) -> bool:
        for key, addresses in list(self.outdated()):
            try:
                await patch_status(
                    self._client, key, {"addresses": msgspec.to_builtins(addresses) or None}
                )
            except KubeError as error:
                log.warning("%s: its addresses cannot be written: %s", key, error)
                return False
        return True

"""Writes the addresses that the model allocates into the status of their ServiceEntries."""

from collections.abc import Iterator

import msgspec

from meltemi.api.service_entry import EntryAddress
from meltemi.app.status_writer import Status, StatusWriter
from meltemi.base.keys import HostKey, ObjectKey
from meltemi.model.allocate import is_allocated, wanted_by_entry


class EntryAddresses(StatusWriter):
    """Keeps `status.addresses` as the model has them; addresses of others are left alone."""

    what = "addresses"

    def outdated(self) -> Iterator[tuple[ObjectKey, Status]]:
        """The entries whose status says something else."""
        allocated = self._engine.model.allocated
        for key, entry in self._engine.objects.service_entries.items().items():
            others = tuple(a for a in entry.status.addresses if not is_allocated(a.value))
            own = tuple(
                EntryAddress(value=address, host=wanted.key.host)
                for wanted in wanted_by_entry(entry)
                for address in allocated.get(HostKey(*wanted.key)) or ()
            )
            if (*others, *own) != entry.status.addresses:
                yield key, {"addresses": msgspec.to_builtins((*others, *own)) or None}

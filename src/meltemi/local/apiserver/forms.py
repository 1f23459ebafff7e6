"""How objects are shown: at a version, whole, as a table or only their metadata.

Whole objects go out as the bytes they are stored in.
"""

import datetime
from collections.abc import Sequence
from typing import Any

import orjson

from meltemi.api.kinds import Kind
from meltemi.local.apiserver import tables
from meltemi.local.apiserver.convert import converted
from meltemi.local.apiserver.registry import Registry
from meltemi.local.apiserver.store import Entry

Json = dict[str, Any]


class Form:
    """How objects are shown: at which version, whole, as a table or only their metadata."""

    def __init__(
        self, registry: Registry, kind: Kind, version: str, *, accept: str = "", include: str = ""
    ) -> None:
        self._registry = registry
        self.kind = kind
        self.version = version
        self.api_version = f"{kind.group}/{version}" if kind.group else version
        self.is_table = "as=Table" in accept
        self.is_partial = "as=PartialObjectMetadata" in accept
        self.include = include or "Metadata"
        self.generation = registry.generation
        """Of the kinds: columns change with definitions."""
        self._is_plain = not self.is_table and not self.is_partial
        self._is_stored = self._is_plain and version == kind.versions[0]

    @property
    def key(self) -> tuple[str, ...]:
        """What tells forms apart that show the same object differently."""
        shape = "table" if self.is_table else "partial" if self.is_partial else ""
        return (self.kind.group, self.kind.plural, self.version, shape, self.include)

    def one(self, data: Json) -> Json:
        """An object at the version asked for."""
        if data.get("apiVersion") == self.api_version:
            return data
        return {**converted(self.kind, self.version, data), "apiVersion": self.api_version}

    def shown(self, data: Json, now: datetime.datetime) -> Json:
        """One object in this form."""
        if self.is_table:
            version = str(data["metadata"].get("resourceVersion", ""))
            return self._table([data], version, now)
        return _partial(data) if self.is_partial else self.one(data)

    def raw(self, entry: Entry, now: datetime.datetime) -> bytes:
        """One stored object in this form, as JSON."""
        return entry.raw if self._is_stored else orjson.dumps(self.shown(entry.data, now))

    def many(self, entries: Sequence[Entry], meta: Json, now: datetime.datetime) -> bytes:
        """A list in this form, as JSON."""
        if self.is_table:
            shown = self._table([e.data for e in entries], meta["resourceVersion"], now)
            return orjson.dumps({**shown, "metadata": meta})
        name, version = f"{self.kind.name}List", self.api_version
        if self.is_partial:
            name, version = "PartialObjectMetadataList", "meta.k8s.io/v1"
        head = orjson.dumps({"kind": name, "apiVersion": version, "metadata": meta})
        items = b",".join([self.raw(e, now) for e in entries])
        return head[:-1] + b',"items":[' + items + b"]}"

    def _table(self, items: Sequence[Json], version: str, now: datetime.datetime) -> Json:
        columns = self._registry.columns(self.kind, self.version)
        shown = [self.one(item) for item in items]
        return tables.table(self.kind, columns, shown, version, now, include=self.include)


def _partial(data: Json) -> Json:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": data["metadata"],
    }

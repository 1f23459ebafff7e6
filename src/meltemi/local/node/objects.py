"""ConfigMaps and Secrets, as volumes and environments read them."""

import asyncio
import base64
from collections.abc import Mapping, Sequence

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.kube.informer import Event


class _Data(msgspec.Struct, frozen=True, rename="camel"):
    data: dict[str, str] | None = None
    binary_data: dict[str, str] | None = None


class Objects:
    """ConfigMaps and Secrets of all namespaces, from their informers."""

    def __init__(self) -> None:
        self._raw: dict[ObjectKey, bytes] = {}
        self.changed = asyncio.Event()
        """Replaced and set at each change; take it before looking, wait on it after."""

    def deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.raw is None:
                self._raw.pop(event.key, None)
            else:
                self._raw[event.key] = event.raw
        done, self.changed = self.changed, asyncio.Event()
        done.set()

    def config_map(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        found = self._find("ConfigMap", namespace, name)
        if found is None:
            return None
        plain = {k: v.encode() for k, v in (found.data or {}).items()}
        return plain | {k: base64.b64decode(v) for k, v in (found.binary_data or {}).items()}

    def secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        found = self._find("Secret", namespace, name)
        if found is None:
            return None
        return {k: base64.b64decode(v) for k, v in (found.data or {}).items()}

    def _find(self, kind: str, namespace: str, name: str) -> _Data | None:
        raw = self._raw.get(ObjectKey(kind, namespace, name))
        return msgspec.json.decode(raw, type=_Data) if raw is not None else None

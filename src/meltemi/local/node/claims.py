"""PersistentVolumeClaims: each is a directory of the machine, bound at once and gone with it."""

import asyncio
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client, JsonObject
from meltemi.kube.errors import KubeError
from meltemi.kube.informer import Event
from meltemi.kube.writer import patch_status

log = logging.getLogger(__name__)

_RETRY = 1.0


class Claims:
    """Follows the claims; binds them, and removes the directories of those that are deleted."""

    def __init__(self, client: Client, root: Path) -> None:
        self._client = client
        self._root = root
        self._uids: dict[tuple[str, str], str] = {}
        self._work: asyncio.Queue[tuple[ObjectKey, JsonObject] | None] = asyncio.Queue()
        """Claims to bind; None: directories may have lost theirs."""

    def deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            place = (event.key.namespace, event.key.name)
            if event.raw is None:
                self._uids.pop(place, None)
                self._work.put_nowait(None)
                continue
            claim: JsonObject = msgspec.json.decode(event.raw)
            self._uids[place] = claim["metadata"]["uid"]
            if (claim.get("status") or {}).get("phase") != "Bound":
                self._work.put_nowait((event.key, claim))

    def directory(self, namespace: str, name: str) -> Path | None:
        """Where a claim's files are; None while there is no such claim."""
        uid = self._uids.get((namespace, name))
        return self._place(namespace, name, uid) if uid is not None else None

    def _place(self, namespace: str, name: str, uid: str) -> Path:
        return self._root / f"{namespace}_{name}_{uid[:8]}"

    async def run(self) -> None:
        """Work until cancelled. Start it when the claims are known: what has none is removed."""
        self._work.put_nowait(None)
        while True:
            work = await self._work.get()
            if work is None:
                await asyncio.to_thread(self._prune)
            else:
                await self._bind(*work)

    def _prune(self) -> None:
        kept = {self._place(ns, name, uid) for (ns, name), uid in list(self._uids.items())}
        for place in self._root.iterdir() if self._root.is_dir() else ():
            if place not in kept:
                shutil.rmtree(place, ignore_errors=True)

    async def _bind(self, key: ObjectKey, claim: JsonObject) -> None:
        spec, uid = claim["spec"], claim["metadata"]["uid"]
        status = {
            "phase": "Bound",
            "accessModes": spec.get("accessModes") or ["ReadWriteOnce"],
            "capacity": (spec.get("resources") or {}).get("requests") or {},
        }
        try:
            if not spec.get("volumeName"):
                await self._client.patch(key, {"spec": {"volumeName": f"pvc-{uid}"}})
            await patch_status(self._client, key, status)
        except KubeError as error:
            log.warning("%s: %s; trying again", key, error)
            asyncio.get_running_loop().call_later(_RETRY, self._work.put_nowait, (key, claim))

"""Events: what happened to a pod, for `kubectl describe` and `kubectl get events`."""

import asyncio
import logging
from typing import Protocol

import msgspec

from meltemi.base.clock import Clock
from meltemi.kube.client import Client, JsonObject
from meltemi.kube.errors import KubeError
from meltemi.local.node.podspec import Pod

log = logging.getLogger(__name__)

_MOST_QUEUED = 1000


class _Happening(msgspec.Struct, frozen=True):
    namespace: str
    name: str
    uid: str
    field: str
    kind: str
    reason: str
    message: str
    about: str = "Pod"


class Named(Protocol):
    """What an event is about."""

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...


class Events:
    """Writes events in the background; repeated ones count up instead of piling up."""

    def __init__(self, client: Client, clock: Clock, node_name: str) -> None:
        self._client = client
        self._clock = clock
        self._node = node_name
        self._queue: asyncio.Queue[_Happening] = asyncio.Queue(_MOST_QUEUED)
        self._seen: dict[_Happening, tuple[JsonObject, int]] = {}
        self._number = 0

    def tell_of(
        self, kind: str, meta: Named, reason: str, message: str, *, is_warning: bool = False
    ) -> None:
        """Queue an event about another object."""
        level = "Warning" if is_warning else "Normal"
        self._put(
            _Happening(meta.namespace, meta.name, meta.uid, "", level, reason, message, about=kind)
        )

    def tell(
        self, pod: Pod, reason: str, message: str, *, container: str = "", is_warning: bool = False
    ) -> None:
        """Queue an event; with a full queue it is dropped, never waited for."""
        meta = pod.metadata
        field = f"spec.containers{{{container}}}" if container else ""
        kind = "Warning" if is_warning else "Normal"
        self._put(_Happening(meta.namespace, meta.name, meta.uid, field, kind, reason, message))

    def _put(self, happening: _Happening) -> None:
        if not self._queue.full():
            self._queue.put_nowait(happening)

    async def run(self) -> None:
        while True:
            happening = await self._queue.get()
            try:
                await self._write(happening)
            except KubeError as error:
                log.debug("event of pod %s not written: %s", happening.name, error)

    async def _write(self, happening: _Happening) -> None:
        now = f"{self._clock.now():%Y-%m-%dT%H:%M:%SZ}"
        seen = self._seen.get(happening)
        if seen is not None:
            body, count = seen
            body = {**body, "count": count + 1, "lastTimestamp": now}
            await self._client.apply(body, manager="meltemi-node")
            self._seen[happening] = (body, count + 1)
            return
        self._number += 1
        name = f"{happening.name}.{int(self._clock.now().timestamp() * 1000):x}{self._number:x}"
        reference = {
            "apiVersion": "v1",
            "kind": happening.about,
            "name": happening.name,
            "namespace": happening.namespace,
            "uid": happening.uid,
        }
        if happening.field:
            reference["fieldPath"] = happening.field
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": happening.namespace},
            "involvedObject": reference,
            "type": happening.kind,
            "reason": happening.reason,
            "message": happening.message,
            "source": {"component": "kubelet", "host": self._node},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        await self._client.apply(body, manager="meltemi-node")
        self._seen[happening] = (body, 1)
        if len(self._seen) > _MOST_QUEUED:
            self._seen.pop(next(iter(self._seen)))

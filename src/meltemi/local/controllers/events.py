"""Events of controllers, for `kubectl describe` and `kubectl get events`."""

import asyncio
import logging
from typing import NoReturn

import msgspec

from meltemi.base.clock import Clock
from meltemi.kube.client import Client, JsonObject
from meltemi.kube.errors import KubeError, NotFound

log = logging.getLogger(__name__)

_MOST = 1000


class _Happening(msgspec.Struct, frozen=True):
    """What makes two events the same one, which then counts up."""

    component: str
    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    is_warning: bool
    reason: str
    message: str


class Events:
    """Writes events in the background; nobody waits for them."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._queue: asyncio.Queue[_Happening] = asyncio.Queue(_MOST)
        self._written: dict[_Happening, JsonObject] = {}

    def tell(
        self,
        about: JsonObject,
        reason: str,
        message: str,
        *,
        component: str,
        is_warning: bool = False,
    ) -> None:
        """Queue an event about an object; with a full queue it is dropped."""
        meta = about["metadata"]
        happening = _Happening(
            component=component,
            api_version=about["apiVersion"],
            kind=about["kind"],
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            is_warning=is_warning,
            reason=reason,
            message=message,
        )
        if not self._queue.full():
            self._queue.put_nowait(happening)

    async def run(self) -> NoReturn:
        while True:
            happening = await self._queue.get()
            try:
                await self._write(happening)
            except KubeError as error:
                log.debug("event of %s %s: %s", happening.kind, happening.name, error)

    async def _write(self, happening: _Happening) -> None:
        now = f"{self._clock.now():%Y-%m-%dT%H:%M:%SZ}"
        before = self._written.pop(happening, None)
        if before is not None:
            body = {**before, "count": before["count"] + 1, "lastTimestamp": now}
            body["metadata"] = {k: before["metadata"][k] for k in ("name", "namespace")}
            try:
                self._written[happening] = await self._client.update(body)
                return
            except NotFound:
                log.debug("event %s has expired; writing a new one", body["metadata"]["name"])
        self._written[happening] = await self._client.create(_event(happening, now))
        if len(self._written) > _MOST:
            self._written.pop(next(iter(self._written)))


def _event(happening: _Happening, now: str) -> JsonObject:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "generateName": f"{happening.name}.",
            "namespace": happening.namespace,
        },
        "involvedObject": {
            "apiVersion": happening.api_version,
            "kind": happening.kind,
            "namespace": happening.namespace,
            "name": happening.name,
            "uid": happening.uid,
        },
        "type": "Warning" if happening.is_warning else "Normal",
        "reason": happening.reason,
        "message": happening.message,
        "source": {"component": happening.component},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }

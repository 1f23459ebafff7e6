"""The node's loop: one worker for each pod that is bound here."""

import asyncio
import logging
from collections.abc import Iterable, Sequence

from msgspec import ValidationError

from meltemi.base.keys import ObjectKey
from meltemi.kube.informer import Event
from meltemi.kube.writer import patch_status
from meltemi.local.node.machine import Machine
from meltemi.local.node.pod import Worker
from meltemi.local.node.podspec import Pod, decode

log = logging.getLogger(__name__)


class Pods:
    """Follows the pods of the API; starts and ends workers."""

    def __init__(self, machine: Machine, group: asyncio.TaskGroup) -> None:
        self._machine = machine
        self._group = group
        self._workers: dict[str, Worker] = {}
        self._by_key: dict[ObjectKey, str] = {}
        self._released: dict[ObjectKey, str] = {}
        """Pods that have ended and were deleted; others keep their objects by finalizers."""

    def find(self, namespace: str, name: str) -> Worker | None:
        uid = self._by_key.get(ObjectKey("Pod", namespace, name))
        return self._workers.get(uid) if uid is not None else None

    def all(self) -> Iterable[Worker]:
        return list(self._workers.values())

    def deliver(self, events: Sequence[Event]) -> None:
        """Take a batch from the informer of the pods bound to this node."""
        for event in events:
            if event.raw is None:
                self._forget(event.key)
                continue
            try:
                self._take(event.key, decode(event.raw))
            except ValidationError as error:
                log.warning("%s: %s", event.key, error)
                self._group.create_task(self._refuse(event.key, str(error)), name="refuse pod")

    def _take(self, key: ObjectKey, pod: Pod) -> None:
        uid = pod.metadata.uid
        if self._released.get(key) == uid:
            return
        if self._by_key.get(key, uid) != uid:
            self._forget(key)
        worker = self._workers.get(uid)
        if worker is not None:
            worker.update(pod)
            return
        worker = Worker(self._machine, pod)
        worker.update(pod)
        self._workers[uid] = worker
        self._by_key[key] = uid
        self._group.create_task(self._run(uid, worker), name=f"pod {key}")

    def _forget(self, key: ObjectKey) -> None:
        self._released.pop(key, None)
        uid = self._by_key.pop(key, None)
        if uid is not None and uid in self._workers:
            self._workers[uid].gone()

    async def _run(self, uid: str, worker: Worker) -> None:
        try:
            await worker.run()
            if self._by_key.get(worker.key) == uid:
                self._released[worker.key] = uid
        except* Exception:
            # A bug of ours must not take the other pods down.
            log.exception("pod %s failed", worker.key)
        finally:
            self._workers.pop(uid, None)
            if self._by_key.get(worker.key) == uid:
                self._by_key.pop(worker.key, None)

    async def _refuse(self, key: ObjectKey, reason: str) -> None:
        status = {"phase": "Failed", "reason": "InvalidSpec", "message": reason}
        await patch_status(self._machine.client, key, status)

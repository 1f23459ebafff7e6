"""A real embedded API with the controllers on it, and a kubelet that the test plays."""

import asyncio
import contextlib
import itertools
import random
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meltemi.base.clock import SystemClock
from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client
from meltemi.kube.errors import NotFound
from meltemi.kube.informer import Event, Informer
from meltemi.kube.kubeconfig import access_from_file
from meltemi.kube.paths import Selection
from meltemi.kube.writer import patch_status
from meltemi.local import controllers
from meltemi.local.apiserver.server import running

Object = dict[str, Any]
_KINDS = ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "Pod")
_KINDS += ("EndpointSlice", "Event", "Endpoints", "CronJob", "ControllerRevision")
_KINDS += ("PersistentVolumeClaim", "PodDisruptionBudget")
_NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "meltemi"}}


class Cluster:
    """What the API holds, as a watcher sees it, and a kubelet that makes bound pods ready."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.objects: dict[ObjectKey, Object] = {}
        self.is_broken: Callable[[Object], bool] = lambda _: False
        """Pods for which this holds never become ready."""
        self.keeps_ending = False
        """Whether pods that were told to end stay."""
        self._changed = asyncio.Event()
        self._work: asyncio.Queue[Object] = asyncio.Queue()
        self._addresses = itertools.count(2)
        self._applied: dict[ObjectKey, int] = {}
        self.fewest_ready: int | None = None
        self.most_pods = 0

    def deliver(self, events: Sequence[Event]) -> None:
        for key, raw in events:
            if raw is None:
                self.objects.pop(key, None)
            else:
                self.objects[key] = msgspec.json.decode(raw)
                if key.kind == "Pod":
                    self._work.put_nowait(self.objects[key])
        pods = [p for p in self.all("Pod") if "deletionTimestamp" not in p["metadata"]]
        self.most_pods = max(self.most_pods, len(pods))
        if self.fewest_ready is not None:
            self.fewest_ready = min(self.fewest_ready, sum(map(ready, pods)))
        self._changed.set()

    async def kubelet(self) -> None:
        while True:
            pod = await self._work.get()
            meta, key = pod["metadata"], key_of(pod)
            if "deletionTimestamp" in meta:
                if not self.keeps_ending:
                    await self.release(key)
            elif pod["spec"].get("nodeName") and not (pod.get("status") or {}).get("podIP"):
                await self.report(key, is_ready=not self.is_broken(pod))

    async def report(self, key: ObjectKey, *, is_ready: bool, phase: str = "Running") -> None:
        pod = self.objects[key]
        ip = (pod.get("status") or {}).get("podIP") or f"10.44.0.{next(self._addresses)}"
        now = f"{SystemClock().now():%Y-%m-%dT%H:%M:%SZ}"
        condition = {"type": "Ready", "status": str(is_ready), "lastTransitionTime": now}
        status = {"phase": phase, "podIP": ip, "conditions": [condition]}
        await patch_status(self.client, key, status)

    async def release(self, key: ObjectKey) -> None:
        """Say that nothing of a pod is left."""
        path = f"/api/v1/namespaces/{key.namespace}/pods/{key.name}"
        with contextlib.suppress(NotFound):
            await self.client.request("DELETE", path, {"gracePeriodSeconds": 0})

    async def apply(self, *bodies: Object) -> None:
        for body in bodies:
            answer = await self.client.apply(body)
            self._applied[key_of(body)] = int(answer["metadata"].get("generation", 0))

    def all(self, kind: str, owner: str = "") -> list[Object]:
        """Objects of a kind, those of one owner if it is named, by name."""
        found = [data for key, data in self.objects.items() if key.kind == kind]
        owners = [o for o in found if not owner or owner in [r["name"] for r in references(o)]]
        return sorted(owners, key=lambda o: str(o["metadata"]["name"]))

    def get(self, kind: str, name: str) -> Object:
        return self.objects[ObjectKey(kind, "default", name)]

    async def until(self, holds: Callable[[], object], seconds: float = 10.0) -> None:
        """Return as soon as something holds; an object that is not there yet does not."""
        try:
            async with asyncio.timeout(seconds):
                while not _safely(holds):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            shown = [
                (str(k), o.get("spec", {}).get("replicas"), o.get("status"))
                for k, o in self.objects.items()
                if k.kind != "Event"
            ]
            raise AssertionError(f"never came to hold; objects: {shown}") from None

    async def until_rolled_out(self, name: str) -> None:
        """What `kubectl rollout status` waits for."""

        def is_done() -> bool:
            found = self.get("Deployment", name)
            status, wanted = found.get("status") or {}, found["spec"]["replicas"]
            return bool(
                found["metadata"]["generation"] >= self._applied[key_of(found)]
                and status.get("observedGeneration") == found["metadata"]["generation"]
                and status.get("updatedReplicas", 0) == wanted == status.get("replicas", 0)
                and status.get("availableReplicas", 0) == wanted
            )

        await self.until(is_done)


def _safely(holds: Callable[[], object]) -> object:
    try:
        return holds()
    except (KeyError, IndexError):
        return False


def references(data: Object) -> Sequence[Object]:
    return data["metadata"].get("ownerReferences") or ()


def ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def key_of(data: Object) -> ObjectKey:
    meta = data["metadata"]
    return ObjectKey(data["kind"], meta["namespace"], meta["name"])


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    sock = socket.create_server(("127.0.0.1", 0))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(tmp_path, [sock]))
        client = await stack.enter_async_context(Client(access_from_file(server.kubeconfig)))
        await client.create(_NODE)
        found, seed = Cluster(client), random.Random(7)
        informers = [
            Informer(client, Selection(kind), found.deliver, random=seed) for kind in _KINDS
        ]
        group = await stack.enter_async_context(asyncio.TaskGroup())
        tasks = [
            group.create_task(found.kubelet(), name="kubelet"),
            group.create_task(controllers.run(client, SystemClock(), "meltemi", seed)),
            *(group.create_task(i.run(), name=f"informer {i.selection}") for i in informers),
        ]
        for informer in informers:
            await informer.synced.wait()
        yield found
        for task in tasks:
            task.cancel()


@pytest.fixture
def deployment() -> Object:
    return workload("Deployment", "web", replicas=3)


def workload(kind: str, name: str, **spec: object) -> Object:
    """A workload with one container, labelled app=NAME."""
    labels = {"app": name}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "app", "image": "echo:1"}]},
    }
    return {
        "apiVersion": "batch/v1" if kind == "Job" else "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": labels}, "template": template, **spec},
    }

"""Joins informers, cache and queues; binds pods to the node."""

import asyncio
import random as random_module
from collections.abc import Callable, Mapping

from meltemi.base.clock import Clock
from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client, JsonObject
from meltemi.kube.informer import Informer
from meltemi.kube.paths import Selection, object_path
from meltemi.local.controllers.cache import Cache, controller_of
from meltemi.local.controllers.deployments import Deployments
from meltemi.local.controllers.endpoints import EndpointSlices
from meltemi.local.controllers.queue import Queue
from meltemi.local.controllers.replicasets import ReplicaSets
from meltemi.local.controllers.workloads import DaemonSets, Jobs, StatefulSets

_KINDS = (
    "Service",
    "EndpointSlice",
    "Deployment",
    "ReplicaSet",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "Pod",
)
_OWNERS = frozenset({"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job"})
_SERVICE = "kubernetes.io/service-name"


class Controllers:
    """Routes each change to the queues of those who read the object."""

    def __init__(
        self, client: Client, clock: Clock, node_name: str, random: random_module.Random
    ) -> None:
        self.cache = Cache(self._changed)
        self._client = client
        self._node = node_name
        cache = self.cache
        reconcilers = {
            "Deployment": Deployments(client, cache, clock).reconcile,
            "ReplicaSet": ReplicaSets(client, cache, clock).reconcile,
            "StatefulSet": StatefulSets(client, cache).reconcile,
            "DaemonSet": DaemonSets(client, cache).reconcile,
            "Job": Jobs(client, cache, clock).reconcile,
            "Service": EndpointSlices(client, cache).reconcile,
            "Pod": self._bind,
        }
        self.queues: Mapping[str, Queue] = {
            kind: Queue(kind, reconcile, random) for kind, reconcile in reconcilers.items()
        }
        self._ready = False

    def start(self) -> None:
        """Every informer has synced: from now on changes lead to work."""
        self._ready = True
        for kind in _KINDS:
            for data in self.cache.every(kind):
                meta = data["metadata"]
                self._changed(ObjectKey(kind, meta.get("namespace", ""), meta["name"]), data)

    def _changed(self, key: ObjectKey, data: JsonObject) -> None:
        if not self._ready:
            return
        queues = self.queues
        if key.kind in _OWNERS or key.kind == "Service":
            queues[key.kind].add(key)
        owner = controller_of(data)
        if owner is not None and owner["kind"] in _OWNERS:
            queues[owner["kind"]].add(ObjectKey(owner["kind"], key.namespace, owner["name"]))
        if key.kind == "EndpointSlice":
            service = (data["metadata"].get("labels") or {}).get(_SERVICE)
            if service:
                queues["Service"].add(ObjectKey("Service", key.namespace, service))
        if key.kind == "Pod":
            self._pod_changed(key, data)

    def _pod_changed(self, key: ObjectKey, pod: JsonObject) -> None:
        labels = (pod["metadata"].get("labels") or {}).items()
        for service in self.cache.list("Service", key.namespace):
            selector = service["spec"].get("selector") or {}
            if selector and selector.items() <= labels:
                name = service["metadata"]["name"]
                self.queues["Service"].add(ObjectKey("Service", key.namespace, name))
        if not pod["spec"].get("nodeName"):
            self.queues["Pod"].add(key)
        if controller_of(pod) is None:
            for replica_set in self.cache.list("ReplicaSet", key.namespace):
                name = replica_set["metadata"]["name"]
                self.queues["ReplicaSet"].add(ObjectKey("ReplicaSet", key.namespace, name))

    async def _bind(self, key: ObjectKey) -> None:
        """Put a pod on the one node there is."""
        pod = self.cache.get(key)
        if pod is None or pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
            return
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self._node},
        }
        await self._client.request("POST", object_path(key, "binding"), body)


async def run(client: Client, clock: Clock, node_name: str, random: random_module.Random) -> None:
    """Run all controllers until cancelled."""
    controllers = Controllers(client, clock, node_name, random)
    deliver: Callable[..., None] = controllers.cache.deliver
    informers = [Informer(client, Selection(kind), deliver, random=random) for kind in _KINDS]
    async with asyncio.TaskGroup() as group:
        for informer in informers:
            group.create_task(informer.run(), name=f"informer {informer.selection}")
        for kind, queue in controllers.queues.items():
            group.create_task(queue.run(), name=f"{kind} controller")
        for informer in informers:
            await informer.synced.wait()
        controllers.start()

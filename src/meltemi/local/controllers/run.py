"""Joins informers, cache and queues: each change reaches the controllers that read the object."""

import asyncio
import random as random_module
from collections.abc import Mapping

from meltemi.base.clock import Clock
from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client, JsonObject
from meltemi.kube.informer import Informer
from meltemi.kube.paths import Selection
from meltemi.local.controllers.budgets import Budgets
from meltemi.local.controllers.cache import Cache, controller_of
from meltemi.local.controllers.cronjobs import CronJobs
from meltemi.local.controllers.daemonsets import DaemonSets
from meltemi.local.controllers.deployments import Deployments
from meltemi.local.controllers.endpoint_objects import EndpointMirror, EndpointObjects
from meltemi.local.controllers.endpoints import SERVICE_LABEL, EndpointSlices, is_selecting
from meltemi.local.controllers.events import Events
from meltemi.local.controllers.jobs import Jobs
from meltemi.local.controllers.pods import labels_of, selects
from meltemi.local.controllers.queue import Queue, Reconcile
from meltemi.local.controllers.replicasets import ReplicaSets
from meltemi.local.controllers.scheduler import Scheduler, is_waiting
from meltemi.local.controllers.statefulsets import StatefulSets
from meltemi.local.controllers.writes import Writes

_KINDS = (
    "Service",
    "EndpointSlice",
    "Deployment",
    "ReplicaSet",
    "StatefulSet",
    "DaemonSet",
    "ControllerRevision",
    "CronJob",
    "Job",
    "Endpoints",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "Node",
    "Pod",
)
_OWNERS = frozenset({"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob"})
_OWN_QUEUE = _OWNERS | {"Service", "Endpoints", "PodDisruptionBudget"}


class Controllers:
    """One cache, and a queue for each controller; keys of queue "Pod" are for the scheduler."""

    def __init__(
        self, client: Client, clock: Clock, node_name: str, random: random_module.Random
    ) -> None:
        self.cache = Cache(self._changed)
        self.events = Events(client, clock)

        def writes(component: str) -> Writes:
            return Writes(component, client, self.cache, clock, self.events)

        reconcilers: Mapping[str, Reconcile] = {
            "Deployment": Deployments(writes("deployment-controller")).reconcile,
            "ReplicaSet": ReplicaSets(writes("replicaset-controller")).reconcile,
            "StatefulSet": StatefulSets(writes("statefulset-controller")).reconcile,
            "DaemonSet": DaemonSets(writes("daemonset-controller")).reconcile,
            "Job": Jobs(writes("job-controller")).reconcile,
            "CronJob": CronJobs(writes("cronjob-controller")).reconcile,
            "Service": EndpointSlices(writes("endpoint-slice-controller")).reconcile,
            "EndpointObjects": EndpointObjects(writes("endpoint-controller")).reconcile,
            "Endpoints": EndpointMirror(writes("endpoint-slice-mirroring-controller")).reconcile,
            "PodDisruptionBudget": Budgets(writes("controllermanager")).reconcile,
            "Pod": Scheduler(writes("default-scheduler"), client, node_name).reconcile,
        }
        self.queues = {kind: Queue(kind, run, random) for kind, run in reconcilers.items()}
        self._is_ready = False

    def start(self) -> None:
        """Every informer has synced: from now on changes lead to work."""
        self._is_ready = True
        for kind in _KINDS:
            for data in self.cache.every(kind):
                meta = data["metadata"]
                key = ObjectKey(kind, meta.get("namespace", ""), meta["name"])
                self._changed(key, None, data)

    def _changed(self, key: ObjectKey, before: JsonObject | None, after: JsonObject | None) -> None:
        if not self._is_ready:
            return
        if key.kind in _OWN_QUEUE:
            self._add(key.kind, key.namespace, key.name)
        if key.kind in ("Service", "Endpoints"):
            self._add_service(key.namespace, key.name)
        for data in (before, after):
            owner = controller_of(data) if data is not None else None
            if owner is not None and owner["kind"] in _OWNERS:
                self._add(owner["kind"], key.namespace, owner["name"])
        if key.kind == "EndpointSlice":
            service = labels_of(after or before).get(SERVICE_LABEL)
            if service:
                self._add_service(key.namespace, service)
        if key.kind == "ReplicaSet" and after is not None and controller_of(after) is None:
            self._may_be_adopted("Deployment", key, after)
        if key.kind == "Node":
            self._node_changed(before, after)
        if key.kind == "Pod":
            self._pod_changed(key, before, after)

    def _add_service(self, namespace: str, name: str) -> None:
        """A Service's slices, its Endpoints, and slices of Endpoints that somebody wrote."""
        self._add("Service", namespace, name)
        self.queues["EndpointObjects"].add(ObjectKey("Service", namespace, name))
        self._add("Endpoints", namespace, name)

    def _node_changed(self, before: JsonObject | None, after: JsonObject | None) -> None:
        """Pods that found no place may find one now."""
        same = (before or {}).get("spec") == (after or {}).get("spec")
        if same and labels_of(before) == labels_of(after):
            return
        self._look_for_places()

    def _look_for_places(self) -> None:
        for pod in self.cache.every("Pod"):
            if is_waiting(pod):
                meta = pod["metadata"]
                self.queues["Pod"].add(ObjectKey("Pod", meta["namespace"], meta["name"]))

    def _add(self, kind: str, namespace: str, name: str) -> None:
        self.queues[kind].add(ObjectKey(kind, namespace, name))

    def _pod_changed(
        self, key: ObjectKey, before: JsonObject | None, after: JsonObject | None
    ) -> None:
        """Services that select the pod, or did; the scheduler; who may adopt it."""
        was, now = labels_of(before), labels_of(after)
        for service in self.cache.list("Service", key.namespace):
            selector = (service["spec"].get("selector") or {}).items()
            if is_selecting(service) and (selector <= was.items() or selector <= now.items()):
                self._add_service(key.namespace, service["metadata"]["name"])
        for budget in self.cache.list("PodDisruptionBudget", key.namespace):
            self._add("PodDisruptionBudget", key.namespace, budget["metadata"]["name"])
        if after is None:
            self._pod_ended(key, before)
            return
        if is_waiting(after):
            self.queues["Pod"].add(key)
        if controller_of(after) is None:
            self._may_be_adopted("ReplicaSet", key, after)

    def _may_be_adopted(self, kind: str, key: ObjectKey, orphan: JsonObject) -> None:
        """Tell those whose selector matches something without a controller."""
        for found in self.cache.list(kind, key.namespace):
            if selects(found["spec"].get("selector"), labels_of(orphan)):
                self._add(kind, key.namespace, found["metadata"]["name"])

    def _pod_ended(self, key: ObjectKey, pod: JsonObject | None) -> None:
        """Who waits for it: for its ports on the host, or, as a Deployment that recreates, for the
        pods of its old ReplicaSets."""
        if pod is not None and pod["spec"].get("hostNetwork"):
            self._look_for_places()
        owner = controller_of(pod) if pod is not None else None
        if owner is None or owner["kind"] != "ReplicaSet":
            return
        found = self.cache.get(ObjectKey("ReplicaSet", key.namespace, owner["name"]))
        above = controller_of(found) if found is not None else None
        if above is not None and above["kind"] == "Deployment":
            self._add("Deployment", key.namespace, above["name"])


async def run(client: Client, clock: Clock, node_name: str, random: random_module.Random) -> None:
    """Run all controllers until cancelled."""
    controllers = Controllers(client, clock, node_name, random)
    deliver = controllers.cache.deliver
    informers = [Informer(client, Selection(kind), deliver, random=random) for kind in _KINDS]
    async with asyncio.TaskGroup() as group:
        for informer in informers:
            group.create_task(informer.run(), name=f"informer {informer.selection}")
        for kind, queue in controllers.queues.items():
            group.create_task(queue.run(), name=f"{kind} controller")
        group.create_task(controllers.events.run(), name="events of controllers")
        for informer in informers:
            await informer.synced.wait()
        controllers.start()

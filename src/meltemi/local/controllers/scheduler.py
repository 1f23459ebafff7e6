"""Puts pods on the one node there is."""

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client, JsonObject
from meltemi.kube.paths import object_path
from meltemi.local.controllers.cache import is_leaving
from meltemi.local.controllers.pods import is_finished
from meltemi.local.controllers.writes import Writes


def is_waiting(pod: JsonObject) -> bool:
    """Whether a pod is to be bound now; gates hold it back until somebody removes them."""
    spec = pod["spec"]
    return not (
        spec.get("nodeName")
        or spec.get("schedulingGates")
        or spec.get("schedulerName", "default-scheduler") != "default-scheduler"
        or is_leaving(pod)
        or is_finished(pod)
    )


class Scheduler:
    """Reconciles pods: each that waits is bound."""

    def __init__(self, writes: Writes, client: Client, node_name: str) -> None:
        self._writes = writes
        self._client = client
        self._node = node_name

    async def reconcile(self, key: ObjectKey) -> None:
        pod = self._writes.cache.get(key)
        if pod is None or not is_waiting(pod):
            return
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {
                "name": key.name,
                "namespace": key.namespace,
                "uid": pod["metadata"]["uid"],
            },
            "target": {"apiVersion": "v1", "kind": "Node", "name": self._node},
        }
        await self._client.request("POST", object_path(key, "binding"), body)
        message = f"Successfully assigned {key.namespace}/{key.name} to {self._node}"
        self._writes.tell(pod, "Scheduled", message)

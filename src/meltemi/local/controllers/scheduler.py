"""Puts pods on the one node there is, if they may run there.

Considered are `nodeSelector`, required node affinity and whether the node is cordoned; what pods
request of CPU and memory is not, since processes share the machine.
"""

from collections.abc import Mapping, Sequence

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client, JsonObject
from meltemi.kube.paths import object_path
from meltemi.local.controllers.cache import is_leaving
from meltemi.local.controllers.pods import condition, is_finished, labels_of
from meltemi.local.controllers.writes import Writes

_CORDON = "node.kubernetes.io/unschedulable"


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


def obstacle(pod: JsonObject, node: JsonObject) -> str:
    """Why a pod may not run on the node; empty when it may."""
    spec, labels = pod["spec"], labels_of(node)
    if (node.get("spec") or {}).get("unschedulable") and not _tolerates_cordon(spec):
        return "node(s) were unschedulable"
    selector = spec.get("nodeSelector") or {}
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms")
    name = node["metadata"]["name"]
    if not selector.items() <= labels.items() or (
        terms is not None and not any(_fits(term, labels, name) for term in terms)
    ):
        return "node(s) didn't match Pod's node affinity/selector"
    return ""


def _tolerates_cordon(spec: JsonObject) -> bool:
    return any(
        t.get("key") in (None, "", _CORDON) and t.get("effect") in (None, "", "NoSchedule")
        and (t.get("operator") == "Exists" or t.get("key") == _CORDON)
        for t in spec.get("tolerations") or ()
    )  # fmt: skip


def _fits(term: JsonObject, labels: Mapping[str, str], name: str) -> bool:
    labelled: Sequence[JsonObject] = term.get("matchExpressions") or ()
    fields: Sequence[JsonObject] = term.get("matchFields") or ()
    holds = [_holds(rule, labels.get(rule["key"])) for rule in labelled]
    holds += [_holds(rule, name) for rule in fields]
    return bool(holds) and all(holds)


def _holds(rule: JsonObject, value: str | None) -> bool:
    values: Sequence[str] = rule.get("values") or ()
    match rule["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            if value is None or not value.isdecimal():
                return False
            return int(value) > int(values[0]) if operator == "Gt" else int(value) < int(values[0])
    return False


class Scheduler:
    """Reconciles pods: each that waits is bound."""

    def __init__(self, writes: Writes, client: Client, node_name: str) -> None:
        self._writes = writes
        self._client = client
        self._node = node_name

    async def reconcile(self, key: ObjectKey) -> None:
        pod = self._writes.cache.get(key)
        node = self._writes.cache.get(ObjectKey("Node", "", self._node))
        if pod is None or node is None or not is_waiting(pod):
            return
        reason = obstacle(pod, node)
        if reason:
            await self._refuse(pod, f"0/1 nodes are available: 1 {reason}.")
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

    async def _refuse(self, pod: JsonObject, message: str) -> None:
        before = condition(pod, "PodScheduled")
        if before.get("message") == message:
            return
        self._writes.tell(pod, "FailedScheduling", message, is_warning=True)
        now = self._writes.now()
        refused = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": None,
            "lastTransitionTime": before.get("lastTransitionTime") or now,
        }
        others = [c for c in (pod.get("status") or {}).get("conditions") or ()
                  if c["type"] != "PodScheduled"]  # fmt: skip
        await self._writes.status(pod, {"conditions": [*others, refused]})

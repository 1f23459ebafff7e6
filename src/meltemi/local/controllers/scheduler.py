"""Puts pods on the one node there is, if they may run there.

Considered are `nodeSelector`, required node affinity, taints, whether the node is cordoned, and the
ports of pods on the host's network; what pods request of CPU and memory is not, since processes
share the machine.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client, JsonObject
from meltemi.kube.paths import object_path
from meltemi.local.controllers.cache import is_leaving
from meltemi.local.controllers.pods import condition, is_finished, labels_of
from meltemi.local.controllers.writes import Writes, key_of

_CORDON, _NEVER = "node.kubernetes.io/unschedulable", "NoSchedule"


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


def obstacle(pod: JsonObject, node: JsonObject, others: Iterable[JsonObject] = ()) -> str:
    """Why a pod may not run on the node, and what would let it; empty when it may.

    `others`: the pods that have a place.
    """
    spec, labels, name = pod["spec"], labels_of(node), str(node["metadata"]["name"])
    host = node.get("spec") or {}
    if host.get("unschedulable") and not _tolerates(spec, {"key": _CORDON, "effect": _NEVER}):
        return f"node(s) were unschedulable: `kubectl uncordon {name}` opens it"
    for taint in host.get("taints") or ():
        if taint["effect"] != "PreferNoSchedule" and not _tolerates(spec, taint):
            shown = f"{taint['key']}: {taint.get('value', '')}"
            return f"node(s) had untolerated taint {{{shown}}}: add it to spec.tolerations"
    wrong = _unselected(spec, labels, name)
    if wrong:
        return f"node(s) didn't match Pod's node affinity/selector: {wrong}"
    taken = {port: key_of(other) for other in others for port in _host_ports(other)}
    for number, protocol in sorted(_host_ports(pod)):
        holder = taken.get((number, protocol))
        if holder is not None:
            return (
                "node(s) didn't have free ports for the requested pod ports: "
                f"{protocol} {number} of the host's network is taken by {holder}"
            )
    return ""


def _unselected(spec: JsonObject, labels: Mapping[str, str], name: str) -> str:
    """Which selector the node does not match."""
    for key, value in (spec.get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            wanted = f"{key}={value}"
            return f"spec.nodeSelector wants {wanted}: `kubectl label node {name} {wanted}` lets it"
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms")
    if terms is not None and not any(_fits(term, labels, name) for term in terms):
        return f"spec.affinity.nodeAffinity matches no label of {name}"
    return ""


def _host_ports(pod: JsonObject) -> Iterator[tuple[int, str]]:
    """What a pod declares to listen on in the host's own network."""
    spec = pod["spec"]
    if spec.get("hostNetwork") and not is_finished(pod):
        for container in (*spec["containers"], *(spec.get("initContainers") or ())):
            for port in container.get("ports") or ():
                yield int(port["containerPort"]), str(port.get("protocol", "TCP"))


def _tolerates(spec: JsonObject, taint: JsonObject) -> bool:
    return any(
        t.get("effect") in (None, "", taint["effect"])
        and (
            t.get("key") in (None, "", taint["key"])
            if t.get("operator") == "Exists"
            else t.get("key") == taint["key"] and t.get("value", "") == taint.get("value", "")
        )
        for t in spec.get("tolerations") or ()
    )


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
        others = (p for p in self._writes.cache.every("Pod") if p["spec"].get("nodeName"))
        reason = obstacle(pod, node, others if pod["spec"].get("hostNetwork") else ())
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

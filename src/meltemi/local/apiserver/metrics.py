"""metrics.k8s.io, for `kubectl top`: what the node says pods and itself use now."""

from collections.abc import Iterator
from typing import Any

from meltemi.local.apiserver.errors import StatusError, method_not_allowed, not_found
from meltemi.local.apiserver.operations import Operations
from meltemi.local.apiserver.requests import Place
from meltemi.local.apiserver.store import Resource
from meltemi.local.apiserver.subresources import NodeProxy

Json = dict[str, Any]
GROUP = "metrics.k8s.io"
VERSION = "v1beta1"
KINDS = (("nodes", "NodeMetrics", False), ("pods", "PodMetrics", True))
_API = f"{GROUP}/{VERSION}"
_PODS, _NODES = Resource("", "pods"), Resource("", "nodes")


class Metrics:
    """Answers reads from the node's statistics."""

    def __init__(self, operations: Operations, node: NodeProxy) -> None:
        self._operations = operations
        self._node = node

    async def answer(self, found: Place, _accept: str) -> Json:
        if found.version != VERSION or found.plural not in ("pods", "nodes"):
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        if found.subresource:
            raise method_not_allowed(f"{found.plural}/{found.subresource} is not served")
        summary = await self._node.stats()
        items = [*(self._pods(summary) if found.plural == "pods" else self._nodes(summary))]
        if found.namespace:
            items = [i for i in items if i["metadata"]["namespace"] == found.namespace]
        if found.name:
            item = next((i for i in items if i["metadata"]["name"] == found.name), None)
            if item is None:
                raise not_found(found.plural, GROUP, found.name)
            return item
        name = "PodMetricsList" if found.plural == "pods" else "NodeMetricsList"
        return {"kind": name, "apiVersion": _API, "metadata": {}, "items": items}

    def _pods(self, summary: Json) -> Iterator[Json]:
        for pod in summary.get("pods") or ():
            entry = self._operations.store.get(_PODS, pod["namespace"], pod["name"])
            containers = pod.get("containers") or []
            if entry is None or not containers:
                continue
            meta = {"name": pod["name"], "namespace": pod["namespace"],
                    "labels": entry.data["metadata"].get("labels") or {}}  # fmt: skip
            yield {
                **self._item("PodMetrics", meta, summary, containers),
                "containers": [{"name": c["name"], "usage": _usage(c)} for c in containers],
            }

    def _nodes(self, summary: Json) -> Iterator[Json]:
        usage = summary.get("node") or {}
        for entry in self._operations.store.entries(_NODES):
            if usage.get("name", entry.name) == entry.name:
                meta = {"name": entry.name, "labels": entry.data["metadata"].get("labels") or {}}
                yield {**self._item("NodeMetrics", meta, summary, []), "usage": _usage(usage)}

    def _item(self, kind: str, meta: Json, summary: Json, containers: list[Json]) -> Json:
        window = max((float(c.get("windowSeconds") or 0) for c in containers), default=0.0)
        stamp = summary.get("timestamp") or self._operations.now()
        return {
            "kind": kind,
            "apiVersion": _API,
            "metadata": {**meta, "creationTimestamp": stamp},
            "timestamp": stamp,
            "window": f"{max(window, 1.0):.3f}s",
        }


def _usage(used: Json) -> Json:
    return {
        "cpu": f"{int(used.get('cpuNanoCores') or 0)}n",
        "memory": f"{int(used.get('pssBytes') or 0) // 1024}Ki",
    }

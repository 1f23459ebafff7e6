"""Subresources of pods: logs, exec, attach, port forwarding, binding, eviction."""

import datetime
import math
from typing import Any

import orjson
from aiohttp import web

from meltemi.local.apiserver.errors import StatusError, bad_request, method_not_allowed
from meltemi.local.apiserver.operations import Operations, Write
from meltemi.local.apiserver.requests import Target, parse_body
from meltemi.local.apiserver.selectors import matches_selector
from meltemi.local.apiserver.store import Resource
from meltemi.local.apiserver.subresources import NodeProxy
from meltemi.local.apiserver.watching import parse_bool, parse_number

Json = dict[str, Any]
_SERVED = frozenset(("log", "exec", "attach", "portforward", "binding", "eviction"))
_BUDGETS = Resource("policy", "poddisruptionbudgets")


class PodVerbs:
    """Subresources of pods."""

    def __init__(self, operations: Operations, node: NodeProxy) -> None:
        self._operations = operations
        self._node = node

    def serves(self, subresource: str) -> bool:
        return subresource in _SERVED

    async def answer(
        self, request: web.Request, found: Target, body: bytes, write: Write
    ) -> web.StreamResponse:
        entry = self._operations.entry(found.kind, found.namespace, found.name)
        method, where = request.method, (found.namespace, found.name)
        match found.subresource:
            case "log" if method == "GET":
                container = _container(request, entry.data)
                return await self._node.logs(request, *where, container, self._log_query(request))
            case "exec" | "attach" if method in ("GET", "POST"):
                container = _container(request, entry.data)
                _check_running(entry.data)
                return await self._node.stream(request, found.subresource, *where, container)
            case "portforward" if method in ("GET", "POST"):
                _check_running(entry.data)
                return await self._node.port_forward(request, *where)
            case "binding" if method == "POST":
                return await self._bind(found, parse_body(body, request.content_type), write)
            case "eviction" if method == "POST":
                return await self._evict(found, parse_body(body, request.content_type), write)
        raise method_not_allowed(f"{method} is not supported on pods/{found.subresource}")

    def _log_query(self, request: web.Request) -> dict[str, str]:
        """The node's form of the options of a log."""
        asked = request.query
        query: dict[str, str] = {}
        for name in ("follow", "previous", "timestamps"):
            if parse_bool(asked.get(name)):
                query[name] = "true"
        for name in ("tailLines", "limitBytes", "sinceSeconds"):
            if name in asked:
                query[name] = str(parse_number(asked[name], name))
        if "sinceTime" in asked:
            try:
                since = datetime.datetime.fromisoformat(asked["sinceTime"])
                passed = self._operations.clock.now() - since
            except (ValueError, TypeError) as error:
                raise bad_request(f"sinceTime: {asked['sinceTime']!r} is no time") from error
            query["sinceSeconds"] = str(max(math.ceil(passed.total_seconds()), 0))
        return query

    async def _bind(self, found: Target, binding: Any, write: Write) -> web.Response:
        node = ((binding.get("target") or {}) if isinstance(binding, dict) else {}).get("name")
        if not node or not isinstance(node, str):
            raise bad_request("target.name: a node is required")

        def change(data: Json) -> Json:
            if data["spec"].get("nodeName"):
                raise StatusError(
                    409,
                    "Conflict",
                    f'Operation cannot be fulfilled on pods/binding "{found.name}": pod '
                    f'{found.name} is already assigned to node "{data["spec"]["nodeName"]}"',
                )
            data["spec"]["nodeName"] = node
            return data

        await self._operations.update(found.kind, found.namespace, found.name, change, write)
        return _success()

    async def _evict(self, found: Target, eviction: Any, write: Write) -> web.Response:
        """Delete a pod, unless a PodDisruptionBudget says that it is needed."""
        operations = self._operations
        entry = operations.entry(found.kind, found.namespace, found.name)
        for budget in operations.store.entries(_BUDGETS, found.namespace):
            labels = entry.data["metadata"].get("labels") or {}
            selector = budget.data.get("spec", {}).get("selector")
            allowed = (budget.data.get("status") or {}).get("disruptionsAllowed")
            if selector and matches_selector(selector, labels) and allowed == 0:
                raise StatusError(
                    429,
                    "TooManyRequests",
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                    details={"causes": [{"reason": "DisruptionBudget", "message": (
                        f"The disruption budget {budget.name} does not allow it now")}]},
                )  # fmt: skip
        options = (eviction.get("deleteOptions") or {}) if isinstance(eviction, dict) else {}
        await operations.delete(found.kind, found.namespace, found.name, options, write)
        return _success()


def _container(request: web.Request, pod: Json) -> str:
    """The container that is meant; with several, one has to be named."""
    spec = pod["spec"]
    fields = ("containers", "initContainers", "ephemeralContainers")
    names = [c["name"] for f in fields for c in spec.get(f) or ()]
    asked = request.query.get("container", "")
    if asked:
        if asked not in names:
            raise bad_request(f"container {asked} is not valid for pod {pod['metadata']['name']}")
        return asked
    if len(spec["containers"]) > 1:
        listed = " ".join(c["name"] for c in spec["containers"])
        raise bad_request(
            f"a container name must be specified for pod {pod['metadata']['name']}, choose one "
            f"of: [{listed}]"
        )
    return str(spec["containers"][0]["name"])


def _check_running(pod: Json) -> None:
    phase = (pod.get("status") or {}).get("phase")
    if phase in ("Succeeded", "Failed"):
        raise bad_request(
            f"cannot exec into a container in a completed pod; current phase is {phase}"
        )
    if not pod["spec"].get("nodeName"):
        raise bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")


def _success() -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
    return web.Response(body=orjson.dumps(body), status=201, content_type="application/json")

"""The webhook's HTTP face: AdmissionReview in, AdmissionReview out."""

import base64
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import jsonpatch
import msgspec
from aiohttp import web

from meltemi.api import names
from meltemi.api.decode import decode
from meltemi.api.kinds import KINDS
from meltemi.api.meta import Json
from meltemi.api.validate import validate
from meltemi.base.problems import Problem, Severity
from meltemi.inject.patch import InjectConfig, NotInjected, Refused, inject

log = logging.getLogger(__name__)

JsonObject = dict[str, Json]
_LARGEST = 8 << 20
_SELECTED = {names.NAMESPACE_LABEL: "enabled"}
"""The API server asks only about pods that its namespaceSelector chose, by labels that it knows
earlier than anybody else: a namespace may be as young as its first pod."""


class ConfigFor(Protocol):
    """What holds for a pod's proxy, before its own annotations."""

    def __call__(
        self, namespace: str, labels: Mapping[str, str], *, gateway: bool
    ) -> InjectConfig: ...


def application(config: ConfigFor) -> web.Application:
    """/inject, /validate and /ready."""

    async def on_inject(request: web.Request) -> web.Response:
        return await _answer(request, lambda r: _inject(r, config))

    async def on_validate(request: web.Request) -> web.Response:
        return await _answer(request, _validate)

    async def on_ready(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application(client_max_size=_LARGEST)
    app.add_routes(
        [
            web.post("/inject", on_inject),
            web.post("/validate", on_validate),
            web.get("/ready", on_ready),
        ]
    )
    return app


async def _answer(request: web.Request, decide: Callable[[JsonObject], JsonObject]) -> web.Response:
    try:
        review = msgspec.json.decode(await request.read(), type=dict[str, Json])
        asked = review["request"]
        response = {"uid": asked["uid"], **decide(asked)}
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        return web.json_response({"message": f"not an AdmissionReview: {error}"}, status=400)
    body = {"apiVersion": review.get("apiVersion"), "kind": "AdmissionReview", "response": response}
    return web.json_response(body)


def _inject(asked: JsonObject, config: ConfigFor) -> JsonObject:
    pod, namespace = asked["object"], asked.get("namespace") or "default"
    try:
        meta = pod.get("metadata") or {}
        templates = str((meta.get("annotations") or {}).get(names.TEMPLATES_ANNOTATION, ""))
        own = config(namespace, meta.get("labels") or {}, gateway="gateway" in templates)
        result = inject(pod, _SELECTED, own, namespace=namespace)
    except Refused as error:
        return _refusal(f"the sidecar cannot be injected: {error}")
    if isinstance(result, NotInjected):
        return {"allowed": True}
    patch = jsonpatch.make_patch(pod, result).patch
    encoded = base64.b64encode(json.dumps(patch).encode()).decode()
    return {"allowed": True, "patchType": "JSONPatch", "patch": encoded}


def _validate(asked: JsonObject) -> JsonObject:
    raw = asked.get("object")
    kind = str((asked.get("kind") or {}).get("kind"))
    if not raw or kind not in KINDS:
        return {"allowed": True}
    outcome = decode(kind, msgspec.json.encode(raw))
    problems = list(outcome.problems)
    if outcome.value is not None:
        problems += validate(outcome.value)
    errors = [p for p in problems if p.severity is Severity.ERROR]
    if errors:
        return _refusal("; ".join(f"{p.path}: {p.message}" for p in errors), raw, errors)
    warnings = [f"{p.path}: {p.message}" for p in problems]
    return {"allowed": True, **({"warnings": warnings} if warnings else {})}


def _refusal(
    message: str, raw: JsonObject | None = None, problems: Sequence[Problem] = ()
) -> JsonObject:
    """A Status; with the object and the fields in its details, as kubectl prints them."""
    status: JsonObject = {"code": 422, "reason": "Invalid", "message": message}
    if raw is not None:
        meta = raw.get("metadata") or {}
        status["details"] = {
            "kind": raw.get("kind"),
            "name": meta.get("name") or f"{meta.get('generateName', '')}*",
            "causes": [
                {"reason": "FieldValueInvalid", "field": p.path, "message": p.message}
                for p in problems
            ],
        }
    return {"allowed": False, "status": status}

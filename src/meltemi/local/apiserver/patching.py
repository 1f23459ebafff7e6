"""PATCH in its four forms."""

from typing import Any

import msgspec
import orjson
from aiohttp import web

from meltemi.local.apiserver.apply import Applied, apply
from meltemi.local.apiserver.errors import StatusError, bad_request, invalid
from meltemi.local.apiserver.operations import Operations, Write
from meltemi.local.apiserver.ownership import Held, Owner, leaves
from meltemi.local.apiserver.patch import json_patch, merge_patch, strategic_merge
from meltemi.local.apiserver.rbac import Attributes, Authorizer
from meltemi.local.apiserver.registry import is_mesh
from meltemi.local.apiserver.requests import Target, parse_body
from meltemi.local.apiserver.schema.node import Node
from meltemi.local.apiserver.shape import shape
from meltemi.local.apiserver.watching import parse_bool

Json = dict[str, Any]
APPLY = "application/apply-patch+yaml"
_JSON_PATCH = "application/json-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"
_MERGE = "application/merge-patch+json"


class Patching:
    """Applies patches to what is stored."""

    def __init__(self, operations: Operations, authorizer: Authorizer) -> None:
        self._operations = operations
        self._authorizer = authorizer

    async def patch(
        self, request: web.Request, found: Target, body: bytes, write: Write
    ) -> tuple[Json, bool]:
        """The object as it is after a patch, and whether it is new."""
        media, kind = request.content_type, found.kind
        if media not in (APPLY, _JSON_PATCH, _STRATEGIC, _MERGE):
            raise _unknown_form(media, strategic=True)
        patch = parse_body(body, media)
        if media == APPLY:
            return await self._apply(request, found, patch, write)
        if "force" in request.query:
            raise _invalid_options("force: Forbidden: may not be specified for non-apply patch")
        is_custom = self._operations.registry.is_custom(kind)
        if media == _STRATEGIC and is_custom:
            raise _unknown_form(media, strategic=False)
        node = self._operations.registry.node(kind, found.version)
        stored = await self._operations.update(
            kind,
            found.namespace,
            found.name,
            lambda before: self.patched(request, before, patch, node),
            msgspec.structs.replace(write, is_patch=True),
            subresource=found.subresource,
        )
        return stored, False

    def patched(self, request: web.Request, before: Json, patch: Any, node: Node | None) -> Json:
        """One object after a patch that is not an apply."""
        match request.content_type:
            case "application/json-patch+json":
                result = json_patch(before, patch)
            case "application/strategic-merge-patch+json":
                result = strategic_merge(before, patch, node)
            case _:
                result = merge_patch(before, patch)
        if not isinstance(result, dict) or not isinstance(result.get("metadata"), dict):
            raise bad_request("the patch leaves something that is no object")
        return result

    async def _apply(
        self, request: web.Request, found: Target, patch: Any, write: Write
    ) -> tuple[Json, bool]:
        query = request.query
        if not query.get("fieldManager"):
            raise _invalid_options("fieldManager: Required value: is required for apply patch")
        operations, kind = self._operations, found.kind
        wanted = self._wanted(found, patch, write)
        force = parse_bool(query.get("force"))
        owner = Owner(
            query["fieldManager"], "Apply", f"{kind.group}/{found.version}".lstrip("/"),
            found.subresource,
        )  # fmt: skip
        node = operations.registry.node(kind, kind.versions[0])
        outcome: list[Applied] = []

        def change(before: Json) -> Json:
            applied = apply(node, before, wanted, owner, force=force, now=operations.now())
            outcome[:] = [applied]
            version = wanted["metadata"].get("resourceVersion")
            return applied.data if version is None else _at_version(applied.data, version)

        def owners(_before: Json, _after: Json) -> list[Held]:
            return list(outcome[0].owners)

        try:
            stored = await operations.update(
                kind,
                found.namespace,
                found.name,
                change,
                write,
                subresource=found.subresource,
                owners=owners,
            )
        except StatusError as error:
            is_missing = error.code == 404 and not found.subresource
            if not is_missing or wanted["metadata"].get("resourceVersion"):
                raise
        else:
            return stored, False
        self._authorizer.require(
            write.user, Attributes("create", kind.group, kind.plural, "", found.namespace)
        )
        held = [Held(owner, frozenset(leaves(node, wanted)), operations.now())]
        made = await operations.create(
            kind, found.namespace, wanted, write, lambda _before, _after: held
        )
        return made, True

    def _wanted(self, found: Target, patch: Any, write: Write) -> Json:
        """What is applied: identity, and the fields its subresource may set."""
        if not isinstance(patch, dict) or not isinstance(patch.get("metadata") or {}, dict):
            raise bad_request("an apply patch is an object")
        kind = found.kind
        written = f"{kind.group}/{found.version}".lstrip("/")
        for field, own in (("kind", kind.name), ("apiVersion", written)):
            if not patch.get(field):
                raise bad_request(f"invalid object type: {field} is required in an apply patch")
            if patch[field] != own:
                raise bad_request(
                    f"the {field} of the patch ({patch[field]}) does not match the path ({own})"
                )
        meta = patch.get("metadata") or {}
        if meta.get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        if meta.get("name", found.name) != found.name:
            raise bad_request("the name of the object does not match the name on the URL")
        node = self._operations.registry.node(kind, found.version)
        shaped = shape(node, patch, keeps_unknown=is_mesh(kind))
        if shaped.wrong and not is_mesh(kind):
            path, why = shaped.wrong[0]
            raise invalid(kind.name, kind.group, found.name, [(path, f"Invalid value: {why}")])
        self._operations.report_unknown(shaped.unknown, write)
        wanted = shaped.value
        wanted["apiVersion"] = kind.api_version
        wanted["metadata"] = {**wanted.get("metadata", {}), "name": found.name}
        if kind.namespaced:
            wanted["metadata"].setdefault("namespace", found.namespace)
        if found.subresource == "status":
            kept = ("apiVersion", "kind", "metadata", "status")
            return {k: v for k, v in wanted.items() if k in kept}
        if "status" in kind.subresources:
            wanted.pop("status", None)
        return wanted


def _at_version(data: Json, version: Any) -> Json:
    copied: Json = orjson.loads(orjson.dumps(data))
    copied["metadata"]["resourceVersion"] = version
    return copied


def _invalid_options(why: str) -> StatusError:
    return StatusError(422, "Invalid", f'PatchOptions.meta.k8s.io "" is invalid: {why}')


def _unknown_form(media: str, *, strategic: bool) -> StatusError:
    forms = [_JSON_PATCH, _MERGE, APPLY]
    if strategic:
        forms.append(_STRATEGIC)
    return StatusError(
        415,
        "UnsupportedMediaType",
        f"the body of the request was in an unknown format ({media}) - accepted media types "
        f"include: {', '.join(forms)}",
    )

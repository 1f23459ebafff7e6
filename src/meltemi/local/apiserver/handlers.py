"""Requests to verbs: the one place where paths, queries and bodies meet operations."""

import datetime
from typing import Any

import orjson
from aiohttp import web

from meltemi import __version__
from meltemi.local.apiserver import discovery
from meltemi.local.apiserver.apply import apply_patch
from meltemi.local.apiserver.authn import Tokens
from meltemi.local.apiserver.errors import (
    StatusError,
    bad_request,
    method_not_allowed,
    not_found,
)
from meltemi.local.apiserver.operations import Operations, User, Write
from meltemi.local.apiserver.patch import json_patch, merge_patch, strategic_merge
from meltemi.local.apiserver.requests import Target, parse_body, target
from meltemi.local.apiserver.reviews import answer
from meltemi.local.apiserver.subresources import NodeProxy
from meltemi.local.apiserver.watching import Form, Pages, Watch, error_line, parse_bool

Json = dict[str, Any]
_JSON = "application/json"
_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class Handlers:
    """Answers requests of authenticated users."""

    def __init__(self, operations: Operations, tokens: Tokens, node: NodeProxy) -> None:
        self._operations = operations
        self._tokens = tokens
        self._node = node
        self._pages = Pages()

    def _now(self) -> datetime.datetime:
        return self._operations._clock.now()

    async def handle(self, request: web.Request, user: User) -> web.StreamResponse:
        path = request.path.rstrip("/") or "/"
        document = self._document(path, request.headers.get("Accept", ""))
        if document is not None:
            found_document = _json(document)
            if document.get("kind") == "APIGroupDiscoveryList":
                found_document.headers["Content-Type"] = _AGGREGATED
            return found_document
        body = await request.read() if request.can_read_body else b""
        parts = path.strip("/").split("/")
        if request.method == "POST" and len(parts) == 4 and parts[0] == "apis":
            data = parse_body(body, request.content_type)
            reviewed = answer(parts[3], data, user, self._tokens)
            if reviewed is not None:
                return _json(reviewed, 201)
        found = target(self._operations.registry, path)
        if found is None:
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        warnings: list[str] = []
        write = Write(user, request.query.get("dryRun") == "All", warnings.append)
        response = await self._target(request, found, body, write)
        if warnings and not response.prepared:
            for text in warnings:
                response.headers.add("Warning", f'299 - "{text}"')
        return response

    def _document(self, path: str, accept: str) -> Json | None:
        """Discovery, OpenAPI and version; None for other paths."""
        registry = self._operations.registry
        parts = path.strip("/").split("/")
        match parts:
            case ["api"] | ["apis"]:
                if "APIGroupDiscoveryList" in accept:
                    return discovery.aggregated(registry, core=parts == ["api"])
                if parts == ["apis"]:
                    return discovery.group_list(registry)
                return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
            case ["api", version]:
                return discovery.resource_list(registry, "", version)
            case ["apis", group]:
                return discovery.group(registry, group)
            case ["apis", group, version]:
                return discovery.resource_list(registry, group, version)
            case ["openapi", "v3"]:
                return discovery.openapi_index(registry)
            case ["openapi", "v3", "api", version]:
                return discovery.openapi_document(registry, "", version)
            case ["openapi", "v3", "apis", group, version]:
                return discovery.openapi_document(registry, group, version)
            case ["version"]:
                return _version()
        return None

    async def _target(
        self, request: web.Request, found: Target, body: bytes, write: Write
    ) -> web.StreamResponse:
        if found.subresource not in ("", "status"):
            return await self._subresource(request, found, body, write)
        accept = request.headers.get("Accept", "")
        form = Form(
            found.kind,
            found.version,
            table="as=Table" in accept,
            include=request.query.get("includeObject", ""),
        )
        operations, query = self._operations, request.query
        match request.method, bool(found.name):
            case "GET", False:
                if parse_bool(query.get("watch")):
                    return await self._watch(request, found, form)
                return self._list(found, form, dict(query))
            case "GET", True:
                data = operations.entry(found.kind, found.namespace, found.name).data
                return _json(form.shown(data, self._now()))
            case "POST", False:
                data = parse_body(body, request.content_type)
                made = await operations.create(found.kind, found.namespace, data, write)
                return _json(form.one(made), 201)
            case "PUT", True:
                data = parse_body(body, request.content_type)
                return await self._put(found, form, data, write)
            case "PATCH", True:
                return await self._patch(request, found, form, body, write)
            case "DELETE", _:
                return await self._delete(request, found, body, write)
        raise method_not_allowed(f"{request.method} is not supported on {found.kind.plural}")

    def _list(self, found: Target, form: Form, query: dict[str, str]) -> web.Response:
        entries, meta = self._pages.page(
            lambda: self._operations.select(
                found.kind,
                found.namespace,
                query.get("labelSelector", ""),
                query.get("fieldSelector", ""),
            ),
            self._operations.store.committed,
            int(query.get("limit") or 0),
            query.get("continue", ""),
        )
        return _json(form.many([e.data for e in entries], meta, self._now()))

    async def _watch(self, request: web.Request, found: Target, form: Form) -> web.StreamResponse:
        query = dict(request.query)
        if found.name:
            query["fieldSelector"] = f"metadata.name={found.name}"
        watch = Watch(self._operations, form, found.namespace, query)
        response = web.StreamResponse(headers={"Content-Type": _JSON})
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            async for line in watch.lines(self._now):
                await response.write(line)
        except StatusError as error:
            await response.write(error_line(error))
        except ConnectionError:
            return response
        return response

    async def _put(self, found: Target, form: Form, data: Json, write: Write) -> web.Response:
        operations = self._operations

        def change(before: Json) -> Json:
            meta = {**before["metadata"], **(data.get("metadata") or {})}
            if "resourceVersion" not in (data.get("metadata") or {}):
                meta.pop("resourceVersion", None)
            for field in ("labels", "annotations", "finalizers", "ownerReferences"):
                if field not in (data.get("metadata") or {}):
                    meta.pop(field, None)
            return {**data, "metadata": meta}

        try:
            stored = await operations.update(
                found.kind,
                found.namespace,
                found.name,
                change,
                write,
                subresource=found.subresource,
            )
        except StatusError as error:
            if error.code == 404 and found.kind.name == "Lease":
                stored = await operations.create(found.kind, found.namespace, data, write)
            else:
                raise
        return _json(form.one(stored))

    async def _patch(
        self, request: web.Request, found: Target, form: Form, body: bytes, write: Write
    ) -> web.Response:
        operations, kind = self._operations, found.kind
        media = request.content_type
        patch = parse_body(body, media)
        if media == "application/apply-patch+yaml":
            stored, created = await apply_patch(
                operations, found, patch, dict(request.query), write
            )
            return _json(form.one(stored), 201 if created else 200)
        if media == "application/strategic-merge-patch+json" and operations.registry.is_custom(
            kind
        ):
            raise StatusError(
                415,
                "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: "
                "application/json-patch+json, application/merge-patch+json, "
                "application/apply-patch+yaml",
            )

        def change(before: Json) -> Json:
            if "resourceVersion" not in (
                (patch or {}).get("metadata") or {} if isinstance(patch, dict) else {}
            ):
                before["metadata"].pop("resourceVersion", None)
            match media:
                case "application/json-patch+json":
                    return json_patch(before, patch)
                case "application/strategic-merge-patch+json":
                    merged: Json = strategic_merge(before, patch)
                    return merged
                case "application/merge-patch+json" | "application/json":
                    merged = merge_patch(before, patch)
                    return merged
            raise StatusError(415, "UnsupportedMediaType", f"patch form {media} is not known")

        stored = await operations.update(
            kind, found.namespace, found.name, change, write, subresource=found.subresource
        )
        return _json(form.one(stored))

    async def _delete(
        self, request: web.Request, found: Target, body: bytes, write: Write
    ) -> web.Response:
        options = parse_body(body, request.content_type) or {}
        for name in ("gracePeriodSeconds", "propagationPolicy"):
            if name in request.query:
                value: Any = request.query[name]
                options[name] = int(value) if name == "gracePeriodSeconds" else value
        operations = self._operations
        if options.get("dryRun"):
            write = Write(write.user, True, write.warn)
        if found.name:
            data = await operations.delete(found.kind, found.namespace, found.name, options, write)
            if operations.store.get(_resource(found), found.namespace, found.name) is not None:
                return _json(data)
            details = {
                "name": found.name,
                "kind": found.kind.plural,
                "uid": data["metadata"]["uid"],
            }
            if found.kind.group:
                details["group"] = found.kind.group
            return _json(
                {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                 "details": details}
            )  # fmt: skip
        query = request.query
        entries = operations.select(
            found.kind,
            found.namespace,
            query.get("labelSelector", ""),
            query.get("fieldSelector", ""),
        )
        for entry in entries:
            await operations.delete(found.kind, entry.namespace, entry.name, options, write)
        form = Form(found.kind, found.version, table=False, include="")
        meta = {"resourceVersion": str(operations.store.committed)}
        return _json(form.many([e.data for e in entries], meta, self._now()))

    async def _subresource(
        self, request: web.Request, found: Target, body: bytes, write: Write
    ) -> web.StreamResponse:
        operations, kind = self._operations, found.kind
        entry = operations.entry(kind, found.namespace, found.name)
        match kind.name, found.subresource, request.method:
            case _, "scale", method if "scale" in kind.subresources:
                if method == "GET":
                    return _json(operations.scale(kind, entry.data))
                patch = parse_body(body, request.content_type)
                stored = await operations.update(
                    kind,
                    found.namespace,
                    found.name,
                    lambda data: operations.rescale(_unversioned(data), patch),
                    write,
                )
                return _json(operations.scale(kind, stored))
            case "Pod", "log", "GET":
                container = request.query.get("container") or _first_container(entry.data)
                return await self._node.logs(request, found.namespace, found.name, container)
            case "Pod", "exec", _:
                container = request.query.get("container") or _first_container(entry.data)
                return await self._node.execute(request, found.namespace, found.name, container)
            case "Pod", "portforward", _:
                return await self._node.port_forward(request, found.namespace, found.name)
            case "Pod", "binding", "POST":
                node = parse_body(body, request.content_type)["target"]["name"]
                await operations.update(
                    kind, found.namespace, found.name, lambda d: _bound(d, node), write
                )
                return _json(_success(), 201)
            case "Pod", "eviction", "POST":
                await operations.delete(kind, found.namespace, found.name, {}, write)
                return _json(_success(), 201)
            case "ServiceAccount", "token", "POST":
                data = parse_body(body, request.content_type)
                spec = data.get("spec") or {}
                token, ends = self._tokens.issue(found.namespace, found.name, spec)
                status = {"token": token, "expirationTimestamp": ends}
                api = "authentication.k8s.io/v1"
                return _json(
                    {**data, "kind": "TokenRequest", "apiVersion": api, "status": status}, 201
                )
            case "Namespace", "finalize", "PUT":
                return _json(entry.data)
        raise not_found(f"{kind.plural}/{found.subresource}", kind.group, found.name)


def _unversioned(data: Json) -> Json:
    data["metadata"].pop("resourceVersion", None)
    return data


def _bound(data: Json, node: str) -> Json:
    if data["spec"].get("nodeName"):
        raise bad_request(f"pod {data['metadata']['name']} is already assigned to a node")
    data["spec"]["nodeName"] = node
    return _unversioned(data)


def _first_container(pod: Json) -> str:
    name = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
    return str(name or pod["spec"]["containers"][0]["name"])


def _resource(found: Target) -> Any:
    from meltemi.local.apiserver.registry import resource_of

    return resource_of(found.kind)


def _success() -> Json:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


def _version() -> Json:
    return {
        "major": "1",
        "minor": "32",
        "gitVersion": f"v1.32.0+meltemi-{__version__}",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "python",
        "platform": "linux/amd64",
    }


def _json(data: Json, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(data), status=status, content_type=_JSON)

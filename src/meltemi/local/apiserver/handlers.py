"""Requests to verbs: the one place where paths, queries and bodies meet operations."""

import datetime
from typing import Any

import msgspec
import orjson
from aiohttp import HttpVersion11, web

from meltemi import __version__
from meltemi.api.kinds import Kind
from meltemi.local.apiserver import discovery, openapi, reviews
from meltemi.local.apiserver.authn import Tokens
from meltemi.local.apiserver.broadcast import Broadcasts, Outlet
from meltemi.local.apiserver.errors import (
    StatusError,
    bad_request,
    method_not_allowed,
    not_found,
)
from meltemi.local.apiserver.forms import Form
from meltemi.local.apiserver.metrics import GROUP as METRICS
from meltemi.local.apiserver.metrics import Metrics
from meltemi.local.apiserver.operations import Operations, User, Write
from meltemi.local.apiserver.patching import Patching
from meltemi.local.apiserver.pods import PodVerbs
from meltemi.local.apiserver.rbac import Attributes, Authorizer
from meltemi.local.apiserver.registry import resource_of
from meltemi.local.apiserver.requests import (
    Place,
    Target,
    parse_body,
    place,
    repeated_fields,
    target,
)
from meltemi.local.apiserver.scale import paths as scale_paths
from meltemi.local.apiserver.scale import rescaled, scale_of
from meltemi.local.apiserver.subresources import NodeProxy
from meltemi.local.apiserver.watching import (
    Pages,
    Watch,
    check_version,
    error_line,
    parse_bool,
    parse_number,
)

Json = dict[str, Any]
_JSON = "application/json"
_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch",
          "DELETE": "delete"}  # fmt: skip
_CONNECTED = ("exec", "attach", "portforward")
_MADE_BY_PUT = frozenset({
    "Endpoints", "Event", "Lease", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding",
})  # fmt: skip
_REFUSED = {
    "proxy": "proxying to nodes, services and pods",
    "resize": "resizing of running pods",
}


class Noted(msgspec.Struct):
    """What the audit log has to know of a request."""

    user: User
    impersonated: User | None = None
    asked: Attributes | None = None
    reason: str = ""
    annotations: dict[str, str] = {}


class Handlers:
    """Answers requests of authenticated users, as far as they are allowed."""

    def __init__(
        self,
        operations: Operations,
        tokens: Tokens,
        authorizer: Authorizer,
        node: NodeProxy,
    ) -> None:
        self._operations = operations
        self._tokens = tokens
        self._authorizer = authorizer
        self._pods = PodVerbs(operations, node)
        self._metrics = Metrics(operations, node)
        self._patching = Patching(operations, authorizer)
        self._pages = Pages()
        self._broadcasts = Broadcasts(operations.store, operations.clock.now)

    def _now(self) -> datetime.datetime:
        return self._operations.clock.now()

    async def handle(self, request: web.Request, user: User, noted: Noted) -> web.StreamResponse:
        path = request.path.rstrip("/") or "/"
        found = place(request.rel_url.raw_path)
        asked = attributes(request, path, found)
        noted.asked = asked
        noted.reason = self._authorizer.require(user, asked)
        if found is None:
            return self._document_at(request, path)
        body = await request.read() if request.can_read_body else b""
        if reviews.KINDS.get(found.plural) == found.group and found.version == "v1":
            return self._review(request, found, body, user)
        if found.group == METRICS:
            return _json(await self._metrics.answer(found, request.headers.get("Accept", "")))
        meant = target(self._operations.registry, found)
        if meant is None:
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        warnings: list[str] = []
        write = self._write(request, meant, body, user, warnings)
        write = msgspec.structs.replace(write, annotate=noted.annotations.__setitem__)
        response = await self._target(request, meant, body, write)
        if warnings and not response.prepared:
            for text in dict.fromkeys(warnings):
                response.headers.add("Warning", f'299 - "{_header(text)}"')
        return response

    def _document_at(self, request: web.Request, path: str) -> web.Response:
        if path == "/openapi/v2" and request.method == "GET":
            body, media = openapi.second(request.headers.get("Accept", ""))
            return web.Response(body=body, headers={"Content-Type": media})
        document = self._document(path, request.headers.get("Accept", ""))
        if document is None:
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        if request.method not in ("GET", "HEAD"):
            raise method_not_allowed(f"{request.method} is not supported on {path}")
        response = _json(document) if isinstance(document, dict) else _raw(document)
        if isinstance(document, dict) and document.get("kind") == "APIGroupDiscoveryList":
            response.headers["Content-Type"] = _AGGREGATED
        return response

    def _document(self, path: str, accept: str) -> Json | bytes | None:
        """Discovery, OpenAPI and version; None for other paths."""
        registry = self._operations.registry
        parts = path.strip("/").split("/")
        match parts:
            case [""]:
                return {
                    "paths": ["/api", "/apis", "/healthz", "/openapi/v2", "/openapi/v3", "/version"]
                }
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
                return openapi.index(registry)
            case ["openapi", "v3", "api", version]:
                return openapi.document(registry, "", version)
            case ["openapi", "v3", "apis", group, version]:
                return openapi.document(registry, group, version)
            case ["version"]:
                return _version()
        return None

    def _review(self, request: web.Request, found: Place, body: bytes, user: User) -> web.Response:
        if request.method != "POST":
            raise method_not_allowed(f"{request.method} is not supported on {found.plural}")
        data = parse_body(body, request.content_type)
        if not isinstance(data, dict):
            raise bad_request("the body must be an object")
        reviewed = reviews.answer(
            found.plural, found.namespace, data, user, self._tokens, self._authorizer
        )
        return _json(reviewed, 201)

    def _write(
        self, request: web.Request, meant: Target, body: bytes, user: User, warnings: list[str]
    ) -> Write:
        """What a request says of a write, besides the object."""
        query = request.query
        dry_run = query.getall("dryRun", [])
        if any(v != "All" for v in dry_run):
            raise bad_request(f'dryRun: Unsupported value: {dry_run}: supported values: "All"')
        validation = query.get("fieldValidation") or "Warn"
        if validation not in ("Strict", "Warn", "Ignore"):
            raise bad_request(
                f'fieldValidation: Unsupported value: "{validation}": supported values: "Ignore", '
                '"Strict", "Warn"'
            )
        manager = query.get("fieldManager") or _agent(request)
        if len(manager) > 128 or not manager.isprintable():
            raise bad_request("fieldManager: Invalid value: at most 128 printable characters")
        repeated: tuple[str, ...] = ()
        if body and validation != "Ignore" and request.method in ("POST", "PUT"):
            repeated = repeated_fields(body, request.content_type)
        return Write(
            user,
            bool(dry_run),
            warnings.append,
            manager=manager,
            validation=validation,
            version=meant.version,
            repeated=repeated,
        )

    def _form(self, request: web.Request, found: Target) -> Form:
        return Form(
            self._operations.registry,
            found.kind,
            found.version,
            accept=request.headers.get("Accept", ""),
            include=request.query.get("includeObject", ""),
        )

    async def _target(
        self, request: web.Request, found: Target, body: bytes, write: Write
    ) -> web.StreamResponse:
        if found.kind.name == "Pod" and found.subresource == "ephemeralcontainers":
            # Adding one is an update of the pod, which lets nothing else change.
            found = msgspec.structs.replace(found, subresource="")
        if found.subresource and (
            found.subresource != "status" or "status" not in found.kind.subresources
        ):
            return await self._subresource(request, found, body, write)
        form, operations = self._form(request, found), self._operations
        match request.method, bool(found.name):
            case "GET", False:
                if parse_bool(request.query.get("watch")):
                    return await self._watch(request, found, form)
                return self._list(found, form, dict(request.query))
            case "GET" | "HEAD", True:
                if request.method == "GET" and parse_bool(request.query.get("watch")):
                    return await self._watch(request, found, form)
                entry = operations.shown(found.kind, found.namespace, found.name)
                return _raw(form.raw(entry, self._now()))
            case "POST", False:
                data = parse_body(body, request.content_type)
                made = await operations.create(found.kind, found.namespace, data, write)
                return _json(form.shown(made, self._now()), 201)
            case "PUT", True:
                data = parse_body(body, request.content_type)
                return await self._put(found, form, data, write)
            case "PATCH", True:
                stored, created = await self._patching.patch(request, found, body, write)
                return _json(form.shown(stored, self._now()), 201 if created else 200)
            case "DELETE", _:
                return await self._delete(request, found, body, write)
        raise method_not_allowed(
            f"the server does not allow this method on the requested resource: {request.method} "
            f"on {found.kind.plural}"
        )

    def _list(self, found: Target, form: Form, query: dict[str, str]) -> web.Response:
        check_version(self._operations, found.kind, query)
        entries, meta = self._pages.page(
            lambda: self._operations.select(
                found.kind,
                found.namespace,
                query.get("labelSelector", ""),
                query.get("fieldSelector", ""),
            ),
            self._operations.store.committed,
            parse_number(query.get("limit"), "limit"),
            query.get("continue", ""),
        )
        return _raw(form.many(entries, meta, self._now()))

    async def _watch(self, request: web.Request, found: Target, form: Form) -> web.StreamResponse:
        query = dict(request.query)
        if found.name:
            query["fieldSelector"] = f"metadata.name={found.name}"
        if request.version < HttpVersion11:
            raise bad_request("a watch needs HTTP/1.1")
        watch = Watch(self._operations, self._broadcasts, form, found.namespace, query)
        response = web.StreamResponse(headers={"Content-Type": _JSON})
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            if request.transport is not None:
                await watch.run(response, Outlet(request.transport))
        except StatusError as error:
            await response.write(error_line(error))
        except ConnectionError:
            return response
        return response

    async def _put(self, found: Target, form: Form, data: Any, write: Write) -> web.Response:
        if not isinstance(data, dict) or not isinstance(data.get("metadata") or {}, dict):
            raise bad_request("the body must be an object")
        operations = self._operations
        given = data.get("metadata") or {}
        if operations.registry.is_custom(found.kind) and not given.get("resourceVersion"):
            self._need_version(found)

        def change(before: Json) -> Json:
            managed = {"managedFields": before["metadata"].get("managedFields")}
            if "managedFields" in given or managed["managedFields"] is None:
                managed = {}
            return {**data, "metadata": {**managed, **given}}

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
            may_make = found.kind.name in _MADE_BY_PUT and not found.subresource
            if error.code != 404 or not may_make or given.get("resourceVersion"):
                raise
            meta = {**given, "name": given.get("name") or found.name}
            made = await operations.create(
                found.kind, found.namespace, {**data, "metadata": meta}, write
            )
            return _json(form.shown(made, self._now()), 201)
        return _json(form.shown(stored, self._now()))

    def _need_version(self, found: Target) -> None:
        self._operations.entry(found.kind, found.namespace, found.name)
        raise StatusError(
            422,
            "Invalid",
            f'{found.kind.plural}.{found.kind.group} "{found.name}" is invalid: '
            "metadata.resourceVersion: Invalid value: 0: must be specified for an update",
        )

    async def _delete(
        self, request: web.Request, found: Target, body: bytes, write: Write
    ) -> web.Response:
        if found.subresource:
            raise method_not_allowed(f"DELETE is not supported on {found.subresource}")
        options, write = _delete_options(request, body, write)
        operations = self._operations
        if found.name:
            data = await operations.delete(found.kind, found.namespace, found.name, options, write)
            still = operations.store.get(resource_of(found.kind), found.namespace, found.name)
            if still is not None and not write.dry_run:
                return _json(self._form(request, found).one(data))
            return _json(_deleted(found.kind, data))
        if not found.namespace and found.kind.namespaced:
            raise method_not_allowed("name a namespace: collections are deleted in one at a time")
        query = request.query
        selected = operations.select(
            found.kind,
            found.namespace,
            query.get("labelSelector", ""),
            query.get("fieldSelector", ""),
        )
        for entry in selected:
            try:
                await operations.delete(found.kind, entry.namespace, entry.name, options, write)
            except StatusError as error:
                if error.code != 404:
                    raise
        form = Form(operations.registry, found.kind, found.version)
        meta = {"resourceVersion": str(operations.store.committed)}
        return _raw(form.many(selected, meta, self._now()))

    async def _subresource(
        self, request: web.Request, found: Target, body: bytes, write: Write
    ) -> web.StreamResponse:
        operations, kind = self._operations, found.kind
        match kind.name, found.subresource:
            case _, "scale" if "scale" in kind.subresources:
                return await self._scale(request, found, body, write)
            case "Pod", _ if self._pods.serves(found.subresource):
                return await self._pods.answer(request, found, body, write)
            case "ServiceAccount", "token" if request.method == "POST":
                operations.entry(kind, found.namespace, found.name)
                data = parse_body(body, request.content_type)
                return _json(self._tokens.request(found.namespace, found.name, data), 201)
            case "CertificateSigningRequest", "approval":
                return await self._approve(request, found, body, write)
            case "Namespace", "finalize" if request.method == "PUT":
                data = parse_body(body, request.content_type)
                return _json(await self._finalize(found, data, write))
        asked = found.subresource.partition("/")[0]
        if asked in _REFUSED:
            raise method_not_allowed(f"{_REFUSED[asked]}: not supported by the embedded API")
        raise not_found(f"{kind.plural}/{found.subresource}", kind.group, found.name)

    async def _finalize(self, found: Target, data: Any, write: Write) -> Json:
        spec = (data.get("spec") or {}) if isinstance(data, dict) else {}

        def change(before: Json) -> Json:
            before["spec"] = {**before.get("spec", {}), "finalizers": spec.get("finalizers") or []}
            return before

        return await self._operations.update(
            found.kind, "", found.name, change, write, subresource="finalize"
        )

    async def _approve(
        self, request: web.Request, found: Target, body: bytes, write: Write
    ) -> web.Response:
        """Read or write the decision about a certificate; writing needs the signer's trust."""
        entry = self._operations.shown(found.kind, "", found.name)
        if request.method == "GET":
            return _json(entry.data)
        signer = str(entry.data["spec"].get("signerName", ""))
        asked = Attributes("approve", found.kind.group, "signers", name=signer)
        self._authorizer.require(write.user, asked)
        if request.method == "PATCH":
            stored, _ = await self._patching.patch(request, found, body, write)
            return _json(stored)
        if request.method != "PUT":
            raise method_not_allowed(f"{request.method} is not supported on approval")
        data = parse_body(body, request.content_type)
        return await self._put(found, self._form(request, found), data, write)

    async def _scale(
        self, request: web.Request, found: Target, body: bytes, write: Write
    ) -> web.Response:
        operations, kind = self._operations, found.kind
        where = scale_paths(operations.registry, kind, found.version)
        entry = operations.entry(kind, found.namespace, found.name)
        if request.method == "GET":
            return _json(scale_of(where, entry.data))
        if request.method not in ("PUT", "PATCH"):
            raise method_not_allowed(f"{request.method} is not supported on {kind.plural}/scale")
        patch = parse_body(body, request.content_type)

        def change(before: Json) -> Json:
            scale = scale_of(where, before)
            if request.method == "PUT":
                return rescaled(where, before, patch)
            return rescaled(where, before, self._patching.patched(request, scale, patch, None))

        stored = await operations.update(kind, found.namespace, found.name, change, write)
        return _json(scale_of(where, stored))


def attributes(request: web.Request, path: str, found: Place | None) -> Attributes:
    """What a request asks to do, as rules put it."""
    verb = _VERBS.get(request.method, request.method.lower())
    if found is None:
        return Attributes(verb if verb != "create" else "post", path=path)
    if not found.name:
        if verb == "get":
            verb = "watch" if parse_bool(request.query.get("watch")) else "list"
        elif verb == "delete":
            verb = "deletecollection"
    elif verb == "get" and not found.subresource and parse_bool(request.query.get("watch")):
        verb = "watch"
    subresource = found.subresource.partition("/")[0]
    if found.plural == "pods" and subresource in _CONNECTED:
        verb = "create"
    namespace = found.namespace
    if found.plural == "namespaces" and not found.group:
        namespace = found.name
    return Attributes(verb, found.group, found.plural, subresource, namespace, found.name)


def _agent(request: web.Request) -> str:
    """The manager of those who name none: the first word of their User-Agent."""
    agent = request.headers.get("User-Agent", "").partition("/")[0].strip()
    return "".join(c for c in agent if c.isprintable())[:128] or "unknown"


def _header(text: str) -> str:
    return "".join(c for c in text.replace('"', "'") if c.isprintable())[:512]


def _delete_options(request: web.Request, body: bytes, write: Write) -> tuple[Json, Write]:
    options = parse_body(body, request.content_type) or {}
    if not isinstance(options, dict):
        raise bad_request("DeleteOptions: expected an object")
    query = request.query
    if "gracePeriodSeconds" in query:
        options["gracePeriodSeconds"] = parse_number(
            query["gracePeriodSeconds"], "gracePeriodSeconds"
        )
    if "propagationPolicy" in query:
        options["propagationPolicy"] = query["propagationPolicy"]
    if "orphanDependents" in query:
        options["orphanDependents"] = parse_bool(query["orphanDependents"])
    grace = options.get("gracePeriodSeconds")
    if grace is not None and (not isinstance(grace, int) or grace < 0):
        raise bad_request("gracePeriodSeconds: Invalid value: must be a number from 0 on")
    if not isinstance(options.get("preconditions") or {}, dict):
        raise bad_request("preconditions: expected an object")
    dry_run = write.dry_run or bool(options.get("dryRun"))
    kept = {k: v for k, v in options.items() if k not in ("kind", "apiVersion")}
    return options, msgspec.structs.replace(
        write, dry_run=dry_run, manager="", validation="Ignore", repeated=(), options=kept
    )


def _deleted(kind: Kind, data: Json) -> Json:
    meta = data["metadata"]
    details = {"name": meta["name"], "kind": kind.plural, "uid": meta["uid"]}
    if kind.group:
        details["group"] = kind.group
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": details}  # fmt: skip


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


def _json(data: Any, status: int = 200) -> web.Response:
    return _raw(orjson.dumps(data), status)


def _raw(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type=_JSON)

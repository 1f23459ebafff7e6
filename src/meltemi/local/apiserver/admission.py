"""Admission webhooks: asked in order of their names, mutating ones before validating ones.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

import asyncio
import base64
import copy
import logging
import ssl
import uuid
from typing import Any

import aiohttp
import orjson

from meltemi.api.kinds import Kind
from meltemi.local.apiserver.errors import StatusError, bad_request, internal
from meltemi.local.apiserver.operations import User, Write
from meltemi.local.apiserver.patch import json_patch
from meltemi.local.apiserver.selectors import matches_selector
from meltemi.local.apiserver.store import Resource, Store

log = logging.getLogger(__name__)
Json = dict[str, Any]
_GROUP = "admissionregistration.k8s.io"
_MUTATING = Resource(_GROUP, "mutatingwebhookconfigurations")
_VALIDATING = Resource(_GROUP, "validatingwebhookconfigurations")


class Admission:
    """Calls the webhooks that configurations in the store name."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def admit(
        self,
        kind: Kind,
        operation: str,
        data: Json | None,
        before: Json | None,
        write: Write,
        subresource: str,
    ) -> Json | None:
        """The object as mutating webhooks leave it. Raises what a refusal or a failure means."""
        if kind.group == _GROUP:
            return data
        request = _Request(kind, operation, before, write, subresource)
        for hook in self._matching(_MUTATING, request, data):
            answer = await self._call(hook, request, data)
            if answer is not None and answer.get("patch") and data is not None:
                data = json_patch(
                    copy.deepcopy(data), orjson.loads(base64.b64decode(answer["patch"]))
                )
        for hook in self._matching(_VALIDATING, request, data):
            await self._call(hook, request, data)
        return data

    def _matching(self, resource: Resource, request: "_Request", data: Json | None) -> list[Json]:
        return [
            hook
            for entry in self._store.entries(resource)
            for hook in entry.data.get("webhooks") or ()
            if request.is_meant_by(hook, data, self._namespace_labels(request, data))
        ]

    def _namespace_labels(self, request: "_Request", data: Json | None) -> Json | None:
        meta = (data or request.before or {}).get("metadata", {})
        name = meta.get("namespace")
        if request.kind.name == "Namespace":
            return meta.get("labels") or {}
        if not name:
            return None
        found = self._store.get(Resource("", "namespaces"), "", name)
        return (found.data["metadata"].get("labels") or {}) if found else {}

    async def _call(self, hook: Json, request: "_Request", data: Json | None) -> Json | None:
        """One webhook's response; None when it failed and says that failures are ignored."""
        if request.write.dry_run and hook.get("sideEffects") not in ("None", "NoneOnDryRun"):
            raise bad_request(f"admission webhook {hook['name']!r} does not support dry run")
        review = request.review(data)
        try:
            answer = await self._post(hook, review)
            response: Json = answer["response"]
            if response.get("uid") != review["request"]["uid"]:
                raise ValueError("the response is for another request")
        except (aiohttp.ClientError, TimeoutError, OSError, KeyError, TypeError, ValueError) as e:
            if hook.get("failurePolicy") == "Ignore":
                log.warning("webhook %s failed and is ignored: %s", hook["name"], e)
                return None
            reason = str(e) or type(e).__name__
            raise internal(f'failed calling webhook "{hook["name"]}": {reason}') from e
        for warning in response.get("warnings") or ():
            request.write.warn(warning)
        if not response.get("allowed"):
            raise _denied(hook["name"], response.get("status") or {})
        return response

    async def _post(self, hook: Json, review: Json) -> Json:
        config = hook["clientConfig"]
        url = config.get("url") or self._service_url(config["service"])
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False)
        timeout = aiohttp.ClientTimeout(total=hook.get("timeoutSeconds") or 10)
        async with asyncio.timeout(timeout.total):
            async with self._session.post(
                url,
                data=orjson.dumps(review),
                headers={"Content-Type": "application/json"},
                ssl=self._context(config.get("caBundle", "")),
                timeout=timeout,
                allow_redirects=False,
                server_hostname=_server_name(config),
            ) as reply:
                body = await reply.read()
        if reply.status != 200:
            raise ValueError(f"it answered {reply.status}")
        parsed: Json = orjson.loads(body)
        return parsed

    def _context(self, bundle: str) -> ssl.SSLContext:
        if bundle not in self._contexts:
            pem = base64.b64decode(bundle).decode() if bundle else None
            self._contexts[bundle] = ssl.create_default_context(cadata=pem)
        return self._contexts[bundle]

    def _service_url(self, service: Json) -> str:
        """A ready endpoint of a Service."""
        slices = self._store.entries(
            Resource("discovery.k8s.io", "endpointslices"), service["namespace"]
        )
        for entry in slices:
            labels = entry.data["metadata"].get("labels") or {}
            if labels.get("kubernetes.io/service-name") != service["name"]:
                continue
            for endpoint in entry.data.get("endpoints") or ():
                if (endpoint.get("conditions") or {}).get("ready") is not False:
                    port = entry.data["ports"][0]["port"]
                    return f"https://{endpoint['addresses'][0]}:{port}{service.get('path', '/')}"
        raise ValueError(f"service {service['namespace']}/{service['name']} has no ready endpoint")


def _server_name(config: Json) -> str | None:
    service = config.get("service")
    return f"{service['name']}.{service['namespace']}.svc" if service else None


def _denied(name: str, status: Json) -> StatusError:
    message = status.get("message") or status.get("reason") or "without a reason"
    code = int(status.get("code") or 403)
    reason = status.get("reason") or ("Forbidden" if code == 403 else "Invalid")
    text = f'admission webhook "{name}" denied the request: {message}'
    return StatusError(code, reason, text, details=status.get("details"))


class _Request:
    """What is about to happen, as webhooks match it and are told of it."""

    def __init__(
        self, kind: Kind, operation: str, before: Json | None, write: Write, subresource: str
    ) -> None:
        self.kind = kind
        self.operation = operation
        self.before = before
        self.write = write
        self.subresource = subresource

    def is_meant_by(self, hook: Json, data: Json | None, namespace: Json | None) -> bool:
        if not any(self._rule(rule) for rule in hook.get("rules") or ()):
            return False
        if namespace is not None and not matches_selector(hook.get("namespaceSelector"), namespace):
            return False
        objects = [o for o in (data, self.before) if o is not None]
        labels = [o["metadata"].get("labels") or {} for o in objects]
        return any(matches_selector(hook.get("objectSelector"), found) for found in labels)

    def _rule(self, rule: Json) -> bool:
        operations = rule.get("operations") or ()
        if "*" not in operations and self.operation not in operations:
            return False
        groups, versions = rule.get("apiGroups") or (), rule.get("apiVersions") or ()
        if "*" not in groups and self.kind.group not in groups:
            return False
        if "*" not in versions and not set(versions) & set(self.kind.versions):
            return False
        own = f"{self.kind.plural}/{self.subresource}" if self.subresource else self.kind.plural
        wanted = {own, f"*/{self.subresource}" if self.subresource else "*", "*/*"}
        if not wanted & set(rule.get("resources") or ()):
            return False
        scope = rule.get("scope", "*")
        return bool(scope == "*" or (scope == "Namespaced") == self.kind.namespaced)

    def review(self, data: Json | None) -> Json:
        kind, meta = self.kind, (data or self.before or {}).get("metadata", {})
        group_version_kind = {"group": kind.group, "version": kind.versions[0], "kind": kind.name}
        resource = {"group": kind.group, "version": kind.versions[0], "resource": kind.plural}
        return {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": str(uuid.uuid4()),
                "kind": group_version_kind,
                "resource": resource,
                "requestKind": group_version_kind,
                "requestResource": resource,
                "subResource": self.subresource,
                "name": meta.get("name", ""),
                "namespace": meta.get("namespace", ""),
                "operation": self.operation,
                "userInfo": _user(self.write.user),
                "object": data,
                "oldObject": self.before,
                "dryRun": self.write.dry_run,
            },
        }


def _user(user: User) -> Json:
    return {"username": user.name, "uid": user.uid, "groups": list(user.groups)}

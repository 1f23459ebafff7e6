"""Admission webhooks: asked in order of their names, mutating ones before validating ones.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

import base64
import logging
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import orjson

from meltemi.api.kinds import Kind
from meltemi.local.apiserver.accounts import mount_account
from meltemi.local.apiserver.cel.expressions import CelError, Expression
from meltemi.local.apiserver.convert import converted
from meltemi.local.apiserver.errors import StatusError, bad_request, internal
from meltemi.local.apiserver.operations import Write
from meltemi.local.apiserver.patch import json_patch
from meltemi.local.apiserver.reviews import described
from meltemi.local.apiserver.selectors import matches_selector
from meltemi.local.apiserver.store import Resource, Store
from meltemi.local.apiserver.webhooks import Caller, WebhookFailed

log = logging.getLogger(__name__)
Json = dict[str, Any]
_GROUP = "admissionregistration.k8s.io"
_MUTATING = Resource(_GROUP, "mutatingwebhookconfigurations")
_VALIDATING = Resource(_GROUP, "validatingwebhookconfigurations")


class Admission:
    """Calls the webhooks that configurations in the store name."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._caller = Caller(store)
        self._conditions: dict[str, Expression] = {}

    async def close(self) -> None:
        await self._caller.close()

    async def admit(
        self,
        kind: Kind,
        operation: str,
        data: Json | None,
        before: Json | None,
        write: Write,
        subresource: str,
    ) -> Json | None:
        """The object as mutating webhooks leave it. Raises what a refusal or a failure means.

        Webhooks are never asked about webhooks' own configurations.
        """
        if kind.group == _GROUP:
            return data
        happening = _Happening(kind, operation, before, write, subresource)
        data = await self._mutate(happening, data)
        for hook in self._hooks(_VALIDATING):
            rule = self._rule(hook, happening, data)
            if rule is not None:
                await self._ask(hook, rule, happening, data)
        return data

    def _hooks(self, resource: Resource) -> list[Json]:
        return [
            hook
            for entry in self._store.entries(resource)
            for hook in entry.data.get("webhooks") or ()
        ]

    async def _mutate(self, happening: "_Happening", data: Json | None) -> Json | None:
        """Every webhook once; then once more those that want it and came before a change."""
        again: list[Json] = []
        asked: list[Json] = []
        for hook in self._hooks(_MUTATING):
            changed = await self._mutated(hook, happening, data)
            if changed is not data:
                again = [h for h in asked if h.get("reinvocationPolicy") == "IfNeeded"]
            asked.append(hook)
            data = changed
        for hook in again:
            data = await self._mutated(hook, happening, data)
        return data

    async def _mutated(self, hook: Json, happening: "_Happening", data: Json | None) -> Json | None:
        rule = self._rule(hook, happening, data)
        if rule is None:
            return data
        response = await self._ask(hook, rule, happening, data)
        if response is None or not response.get("patch") or data is None:
            return data
        try:
            patch = orjson.loads(base64.b64decode(response["patch"]))
            changed = json_patch(orjson.loads(orjson.dumps(data)), patch)
        except (ValueError, TypeError, StatusError) as error:
            if hook.get("failurePolicy") == "Ignore":
                log.warning("webhook %s: its patch is ignored: %s", hook["name"], error)
                return data
            raise internal(
                f'failed calling webhook "{hook["name"]}": its patch: {error}'
            ) from error
        if changed == data:
            return data
        if happening.kind.name == "Pod" and happening.operation == "CREATE":
            mount_account(self._store, changed)
        changed["apiVersion"] = happening.kind.api_version
        return changed

    def _rule(self, hook: Json, happening: "_Happening", data: Json | None) -> str | None:
        """The version in which a webhook wants to see this; None when it is not meant."""
        version = happening.version_for(hook)
        if version is None:
            return None
        labels = self._namespace_labels(happening, data)
        if labels is not None and not matches_selector(hook.get("namespaceSelector"), labels):
            return None
        objects = [o for o in (data, happening.before) if o is not None]
        found = [o["metadata"].get("labels") or {} for o in objects]
        if not any(matches_selector(hook.get("objectSelector"), own) for own in found):
            return None
        return version if self._conditions_hold(hook, version, happening, data) else None

    def _namespace_labels(self, happening: "_Happening", data: Json | None) -> Json | None:
        """None for what is in no namespace: the selector does not count there."""
        meta = (data or happening.before or {}).get("metadata", {})
        if happening.kind.name == "Namespace":
            return meta.get("labels") or {}
        if not happening.kind.namespaced:
            return None
        found = self._store.get(Resource("", "namespaces"), "", meta.get("namespace", ""))
        return (found.data["metadata"].get("labels") or {}) if found else {}

    def _conditions_hold(
        self, hook: Json, version: str, happening: "_Happening", data: Json | None
    ) -> bool:
        conditions = hook.get("matchConditions") or ()
        if not conditions:
            return True
        request = happening.review(version, data)["request"]
        variables = {
            "object": request["object"], "oldObject": request["oldObject"], "request": request,
        }  # fmt: skip
        failed = ""
        for condition in conditions:
            try:
                if self._expression(condition["expression"]).value(variables) is not True:
                    return False
            except CelError as error:
                failed = f"{condition.get('name')}: {error}"
        if not failed:
            return True
        if hook.get("failurePolicy") == "Ignore":
            return False
        raise internal(f'failed calling webhook "{hook["name"]}": match condition {failed}')

    def _expression(self, text: str) -> Expression:
        if text not in self._conditions:
            self._conditions[text] = Expression(text)
        return self._conditions[text]

    async def _ask(
        self, hook: Json, version: str, happening: "_Happening", data: Json | None
    ) -> Json | None:
        """One webhook's response; None when it failed and says that failures are ignored."""
        write = happening.write
        if write.dry_run and hook.get("sideEffects") not in ("None", "NoneOnDryRun"):
            raise bad_request(f"admission webhook {hook['name']!r} does not support dry run")
        review = happening.review(version, data)
        try:
            response = await self._caller.call(hook, review)
        except WebhookFailed as error:
            if hook.get("failurePolicy") == "Ignore":
                log.warning("webhook %s failed and is ignored: %s", hook["name"], error)
                return None
            raise internal(f'failed calling webhook "{hook["name"]}": {error}') from error
        for warning in response.get("warnings") or ():
            write.warn(str(warning))
        if not response.get("allowed"):
            raise _denied(hook["name"], response.get("status") or {})
        return response


def _denied(name: str, status: Json) -> StatusError:
    message = status.get("message") or status.get("reason")
    said = f": {message}" if message else " without explanation"
    code = status.get("code")
    code = code if isinstance(code, int) and 400 <= code < 600 else 403
    reason = str(status.get("reason") or ("Forbidden" if code == 403 else "Invalid"))
    text = f'admission webhook "{name}" denied the request{said}'
    return StatusError(code, reason, text, details=status.get("details"))


class _Happening(msgspec.Struct, frozen=True):
    """What is about to happen, as webhooks match it and are told of it."""

    kind: Kind
    operation: str
    before: Json | None
    write: Write
    subresource: str

    @property
    def version(self) -> str:
        return self.write.version or self.kind.versions[0]

    def version_for(self, hook: Json) -> str | None:
        """The version asked for where a rule names it; else, with Equivalent, another one."""
        versions = [self.version]
        if hook.get("matchPolicy", "Equivalent") == "Equivalent":
            versions += [v for v in self.kind.versions if v != self.version]
        for version in versions:
            if any(self._matches(rule, version) for rule in hook.get("rules") or ()):
                return version
        return None

    def _matches(self, rule: Json, version: str) -> bool:
        for field, own in (
            ("operations", self.operation),
            ("apiGroups", self.kind.group),
            ("apiVersions", version),
        ):
            listed = rule.get(field) or ()
            if "*" not in listed and own not in listed:
                return False
        if not set(self._resources()) & set(rule.get("resources") or ()):
            return False
        scope = rule.get("scope", "*")
        return bool(scope == "*" or (scope == "Namespaced") == self.kind.namespaced)

    def _resources(self) -> Iterator[str]:
        plural, below = self.kind.plural, self.subresource
        yield "*/*"
        if below:
            yield from (f"{plural}/{below}", f"*/{below}", f"{plural}/*")
        else:
            yield from (plural, "*")

    def review(self, version: str, data: Json | None) -> Json:
        kind, meta = self.kind, (data or self.before or {}).get("metadata", {})
        request: Json = {
            "uid": str(uuid.uuid4()),
            **self._named(version, "kind", "resource"),
            **self._named(self.version, "requestKind", "requestResource"),
            "name": meta.get("name", ""),
            "namespace": meta.get("namespace", ""),
            "operation": self.operation,
            "userInfo": described(self.write.user),
            "object": self._shown(version, data),
            "oldObject": self._shown(version, self.before),
            "dryRun": self.write.dry_run,
            "options": {
                "kind": f"{self.operation.title()}Options",
                "apiVersion": "meta.k8s.io/v1",
                **self.write.options,
            },
        }
        if kind.name == "Namespace":
            request["namespace"] = meta.get("name", "")
        if self.subresource:
            request["subResource"] = request["requestSubResource"] = self.subresource
        return {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": request,
        }

    def _named(self, version: str, kind: str, resource: str) -> Json:
        base = {"group": self.kind.group, "version": version}
        return {
            kind: {**base, "kind": self.kind.name},
            resource: {**base, "resource": self.kind.plural},
        }

    def _shown(self, version: str, data: Json | None) -> Json | None:
        if data is None or version == self.kind.versions[0]:
            return data
        written = f"{self.kind.group}/{version}" if self.kind.group else version
        return {**converted(self.kind, version, data), "apiVersion": written}

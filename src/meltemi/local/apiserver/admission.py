"""Admission: mutating webhooks, then policies, then validating webhooks, by their names.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

import base64
import logging
from typing import Any

import orjson

from meltemi.api.kinds import Kind
from meltemi.local.apiserver.accounts import mount_account
from meltemi.local.apiserver.cel import access
from meltemi.local.apiserver.cel.expressions import CelError, Expression
from meltemi.local.apiserver.cel.functions import AUTHORIZER
from meltemi.local.apiserver.errors import StatusError, bad_request, internal
from meltemi.local.apiserver.happening import Happening
from meltemi.local.apiserver.operations import Write
from meltemi.local.apiserver.patch import json_patch
from meltemi.local.apiserver.policies import Policies
from meltemi.local.apiserver.rbac import Authorizer
from meltemi.local.apiserver.store import Resource, Store
from meltemi.local.apiserver.webhooks import Caller, WebhookFailed

log = logging.getLogger(__name__)
Json = dict[str, Any]
_GROUP = "admissionregistration.k8s.io"
_MUTATING = Resource(_GROUP, "mutatingwebhookconfigurations")
_VALIDATING = Resource(_GROUP, "validatingwebhookconfigurations")


class Admission:
    """Calls the webhooks and checks the policies that are in the store."""

    def __init__(self, store: Store, policies: Policies, authorizer: Authorizer) -> None:
        self._store = store
        self._authorizer = authorizer
        self._policies = policies
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
        happening = Happening(kind, operation, before, write, subresource)
        data = await self._mutate(happening, data)
        self._policies.check(happening, data)
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

    async def _mutate(self, happening: Happening, data: Json | None) -> Json | None:
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

    async def _mutated(self, hook: Json, happening: Happening, data: Json | None) -> Json | None:
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

    def _rule(self, hook: Json, happening: Happening, data: Json | None) -> str | None:
        """The version in which a webhook wants to see this; None when it is not meant."""
        version = happening.matched(hook, data, self._store)
        if version is None:
            return None
        return version if self._conditions_hold(hook, version, happening, data) else None

    def _conditions_hold(
        self, hook: Json, version: str, happening: Happening, data: Json | None
    ) -> bool:
        conditions = hook.get("matchConditions") or ()
        if not conditions:
            return True
        request = happening.review(version, data)["request"]
        variables = {
            "object": request["object"], "oldObject": request["oldObject"], "request": request,
            "authorizer": access.value(happening, request["namespace"], request["name"]),
        }  # fmt: skip
        functions = access.functions(self._authorizer, happening.write.user)
        failed = ""
        for condition in conditions:
            try:
                expression = self._expression(condition["expression"])
                if expression.value(variables, functions) is not True:
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
            self._conditions[text] = Expression(text, functions=AUTHORIZER)
        return self._conditions[text]

    async def _ask(
        self, hook: Json, version: str, happening: Happening, data: Json | None
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

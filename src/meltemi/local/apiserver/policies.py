"""ValidatingAdmissionPolicies: rules in CEL for whatever is written, checked where it is written.

A policy says what must hold, a binding where, with which parameters, and what becomes of a breach:
it is refused, warned of, or noted in the audit log.
https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import orjson

from meltemi.local.apiserver.cel import access
from meltemi.local.apiserver.cel.expressions import CelError, Expression, Functions
from meltemi.local.apiserver.cel.functions import AUTHORIZER
from meltemi.local.apiserver.errors import StatusError, resource_name
from meltemi.local.apiserver.happening import Happening
from meltemi.local.apiserver.policy_checks import CODES, VARIABLE
from meltemi.local.apiserver.rbac import Authorizer
from meltemi.local.apiserver.registry import Registry, resource_of
from meltemi.local.apiserver.selectors import matches_selector
from meltemi.local.apiserver.store import Entry, Resource, Store

Json = dict[str, Any]
GROUP = "admissionregistration.k8s.io"
POLICIES = Resource(GROUP, "validatingadmissionpolicies")
_BINDINGS = Resource(GROUP, "validatingadmissionpolicybindings")


class Breach(msgspec.Struct, frozen=True):
    """A validation that does not hold, or that could not be evaluated."""

    index: int
    message: str
    reason: str = "Invalid"


class _Compiled:
    """A policy's expressions."""

    def __init__(self, policy: Json) -> None:
        self.spec = spec = policy["spec"]
        self.name = str(policy["metadata"]["name"])
        self.is_fatal = spec.get("failurePolicy", "Fail") != "Ignore"
        self.conditions = self._all("matchConditions")
        self.validations = self._all("validations")
        self.messages = self._all("validations", "messageExpression")
        self.annotations = self._all("auditAnnotations", "valueExpression")
        self.variables = {
            v["name"]: Expression(v["expression"], functions=AUTHORIZER)
            for v in spec.get("variables") or ()
        }

    def _all(self, field: str, word: str = "expression") -> list[Expression | None]:
        return [
            Expression(item[word], functions=AUTHORIZER) if item.get(word) else None
            for item in self.spec.get(field) or ()
        ]


class _Scope:
    """What the expressions of one evaluation see; variables are worked out when they are used."""

    def __init__(
        self, compiled: _Compiled, values: Mapping[str, Any], functions: Functions
    ) -> None:
        self._compiled = compiled
        self._functions = functions
        self._variables: Json = {}
        self._failed: dict[str, CelError] = {}
        self._values = {**values, "variables": self._variables}

    def value(self, expression: Expression) -> Any:
        """An expression's value. Raises CelError."""
        used = VARIABLE.findall(expression.text)
        for name in used:
            self._resolve(name)
        try:
            return expression.value(self._values, self._functions)
        except CelError as error:
            for name in used:
                if name in self._failed:
                    raise CelError(f"variable {name}: {self._failed[name]}") from error
            raise

    def _resolve(self, name: str) -> None:
        expression = self._compiled.variables.get(name)
        if expression is None or name in self._variables or name in self._failed:
            return
        try:
            self._variables[name] = self.value(expression)
        except CelError as error:
            self._failed[name] = error


class Policies:
    """Checks what is about to happen against the policies and bindings in the store."""

    def __init__(self, store: Store, registry: Registry, authorizer: Authorizer) -> None:
        self._store = store
        self._registry = registry
        self._authorizer = authorizer
        self._compiled: dict[str, tuple[Entry, _Compiled]] = {}

    def check(self, happening: Happening, data: Json | None) -> None:
        """Warn, note and refuse as bindings say. Raises the first refusal."""
        bindings = [entry.data for entry in self._store.durable_entries(_BINDINGS)]
        if not bindings:
            return
        refusal: StatusError | None = None
        failures: list[Json] = []
        for entry in self._store.durable_entries(POLICIES):
            for binding in bindings:
                if binding["spec"]["policyName"] != entry.name:
                    continue
                for breach in self._breaches(self._of(entry), binding, happening, data):
                    refused = _act(happening, data, entry.name, binding, breach, failures)
                    refusal = refusal or refused
        if failures:
            word = "validation.policy.admission.k8s.io/validation_failure"
            happening.write.annotate(word, orjson.dumps(failures).decode())
        if refusal is not None:
            raise refusal

    def _of(self, entry: Entry) -> _Compiled:
        kept = self._compiled.get(entry.name)
        if kept is None or kept[0] is not entry:
            kept = self._compiled[entry.name] = (entry, _Compiled(entry.data))
        return kept[1]

    def _breaches(
        self, policy: _Compiled, binding: Json, happening: Happening, data: Json | None
    ) -> Iterator[Breach]:
        """What a binding of a policy finds wrong; nothing where it is not meant."""
        spec = binding["spec"]
        version = happening.matched(policy.spec["matchConstraints"], data, self._store)
        if version is None:
            return
        narrower = spec.get("matchResources") or {}
        if happening.matched(narrower, data, self._store, without_rules=True) is None:
            return
        try:
            given = self._parameters(policy, spec, happening, data)
        except LookupError as error:
            if policy.is_fatal:
                yield Breach(0, str(error))
            return
        for params in given:
            scope = self._scope(policy, happening, version, data, params)
            yield from _evaluated(policy, scope, happening)

    def _parameters(
        self, policy: _Compiled, spec: Json, happening: Happening, data: Json | None
    ) -> list[Json | None]:
        """The objects a binding passes to its policy. Raises LookupError."""
        wanted, reference = policy.spec.get("paramKind"), spec.get("paramRef")
        if not wanted or not reference:
            return [None]
        kind = self._registry.named(wanted["apiVersion"], wanted["kind"])
        if kind is None:
            raise LookupError(
                f"failed to configure policy: paramKind {wanted['kind']} of "
                f"{wanted['apiVersion']} is not served"
            )
        own = (data or happening.before or {}).get("metadata", {}).get("namespace", "")
        place = (reference.get("namespace") or own) if kind.namespaced else ""
        if kind.namespaced and not place:
            raise LookupError(
                "failed to configure binding: paramRef.namespace must be set for objects that are "
                "in no namespace"
            )
        if reference.get("name"):
            one = self._store.durable(resource_of(kind), place, reference["name"])
            found = [one.data] if one is not None else []
        else:
            found = [
                entry.data
                for entry in self._store.durable_entries(resource_of(kind), place)
                if matches_selector(
                    reference.get("selector"), entry.data["metadata"].get("labels") or {}
                )
            ]
        if not found and reference.get("parameterNotFoundAction") != "Allow":
            raise LookupError(
                "failed to configure binding: no params found for policy binding with `Deny` "
                "parameterNotFoundAction"
            )
        return list(found)

    def _scope(
        self,
        policy: _Compiled,
        happening: Happening,
        version: str,
        data: Json | None,
        params: Json | None,
    ) -> _Scope:
        request = happening.review(version, data)["request"]
        values = {
            "object": request.pop("object"),
            "oldObject": request.pop("oldObject"),
            "request": request,
            "namespaceObject": happening.namespace(data, self._store),
            "params": params,
            "authorizer": access.value(happening, request["namespace"], request["name"]),
        }
        user = happening.write.user
        return _Scope(policy, values, access.functions(self._authorizer, user))


def conditions_hold(
    conditions: list[Json], expressions: list[Expression | None], scope: _Scope
) -> bool:
    """Whether all match conditions are true; a false one counts more than a failed one."""
    failed: CelError | None = None
    for condition, expression in zip(conditions, expressions, strict=True):
        assert expression is not None
        try:
            if scope.value(expression) is not True:
                return False
        except CelError as error:
            failed = CelError(f"match condition {condition.get('name')}: {error}")
    if failed is not None:
        raise failed
    return True


def _evaluated(policy: _Compiled, scope: _Scope, happening: Happening) -> Iterator[Breach]:
    try:
        if not conditions_hold(policy.spec.get("matchConditions") or [], policy.conditions, scope):
            return
    except CelError as error:
        if policy.is_fatal:
            yield Breach(0, str(error))
        return
    for i, expression in enumerate(policy.validations):
        assert expression is not None
        written = policy.spec["validations"][i]
        try:
            holds = scope.value(expression)
        except CelError as error:
            if policy.is_fatal:
                yield Breach(i, f"expression '{expression.text}' resulted in error: {error}")
            continue
        if holds is not True:
            yield Breach(i, _message(policy, i, scope), written.get("reason") or "Invalid")
    _annotate(policy, scope, happening)


def _message(policy: _Compiled, index: int, scope: _Scope) -> str:
    """What a validation says when it does not hold."""
    written, said = policy.spec["validations"][index], policy.messages[index]
    if said is not None:
        try:
            text = scope.value(said)
        except CelError:
            text = ""
        if isinstance(text, str) and text.strip() and "\n" not in text:
            return text.strip()
    return str(written.get("message") or f"failed expression: {written['expression'].strip()}")


def _annotate(policy: _Compiled, scope: _Scope, happening: Happening) -> None:
    """Put what the policy wants to be known into the audit log."""
    for written, expression in zip(
        policy.spec.get("auditAnnotations") or (), policy.annotations, strict=True
    ):
        assert expression is not None
        try:
            text = scope.value(expression)
        except CelError as error:
            text = f"failed: {error}"
        if isinstance(text, str) and text:
            happening.write.annotate(f"{policy.name}/{written['key']}", text)


def _act(
    happening: Happening,
    data: Json | None,
    policy: str,
    binding: Json,
    breach: Breach,
    failures: list[Json],
) -> StatusError | None:
    """Do what a binding says about a breach; the refusal where it refuses."""
    actions, name = binding["spec"]["validationActions"], binding["metadata"]["name"]
    about = f"ValidatingAdmissionPolicy '{policy}' with binding '{name}'"
    if "Warn" in actions:
        happening.write.warn(f"Validation failed for {about}: {breach.message}")
    if "Audit" in actions:
        failures.append(
            {
                "message": breach.message,
                "policy": policy,
                "binding": name,
                "expressionIndex": breach.index,
                "validationActions": actions,
            }
        )
    if "Deny" not in actions:
        return None
    kind = happening.kind
    own = str((data or happening.before or {}).get("metadata", {}).get("name", ""))
    text = f"{about} denied request: {breach.message}"
    return StatusError(
        CODES.get(breach.reason, 422),
        breach.reason,
        f'{resource_name(kind.plural, kind.group)} "{own}" is forbidden: {text}',
        details={
            "name": own, "group": kind.group, "kind": kind.plural, "causes": [{"message": text}]
        },
    )  # fmt: skip

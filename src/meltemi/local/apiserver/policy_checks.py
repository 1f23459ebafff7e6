"""What the API refuses in admission policies and their bindings, with the field named."""

import re
from collections.abc import Iterator
from typing import Any

from meltemi.local.apiserver.cel.expressions import CelError, Expression
from meltemi.local.apiserver.cel.functions import AUTHORIZER

Json = dict[str, Any]
Cause = tuple[str, str]
_NAME = re.compile(r"[A-Za-z_]\w*")
_KEY = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
CODES = {"Unauthorized": 401, "Forbidden": 403, "RequestEntityTooLarge": 413, "Invalid": 422}
"""Reasons a validation may give, and the HTTP code of each."""
VARIABLE = re.compile(r"\bvariables\.([A-Za-z_]\w*)")
"""Where an expression uses a variable of its policy."""


def known(spec: Json, *, variables: bool = True) -> tuple[str, ...]:
    """The variables that expressions of a policy may use."""
    names = ["object", "oldObject", "request", "namespaceObject", "authorizer"]
    names += ["params"] if spec.get("paramKind") else []
    return (*names, "variables") if variables else tuple(names)


def policy_causes(data: Json, _before: Json | None) -> Iterator[Cause]:
    spec = data.get("spec") or {}
    if not spec.get("matchConstraints"):
        yield "spec.matchConstraints", "Required value"
    else:
        yield from _match(spec["matchConstraints"], "spec.matchConstraints")
    if not spec.get("validations") and not spec.get("auditAnnotations"):
        yield (
            "spec.validations",
            "Required value: validations or auditAnnotations must contain at least one item",
        )
    kind = spec.get("paramKind")
    if kind:
        for field in ("apiVersion", "kind"):
            if not kind.get(field):
                yield f"spec.paramKind.{field}", "Required value"
    yield from _variables(spec)
    for i, condition in enumerate(spec.get("matchConditions") or ()):
        where = f"spec.matchConditions[{i}].expression"
        yield from _expression(condition.get("expression"), where, spec, variables=False)
    for i, validation in enumerate(spec.get("validations") or ()):
        where = f"spec.validations[{i}]"
        yield from _expression(validation.get("expression"), f"{where}.expression", spec)
        if validation.get("messageExpression"):
            said = f"{where}.messageExpression"
            yield from _expression(validation["messageExpression"], said, spec)
        reason = validation.get("reason")
        if reason and reason not in CODES:
            listed = ", ".join(f'"{word}"' for word in CODES)
            yield f"{where}.reason", f'Unsupported value: "{reason}": supported values: {listed}'
    for i, annotation in enumerate(spec.get("auditAnnotations") or ()):
        where = f"spec.auditAnnotations[{i}]"
        if not _KEY.fullmatch(str(annotation.get("key", ""))):
            yield f"{where}.key", f'Invalid value: "{annotation.get("key", "")}": not a name'
        yield from _expression(annotation.get("valueExpression"), f"{where}.valueExpression", spec)


def _variables(spec: Json) -> Iterator[Cause]:
    """A variable may use those before it."""
    earlier: set[str] = set()
    for i, variable in enumerate(spec.get("variables") or ()):
        where, name = f"spec.variables[{i}]", str(variable.get("name", ""))
        if not _NAME.fullmatch(name):
            yield f"{where}.name", f'Invalid value: "{name}": name is not a valid CEL identifier'
        text = variable.get("expression")
        yield from _expression(text, f"{where}.expression", spec, declared=earlier)
        earlier.add(name)


def _expression(
    text: Any, where: str, spec: Json, *, variables: bool = True, declared: set[str] | None = None
) -> Iterator[Cause]:
    if not text:
        yield where, "Required value"
        return
    if declared is None:
        declared = {str(v.get("name", "")) for v in spec.get("variables") or ()}
    try:
        Expression(str(text), known(spec, variables=variables), AUTHORIZER)
    except CelError as error:
        yield where, f"Invalid value: compilation failed: {error}"
        return
    for name in VARIABLE.findall(str(text)):
        if name not in declared:
            yield where, f"Invalid value: compilation failed: undefined field '{name}' of variables"


def _match(match: Json, where: str, *, needs_rules: bool = True) -> Iterator[Cause]:
    if needs_rules and not match.get("resourceRules"):
        yield f"{where}.resourceRules", "Required value"
    for field in ("resourceRules", "excludeResourceRules"):
        for i, rule in enumerate(match.get(field) or ()):
            for part in ("operations", "apiGroups", "apiVersions", "resources"):
                if not rule.get(part):
                    yield f"{where}.{field}[{i}].{part}", "Required value"


def binding_causes(data: Json, _before: Json | None) -> Iterator[Cause]:
    spec = data.get("spec") or {}
    if not spec.get("policyName"):
        yield "spec.policyName", "Required value"
    actions = spec.get("validationActions") or ()
    if not actions:
        yield "spec.validationActions", "Required value"
    if {"Deny", "Warn"} <= set(actions):
        yield (
            "spec.validationActions",
            "Invalid value: must not contain both Deny and Warn, which would say the same twice",
        )
    reference = spec.get("paramRef")
    if reference:
        if bool(reference.get("name")) == bool("selector" in reference):
            yield "spec.paramRef", "Required value: exactly one of name or selector"
        action = reference.get("parameterNotFoundAction")
        if action not in ("Allow", "Deny"):
            yield (
                "spec.paramRef.parameterNotFoundAction",
                f'Unsupported value: "{action or ""}": supported values: "Allow", "Deny"',
            )
    if spec.get("matchResources"):
        yield from _match(spec["matchResources"], "spec.matchResources", needs_rules=False)

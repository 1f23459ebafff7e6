"""Type checking of admission policies: fields that the objects they are about do not have.

Only said in the policy's status, as on Kubernetes; kinds named by `*` are not looked at.
"""

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

from meltemi.local.apiserver.registry import Registry
from meltemi.local.apiserver.schema.node import Node

Json = dict[str, Any]
_TEXT = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_CHAIN = re.compile(r"(?<![\w.])(?:object|oldObject)((?:\.[A-Za-z_]\w*)+)(\()?")


def policy_status(data: Json, registry: Registry) -> Json | None:
    """The status of a policy; None when it says so already."""
    warnings = [
        {"fieldRef": where, "warning": text}
        for where, expression in _expressions(data["spec"])
        if (text := "; ".join(_missing(expression, data["spec"], registry)))
    ]
    wanted = {
        "observedGeneration": data["metadata"].get("generation", 1),
        "typeChecking": {"expressionWarnings": warnings} if warnings else {},
    }
    return None if data.get("status") == wanted else wanted


def _expressions(spec: Json) -> Iterator[tuple[str, str]]:
    for field, word in (
        ("validations", "expression"),
        ("validations", "messageExpression"),
        ("variables", "expression"),
        ("matchConditions", "expression"),
    ):
        for i, item in enumerate(spec.get(field) or ()):
            if item.get(word):
                yield f"spec.{field}[{i}].{word}", item[word]


def _missing(expression: str, spec: Json, registry: Registry) -> list[str]:
    """What an expression reads that some kind it is about has not."""
    bare = _TEXT.sub("''", expression)
    found: dict[str, None] = {}
    for name, node in _kinds(spec, registry):
        for chain, call in _CHAIN.findall(bare):
            steps = chain[1:].split(".")
            step = _unknown(node, steps[:-1] if call else steps)
            if step:
                found[f"{name}: undefined field '{step}'"] = None
    return list(found)


def _kinds(spec: Json, registry: Registry) -> Iterator[tuple[str, Node]]:
    for rule in (spec.get("matchConstraints") or {}).get("resourceRules") or ():
        words = (rule.get(field) or () for field in ("apiGroups", "apiVersions", "resources"))
        for group, version, plural in product(*words):
            kind = registry.at(group, version, plural)
            node = registry.node(kind, version) if kind is not None else None
            if kind is not None and node is not None:
                yield f"{group or 'core'}/{version}, Kind={kind.name}", node


def _unknown(node: Node, steps: list[str]) -> str:
    """The first step of a path that leads nowhere; empty when all is well, or cannot be known."""
    for step in steps:
        if node.word != "object" or node.keeps_unknown:
            return ""
        if step not in node.fields:
            return step
        node = node.fields[step]
    return ""

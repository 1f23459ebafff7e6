"""`authorizer` in CEL: whether somebody may do something, asked in the middle of an expression.

https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-authorizer-library
"""

from collections.abc import Callable, Mapping
from typing import Any

from meltemi.local.apiserver.happening import Happening
from meltemi.local.apiserver.operations import User
from meltemi.local.apiserver.rbac import Attributes, Authorizer

Json = dict[str, Any]


def value(happening: Happening, namespace: str, name: str) -> Json:
    """`authorizer` itself: questions are maps that the functions below add to."""
    kind = happening.kind
    asked = {
        "$check": True, "group": kind.group, "resource": kind.plural, "namespace": namespace,
        "name": name, "subresource": happening.subresource,
    }  # fmt: skip
    return {"$check": True, "requestResource": asked}


def functions(authorizer: Authorizer, user: User) -> Mapping[str, Callable[..., Any]]:
    """The functions on such questions, for the user who makes the request."""

    def adds(field: str) -> Callable[[Json, str], Json]:
        return lambda asked, text: {**asked, field: text}

    def check(asked: Json, verb: str) -> Json:
        whose = _account(asked["account"]) if "account" in asked else user
        fields = ("group", "resource", "subresource", "namespace", "name", "path")
        attributes = Attributes(verb, **{f: str(asked.get(f, "")) for f in fields})
        reason = authorizer.decide(whose, attributes)
        return {"$decision": reason is not None, "reason": reason or ""}

    return {
        **{name: adds(name) for name in ("group", "resource", "subresource", "namespace", "name",
                                         "path")},
        "serviceAccount": lambda asked, space, name: {**asked, "account": [space, name]},
        "check": check,
        "allowed": lambda decision: decision["$decision"],
        "reason": lambda decision: decision["reason"],
        "errored": lambda _decision: False,
        "error": lambda _decision: "",
    }  # fmt: skip


def _account(account: list[str]) -> User:
    namespace, name = account
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}",
              "system:authenticated")  # fmt: skip
    return User(f"system:serviceaccount:{namespace}:{name}", groups=groups)

"""Reviews: questions asked by creating an object that is answered and never stored."""

from typing import Any

from meltemi.local.apiserver.authn import Tokens
from meltemi.local.apiserver.errors import bad_request
from meltemi.local.apiserver.operations import User
from meltemi.local.apiserver.rbac import Attributes, Authorizer

Json = dict[str, Any]
KINDS = {
    "tokenreviews": "authentication.k8s.io",
    "selfsubjectreviews": "authentication.k8s.io",
    "selfsubjectaccessreviews": "authorization.k8s.io",
    "subjectaccessreviews": "authorization.k8s.io",
    "localsubjectaccessreviews": "authorization.k8s.io",
    "selfsubjectrulesreviews": "authorization.k8s.io",
}


def answer(
    plural: str, namespace: str, body: Json, user: User, tokens: Tokens, authorizer: Authorizer
) -> Json:
    """The answered review."""
    spec = body.get("spec") or {}
    if not isinstance(spec, dict):
        raise bad_request("spec: expected an object")
    match plural:
        case "tokenreviews":
            status = _token(spec, tokens)
        case "selfsubjectreviews":
            status = {"userInfo": described(user)}
        case "selfsubjectaccessreviews":
            status = _access(authorizer, user, spec)
        case "selfsubjectrulesreviews":
            status = _rules(authorizer, user, str(spec.get("namespace") or ""))
        case _:
            asked = spec.get("resourceAttributes") or {}
            if namespace and asked.get("namespace") != namespace:
                raise bad_request(
                    f"spec.resourceAttributes.namespace: must match metadata.namespace {namespace}"
                )
            status = _access(authorizer, _other(spec), spec)
    meta = {**(body.get("metadata") or {}), "creationTimestamp": None}
    return {**body, "metadata": meta, "status": status}


def _token(spec: Json, tokens: Tokens) -> Json:
    token = spec.get("token")
    if not isinstance(token, str) or not token:
        raise bad_request("spec.token: a token to review is required")
    found = tokens.verify(token, tuple(spec.get("audiences") or ()))
    if found is None:
        return {"authenticated": False, "error": "the token is not valid"}
    user, audiences = found
    return {"authenticated": True, "user": described(user), "audiences": list(audiences)}


def _other(spec: Json) -> User:
    if not spec.get("user") and not spec.get("groups"):
        raise bad_request("spec.user: at least one of user or groups must be specified")
    return User(
        str(spec.get("user") or ""),
        uid=str(spec.get("uid") or ""),
        groups=tuple(spec.get("groups") or ()),
    )


def _access(authorizer: Authorizer, user: User, spec: Json) -> Json:
    reason = authorizer.decide(user, _attributes(spec))
    if reason is None:
        return {"allowed": False}
    return {"allowed": True, "reason": reason} if reason else {"allowed": True}


def _attributes(spec: Json) -> Attributes:
    path = spec.get("nonResourceAttributes")
    if path:
        return Attributes(str(path.get("verb", "")), path=str(path.get("path", "")))
    asked = spec.get("resourceAttributes")
    if not isinstance(asked, dict):
        raise bad_request(
            "spec.resourceAttributes: exactly one of resourceAttributes and nonResourceAttributes "
            "must be specified"
        )
    return Attributes(
        verb=str(asked.get("verb") or ""),
        group=str(asked.get("group") or ""),
        resource=str(asked.get("resource") or ""),
        subresource=str(asked.get("subresource") or ""),
        namespace=str(asked.get("namespace") or ""),
        name=str(asked.get("name") or ""),
    )


def _rules(authorizer: Authorizer, user: User, namespace: str) -> Json:
    resources, paths = [], []
    rules = [grant.rule for grant in authorizer.grants(user, namespace)]
    for rule in rules:
        if rule.get("nonResourceURLs"):
            paths.append({k: rule[k] for k in ("verbs", "nonResourceURLs")})
        if rule.get("resources"):
            names = ("verbs", "apiGroups", "resources", "resourceNames")
            resources.append({k: rule[k] for k in names if rule.get(k)})
    return {"resourceRules": resources, "nonResourceRules": paths, "incomplete": False}


def described(user: User) -> Json:
    """A user as reviews and admission show them."""
    found: Json = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        found["uid"] = user.uid
    if user.extra:
        found["extra"] = user.extra
    return found

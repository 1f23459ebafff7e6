"""Reviews: questions asked by creating an object that is answered and never stored."""

from typing import Any

from meltemi.local.apiserver.authn import Tokens
from meltemi.local.apiserver.errors import bad_request
from meltemi.local.apiserver.operations import User

Json = dict[str, Any]


def answer(plural: str, body: Json, user: User, tokens: Tokens) -> Json | None:
    """The answered review; None for what is not a review."""
    spec = body.get("spec") or {}
    match plural:
        case "tokenreviews":
            status = _token(spec, tokens)
        case "selfsubjectreviews":
            status = {"userInfo": _user(user)}
        case "selfsubjectaccessreviews":
            status = _access(user.groups)
        case "subjectaccessreviews":
            status = _access(tuple(spec.get("groups") or ()))
        case "selfsubjectrulesreviews":
            everything = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]
            status = {"resourceRules": everything, "nonResourceRules": [], "incomplete": False}
        case _:
            return None
    return {**body, "metadata": body.get("metadata") or {}, "status": status}


def _token(spec: Json, tokens: Tokens) -> Json:
    token = spec.get("token")
    if not isinstance(token, str) or not token:
        raise bad_request("spec.token: a token to review is required")
    found = tokens.verify(token, tuple(spec.get("audiences") or ()))
    if found is None:
        return {"authenticated": False, "error": "the token is not valid"}
    user, audiences = found
    return {"authenticated": True, "user": _user(user), "audiences": list(audiences)}


def _access(groups: tuple[str, ...]) -> Json:
    """Whoever is authenticated may do everything: rules are stored, and not evaluated yet."""
    allowed = "system:masters" in groups or "system:authenticated" in groups
    return {"allowed": allowed, "reason": "" if allowed else "the caller is not authenticated"}


def _user(user: User) -> Json:
    found: Json = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        found["uid"] = user.uid
    if user.extra:
        found["extra"] = user.extra
    return found

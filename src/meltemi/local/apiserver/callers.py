"""Who sends a request: by certificate or token, and whom they act for.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation
"""

from urllib.parse import unquote

from aiohttp import web

from meltemi.local.apiserver.authn import Tokens, user_from_certificate
from meltemi.local.apiserver.errors import bad_request, unauthorized
from meltemi.local.apiserver.operations import User
from meltemi.local.apiserver.rbac import Attributes, Authorizer

ANONYMOUS = User("system:anonymous", groups=("system:unauthenticated",))
_ACCOUNT = "system:serviceaccount:"
_EXTRA = "impersonate-extra-"


class Callers:
    """Authenticates requests."""

    def __init__(self, tokens: Tokens, authorizer: Authorizer) -> None:
        self._tokens = tokens
        self._authorizer = authorizer

    def caller(self, request: web.Request) -> User:
        """Who sends a request. Anonymous callers may ask for the version only; raises a 401."""
        header = request.headers.get("Authorization", "")
        if header:
            scheme, _, token = header.partition(" ")
            found = self._tokens.verify(token.strip(), ()) if scheme.lower() == "bearer" else None
            if found is None:
                raise unauthorized()
            return found[0]
        peer = request.transport.get_extra_info("peercert") if request.transport else None
        user = user_from_certificate(peer)
        if user is None and request.path.rstrip("/") != "/version":
            raise unauthorized()
        return user or ANONYMOUS

    def impersonated(self, request: web.Request, user: User) -> User | None:
        """Whom the caller acts for, if for anybody. Raises a 403 when they may not."""
        headers = request.headers
        name = headers.get("Impersonate-User", "")
        groups = tuple(headers.getall("Impersonate-Group", []))
        uid = headers.get("Impersonate-Uid", "")
        extra: dict[str, list[str]] = {}
        for key, value in headers.items():
            if key.lower().startswith(_EXTRA):
                extra.setdefault(unquote(key[len(_EXTRA) :].lower()), []).append(value)
        if not name:
            if groups or uid or extra:
                raise bad_request("Impersonate-User is required with the other Impersonate headers")
            return None
        for asked in _needed(name, groups, uid, extra):
            self._authorizer.require(user, asked)
        if name.startswith(_ACCOUNT):
            namespace = name.removeprefix(_ACCOUNT).partition(":")[0]
            groups = groups or ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
        if name != ANONYMOUS.name and "system:authenticated" not in groups:
            groups = (*groups, "system:authenticated")
        return User(name, uid, groups, extra)


def _needed(
    name: str, groups: tuple[str, ...], uid: str, extra: dict[str, list[str]]
) -> list[Attributes]:
    """What has to be allowed to the caller."""
    if name.startswith(_ACCOUNT):
        namespace, _, account = name.removeprefix(_ACCOUNT).partition(":")
        needed = [Attributes("impersonate", "", "serviceaccounts", "", namespace, account)]
    else:
        needed = [Attributes("impersonate", "", "users", "", "", name)]
    needed += [Attributes("impersonate", "", "groups", "", "", group) for group in groups]
    group = "authentication.k8s.io"
    if uid:
        needed.append(Attributes("impersonate", group, "uids", "", "", uid))
    needed += [
        Attributes("impersonate", group, "userextras", key, "", value)
        for key, values in extra.items()
        for value in values
    ]
    return needed

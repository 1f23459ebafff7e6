"""One connection pool to one API server.

Bytes in and out where volume matters (`get_raw`, `list_raw`, `watch`); decoded JSON where it does
not. Every failure is an exception of `kube.errors`. TLS is always verified.
"""

import datetime
import enum
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import msgspec
from yarl import URL

from meltemi.api.meta import Json
from meltemi.base.clock import Clock, SystemClock
from meltemi.base.keys import ObjectKey
from meltemi.base.redacted import Redacted
from meltemi.kube import paths
from meltemi.kube.errors import KubeError, Unavailable, error_from_response
from meltemi.kube.kubeconfig import Access, ssl_context
from meltemi.kube.paths import Selection

JsonObject = dict[str, Json]
JsonList = list[Json]
JsonObjects = list[JsonObject]
Body = bytes | Mapping[str, Json]

_JSON = "application/json"
_TOKEN_FILE_AGE = 60.0
"""Seconds a token file's content is trusted; kubelets rewrite it long before it expires."""


class Patch(enum.Enum):
    """The four forms of PATCH, by media type."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


class Token(msgspec.Struct, frozen=True):
    """A service account's token, fresh from the TokenRequest API."""

    secret: Redacted
    expires: datetime.datetime


class Review(msgspec.Struct, frozen=True):
    """What TokenReview says about a bearer token."""

    authenticated: bool
    username: str = ""
    groups: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = {}
    error: str = ""
    """Why it was refused; for our log only."""


class AccessQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """May this user do this in a namespace?"""

    user: str
    groups: tuple[str, ...]
    namespace: str
    verb: str
    resource: str
    group: str = ""


class _AccessStatus(msgspec.Struct, frozen=True):
    allowed: bool = False


class _AccessReply(msgspec.Struct, frozen=True):
    status: _AccessStatus = _AccessStatus()


class _ReviewUser(msgspec.Struct, frozen=True):
    username: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = {}


class _ReviewStatus(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _ReviewUser = _ReviewUser()
    audiences: tuple[str, ...] = ()
    error: str = ""


class _ReviewReply(msgspec.Struct, frozen=True):
    status: _ReviewStatus = _ReviewStatus()


class _TokenStatus(msgspec.Struct, frozen=True, rename="camel"):
    token: str
    expiration_timestamp: datetime.datetime


class _TokenReply(msgspec.Struct, frozen=True):
    status: _TokenStatus


class Client:
    """Calls the API as one user. Use as an async context manager; safe for concurrent calls."""

    def __init__(
        self,
        access: Access,
        *,
        user_agent: str = "meltemi",
        clock: Clock | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._access = access
        self._user_agent = user_agent
        self._clock = clock or SystemClock()
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=5.0)
        self._ssl: ssl.SSLContext | None = ssl_context(access)
        self._session: aiohttp.ClientSession | None = None
        self._file_token = ""
        self._file_token_read = float("-inf")

    async def __aenter__(self) -> Self:
        # True: the default, verifying context; reached only by plain http, which ignores it.
        connector = aiohttp.TCPConnector(
            limit=0, ssl=self._ssl if self._ssl is not None else True, keepalive_timeout=75.0
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": self._user_agent},
            timeout=self._timeout,
            auto_decompress=True,
            read_bufsize=1 << 20,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def namespace(self) -> str:
        """The namespace the kubeconfig's context works in; bodies that name none go there."""
        return self._access.namespace

    async def get(self, key: ObjectKey) -> JsonObject:
        return _object(await self.get_raw(key))

    async def get_raw(self, key: ObjectKey) -> bytes:
        return await self.request("GET", paths.object_path(key))

    async def list(
        self, kind: str, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> JsonObjects:
        """All objects of a selection, decoded."""
        body = await self.list_raw(Selection(kind, namespace, labels, fields))
        items: JsonObjects = _object(body).get("items") or []
        return items

    async def list_raw(self, selection: Selection, resource_version: str = "") -> bytes:
        query = {"resourceVersion": resource_version} if resource_version else {}
        return await self.request("GET", paths.list_path(selection, **query))

    async def create(self, body: Mapping[str, Json], *, dry_run: bool = False) -> JsonObject:
        """Create the object its kind, apiVersion and namespace name. Raises AlreadyExists."""
        key = paths.key_of(body, self.namespace)
        path = paths.collection_path(key.kind, key.namespace, str(body.get("apiVersion", "")))
        return _object(await self.request("POST", path + ("?dryRun=All" if dry_run else ""), body))

    async def update(self, body: Mapping[str, Json], subresource: str = "") -> JsonObject:
        """Replace an object; with a resourceVersion in it, only that version (or Conflict)."""
        version = str(body.get("apiVersion", ""))
        path = paths.object_path(paths.key_of(body, self.namespace), subresource, version)
        return _object(await self.request("PUT", path, body))

    async def update_status(self, body: Mapping[str, Json]) -> JsonObject:
        return await self.update(body, "status")

    async def patch(
        self,
        key: ObjectKey,
        change: Body | JsonList,
        form: Patch = Patch.MERGE,
        *,
        subresource: str = "",
        manager: str = "",
        force: bool = False,
    ) -> JsonObject:
        """PATCH one object. `manager` is the field manager, which APPLY requires."""
        query = {"fieldManager": manager} if manager else {}
        if force:
            query["force"] = "true"
        path = str(URL(paths.object_path(key, subresource), encoded=True).with_query(query))
        return _object(await self.request("PATCH", path, change, media=form.value))

    async def apply(
        self, body: Mapping[str, Json], *, manager: str = "meltemi", force: bool = True
    ) -> JsonObject:
        """Server-side apply: creates the object, or owns exactly the fields of `body`."""
        key = paths.key_of(body, self.namespace)
        return await self.patch(key, body, Patch.APPLY, manager=manager, force=force)

    async def delete(
        self,
        key: ObjectKey,
        *,
        propagation: str = "Background",
        grace_seconds: int | None = None,
        uid: str = "",
    ) -> None:
        """Delete one object; with `uid`, only that incarnation of the name (or Conflict)."""
        options: JsonObject = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
        }
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if uid:
            options["preconditions"] = {"uid": uid}
        await self.request("DELETE", paths.object_path(key), options)

    async def create_token(
        self,
        namespace: str,
        account: str,
        *,
        audiences: tuple[str, ...],
        lifetime: datetime.timedelta,
        pod: tuple[str, str] | None = None,
    ) -> Token:
        """A token of a ServiceAccount; `pod` (name, uid) binds it to that pod's life."""
        spec: JsonObject = {
            "audiences": list(audiences),
            "expirationSeconds": int(lifetime.total_seconds()),
        }
        if pod is not None:
            spec["boundObjectRef"] = {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": pod[0],
                "uid": pod[1],
            }
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = paths.object_path(ObjectKey("ServiceAccount", namespace, account), "token")
        reply = _decode(await self.request("POST", path, body), _TokenReply)
        status = reply.status
        return Token(Redacted(status.token.encode()), status.expiration_timestamp)

    async def review_token(self, token: Redacted, audiences: tuple[str, ...]) -> Review:
        """Ask the API whose token this is. A refusal is a Review, not an exception."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token.reveal().decode("ascii"), "audiences": list(audiences)},
        }
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        status = _decode(await self.request("POST", path, body), _ReviewReply).status
        return Review(
            authenticated=status.authenticated,
            username=status.user.username,
            groups=status.user.groups,
            audiences=status.audiences,
            extra=status.user.extra,
            error=status.error,
        )

    async def review_access(self, question: AccessQuestion) -> bool:
        """Ask the API whether somebody may do something."""
        what = {
            "namespace": question.namespace,
            "verb": question.verb,
            "group": question.group,
            "resource": question.resource,
        }
        spec = {"user": question.user, "groups": list(question.groups), "resourceAttributes": what}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": spec,
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return _decode(await self.request("POST", path, body), _AccessReply).status.allowed

    async def request(
        self,
        method: str,
        path: str,
        body: Body | JsonList | None = None,
        *,
        media: str = _JSON,
    ) -> bytes:
        """Any call: `path` starts with `/` and may carry a query. Returns the answer's bytes."""
        data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        headers = {"Accept": _JSON} | ({"Content-Type": media} if data is not None else {})
        async with self._call(method, path, data, headers, self._timeout) as reply:
            return await reply.read()

    @asynccontextmanager
    async def watch(
        self, selection: Selection, *, resource_version: str, seconds: int, idle: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Watch a selection from a version: chunks of newline-separated events, as they come.

        The server ends the watch after `seconds`; `idle` seconds of silence raise Unavailable.
        """
        path = paths.list_path(
            selection,
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=resource_version,
            timeoutSeconds=str(seconds),
        )
        limits = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=idle)
        async with self._call("GET", path, None, {"Accept": _JSON}, limits) as reply:
            yield reply.content.iter_any()

    @asynccontextmanager
    async def _call(
        self,
        method: str,
        path: str,
        data: bytes | None,
        headers: dict[str, str],
        limits: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("the client is not open: use `async with Client(...)`")
        token = self._bearer()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        url = URL(self._access.server + path, encoded=True)
        try:
            async with self._session.request(
                method,
                url,
                data=data,
                headers=headers,
                timeout=limits,
                server_hostname=self._access.server_name,
                allow_redirects=False,
            ) as reply:
                if reply.status >= 300:
                    after = reply.headers.get("Retry-After", "")
                    raise error_from_response(reply.status, await reply.read(), after)
                yield reply
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as e:
            why = str(e) or type(e).__name__
            raise Unavailable(f"{method} {self._access.server}{path}: {why}") from e

    def _bearer(self) -> str:
        """The token of the kubeconfig, or of its token file, which kubelets rewrite."""
        access = self._access
        if access.token_file is None:
            return access.token.reveal().decode("ascii") if access.token is not None else ""
        now = self._clock.monotonic()
        if now - self._file_token_read >= _TOKEN_FILE_AGE:
            try:
                self._file_token = access.token_file.read_text("ascii").strip()
            except OSError as e:
                raise KubeError(f"token file {access.token_file}: {e.strerror}") from e
            self._file_token_read = now
        return self._file_token


def _object(body: bytes) -> JsonObject:
    return _decode(body, dict[str, Json])


T = TypeVar("T")


def _decode(body: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.MsgspecError as e:
        raise KubeError(f"the API's answer is not what was asked for: {e}") from e

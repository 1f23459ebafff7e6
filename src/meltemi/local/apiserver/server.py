"""HTTP over TLS: authenticates, hands on, and turns failures into Status answers."""

import asyncio
import base64
import contextlib
import datetime
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import orjson
import yaml
from aiohttp import web

from meltemi.base.clock import Clock, SystemClock
from meltemi.local.apiserver.addresses import Addresses
from meltemi.local.apiserver.admission import Admission
from meltemi.local.apiserver.audit import AuditLog
from meltemi.local.apiserver.authn import Pki, Tokens
from meltemi.local.apiserver.callers import ANONYMOUS, Callers
from meltemi.local.apiserver.errors import StatusError, internal
from meltemi.local.apiserver.handlers import Handlers, Noted
from meltemi.local.apiserver.lifecycle import Lifecycle
from meltemi.local.apiserver.operations import Operations
from meltemi.local.apiserver.policies import Policies
from meltemi.local.apiserver.rbac import Authorizer
from meltemi.local.apiserver.registry import Registry
from meltemi.local.apiserver.requests import LARGEST, too_large
from meltemi.local.apiserver.store import Store, StoreFailed
from meltemi.local.apiserver.subresources import NodeProxy

log = logging.getLogger(__name__)
_HEALTH = ("/livez", "/readyz", "/healthz")
BACKLOG = 2048


class Running(msgspec.Struct, frozen=True):
    """A server that accepts connections."""

    port: int
    kubeconfig: Path
    operations: Operations


@contextlib.asynccontextmanager
async def running(
    data: Path,
    sockets: Sequence[socket.socket],
    clock: Clock | None = None,
    *,
    has_ipv6: bool = False,
) -> AsyncIterator[Running]:
    """Serve from a data directory on listening sockets, until the block ends."""
    clock = clock or SystemClock()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = Store(data / "state.db")
    store.open()
    operations = Operations(store, Registry(), clock, Addresses(has_ipv6=has_ipv6))
    authorizer = Authorizer(store)
    policies = Policies(store, operations.registry, authorizer)
    admission = Admission(store, policies, authorizer)
    operations.admit, operations.guard = admission.admit, authorizer.guard
    pki = Pki(data / "pki", clock)
    tokens = Tokens(pki.token_key(), store, clock)
    node = NodeProxy(data / "run" / "node.sock")
    lifecycle = Lifecycle(operations, pki)
    store.listeners.append(lifecycle.note)
    await lifecycle.prepare()
    audit = AuditLog(data / "audit.log")
    handlers = Handlers(operations, tokens, authorizer, node)
    edge = _Edge(handlers, Callers(tokens, authorizer), audit, clock)
    runner = web.AppRunner(edge.application(), handle_signals=False, access_log=None,
                           shutdown_timeout=1.0, handler_cancellation=True)  # fmt: skip
    await runner.setup()
    context = _tls(pki)
    for sock in sockets:
        await web.SockSite(runner, sock, ssl_context=context, backlog=BACKLOG).start()
    port = int(sockets[0].getsockname()[1])
    kubeconfig = data / "kubeconfig"
    _write_kubeconfig(kubeconfig, pki, port)
    task = asyncio.create_task(lifecycle.run(), name="lifecycle")
    try:
        yield Running(port, kubeconfig, operations)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await runner.cleanup()
        await admission.close()
        await node.close()
        await store.close()
        audit.close()


def _tls(pki: Pki) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*pki.server())
    context.load_verify_locations(pki.ca_file)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _write_kubeconfig(path: Path, pki: Pki, port: int) -> None:
    certificate, key = pki.admin()

    def encoded(content: bytes) -> str:
        return base64.b64encode(content).decode()

    cluster = {
        "server": f"https://127.0.0.1:{port}",
        "certificate-authority-data": encoded(pki.ca_file.read_bytes()),
    }
    user = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "meltemi",
        "clusters": [{"name": "meltemi", "cluster": cluster}],
        "users": [{"name": "meltemi", "user": user}],
        "contexts": [
            {"name": "meltemi",
             "context": {"cluster": "meltemi", "user": "meltemi", "namespace": "default"}}
        ],
    }  # fmt: skip
    content = yaml.safe_dump(config, sort_keys=False)
    if path.exists() and path.read_text() == content:
        return
    partial = path.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
    partial.rename(path)


class _Edge:
    """The outermost layer of every request."""

    def __init__(self, handlers: Handlers, callers: Callers, audit: AuditLog, clock: Clock) -> None:
        self._handlers = handlers
        self._callers = callers
        self._audit = audit
        self._clock = clock

    def application(self) -> web.Application:
        application = web.Application(client_max_size=LARGEST)
        application.router.add_route("*", "/{path:.*}", self._handle)
        return application

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.rstrip("/") in _HEALTH:
            return web.Response(text="ok")
        received, noted = self._clock.now(), Noted(ANONYMOUS)
        try:
            noted.user = self._callers.caller(request)
            noted.impersonated = self._callers.impersonated(request, noted.user)
            response = await self._handlers.handle(request, noted.impersonated or noted.user, noted)
        except StatusError as error:
            response = _status(error)
        except web.HTTPRequestEntityTooLarge:
            response = _status(too_large())
        except StoreFailed as error:
            log.error("%s %s: %s", request.method, request.path, error)
            response = _status(StatusError(500, "InternalError", f"storing failed: {error}"))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("%s %s", request.method, request.path)
            response = _status(internal("Meltemi's own fault: the API's log has the details"))
        self._note(request, noted, response.status, received)
        return response

    def _note(
        self, request: web.Request, noted: Noted, code: int, received: datetime.datetime
    ) -> None:
        asked = noted.asked
        if asked is None or (asked.path and code < 400):
            return
        self._audit.write(
            noted.user,
            asked,
            uri=request.path_qs,
            agent=request.headers.get("User-Agent", ""),
            source=request.remote or "",
            code=code,
            reason=noted.reason,
            received=received.isoformat(),
            impersonated=noted.impersonated,
            annotations=noted.annotations,
        )


def _status(error: StatusError) -> web.Response:
    response = web.Response(
        body=orjson.dumps(error.status), status=error.code, content_type="application/json"
    )
    if error.code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.code in (429, 504):
        response.headers["Retry-After"] = "1"
    return response

"""HTTP over TLS: authenticates, hands on, and turns failures into Status answers."""

import asyncio
import base64
import contextlib
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
from meltemi.local.apiserver.admission import Admission
from meltemi.local.apiserver.authn import Pki, Tokens, user_from_certificate
from meltemi.local.apiserver.errors import StatusError, internal, unauthorized
from meltemi.local.apiserver.handlers import Handlers
from meltemi.local.apiserver.lifecycle import Lifecycle
from meltemi.local.apiserver.operations import Operations, User
from meltemi.local.apiserver.registry import Registry
from meltemi.local.apiserver.requests import LARGEST, too_large
from meltemi.local.apiserver.store import Store, StoreFailed
from meltemi.local.apiserver.subresources import NodeProxy

log = logging.getLogger(__name__)
_HEALTH = ("/livez", "/readyz", "/healthz")
_ANONYMOUS = User("system:anonymous", groups=("system:unauthenticated",))
BACKLOG = 2048


class Running(msgspec.Struct, frozen=True):
    """A server that accepts connections."""

    port: int
    kubeconfig: Path
    operations: Operations


@contextlib.asynccontextmanager
async def running(
    data: Path, sockets: Sequence[socket.socket], clock: Clock | None = None
) -> AsyncIterator[Running]:
    """Serve from a data directory on listening sockets, until the block ends."""
    clock = clock or SystemClock()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = Store(data / "state.db")
    store.open()
    operations = Operations(store, Registry(), clock)
    admission = Admission(store)
    operations.admit = admission.admit
    pki = Pki(data / "pki", clock)
    tokens = Tokens(pki.token_key(), store, clock)
    node = NodeProxy(data / "run" / "node.sock")
    lifecycle = Lifecycle(operations, pki.ca_file.read_text())
    store.listeners.append(lifecycle.note)
    await lifecycle.prepare()
    edge = _Edge(Handlers(operations, tokens, node), tokens)
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
    partial = path.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        yaml.safe_dump(config, file, sort_keys=False)
    partial.rename(path)


class _Edge:
    """The outermost layer of every request."""

    def __init__(self, handlers: Handlers, tokens: Tokens) -> None:
        self._handlers = handlers
        self._tokens = tokens

    def application(self) -> web.Application:
        application = web.Application(client_max_size=LARGEST)
        application.router.add_route("*", "/{path:.*}", self._handle)
        return application

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.rstrip("/") in _HEALTH:
            return web.Response(text="ok")
        try:
            user = self._user(request)
            if user is _ANONYMOUS and request.path.rstrip("/") != "/version":
                raise unauthorized()
            return await self._handlers.handle(request, user)
        except StatusError as error:
            return _status(error)
        except web.HTTPRequestEntityTooLarge:
            return _status(too_large())
        except StoreFailed as error:
            return _status(internal(f"the object could not be stored: {error}"))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("%s %s", request.method, request.path)
            return _status(internal("Meltemi's own fault: the API's log has the details"))

    def _user(self, request: web.Request) -> User:
        header = request.headers.get("Authorization", "")
        if header.startswith("Bearer "):
            found = self._tokens.verify(header.removeprefix("Bearer ").strip(), ())
            if found is None:
                raise unauthorized()
            return found[0]
        peer = request.transport.get_extra_info("peercert") if request.transport else None
        return user_from_certificate(peer) or _ANONYMOUS


def _status(error: StatusError) -> web.Response:
    return web.Response(
        body=orjson.dumps(error.status), status=error.code, content_type="application/json"
    )

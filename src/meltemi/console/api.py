"""The console's HTTP face: read models as JSON, an event stream, the single-page app."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
from aiohttp import web

from meltemi.console.static_files import StaticFiles
from meltemi.console.types import Graph, GraphType, Mesh

STATIC = Path(__file__).parent / "static"
_HEARTBEAT = 15.0
_PATIENCE = 10.0
"""Seconds that a reader of events may keep a write waiting."""
_SHORTEST, _LONGEST = 4.0, 900.0
_MOST_STREAMS = 64
_MOST_GRAPHS = 64
"""Answers kept of one revision."""
_MOST_NAMESPACES = 200
_COMPRESSED_FROM = 2048
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]]+)(?::[0-9]+)?")
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class State(msgspec.Struct, frozen=True):
    """Where the answers come from."""

    graph: Callable[[tuple[str, ...], float, GraphType], Graph]
    """(namespaces, seconds, type)."""
    mesh: Callable[[], Mesh]
    proxies: Callable[[], object]
    problems: Callable[[], object]
    revision: Callable[[], int]
    """Of the telemetry."""
    changed: asyncio.Condition
    """Notified when the revision grew."""


class _Query(msgspec.Struct, frozen=True):
    """What a graph is asked for."""

    namespaces: tuple[str, ...]
    seconds: float
    graph_type: GraphType


class _Refused(Exception):
    """A parameter that cannot be answered."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


class Console:
    """Routes over a state."""

    def __init__(self, state: State, static: Path = STATIC) -> None:
        self._state = state
        self._static = StaticFiles(static)
        self._graphs: dict[_Query, bytes] = {}
        self._graphs_of = -1
        self._streams = 0
        self._is_closing = False

    def data_routes(self) -> list[web.RouteDef]:
        """The API alone, for the CLI's socket."""
        return [
            web.get("/api/graph", self._graph),
            web.get("/api/mesh", self._answer(self._state.mesh)),
            web.get("/api/proxies", self._answer(self._state.proxies)),
            web.get("/api/problems", self._answer(self._state.problems)),
        ]

    def application(self, *, names: frozenset[str] = _LOCAL_NAMES) -> web.Application:
        """The API, the events and the app. `names`: the Host headers that are served, so that a
        page elsewhere cannot reach the console by a name of its own (DNS rebinding)."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            response = await _guarded(request, handler, names)
            if not response.prepared:
                response.headers.update(_SECURITY)
            return response

        app = web.Application(middlewares=[guard])
        app.add_routes(self.data_routes())
        app.router.add_get("/api/events", self._events, allow_head=False)
        app.router.add_get("/api/{rest:.*}", _no_such_answer)
        app.router.add_get("/{path:.*}", self._static.handle)
        app.on_shutdown.append(self._close)
        return app

    async def _graph(self, request: web.Request) -> web.Response:
        try:
            query = _graph_query(request)
        except _Refused as refused:
            reason = {"message": str(refused), "field": refused.field}
            return web.json_response(reason, status=400)
        revision = self._state.revision()
        if revision != self._graphs_of or len(self._graphs) >= _MOST_GRAPHS:
            self._graphs.clear()
            self._graphs_of = revision
        body = self._graphs.get(query)
        if body is None:
            found = self._state.graph(query.namespaces, query.seconds, query.graph_type)
            body = self._graphs[query] = msgspec.json.encode(found)
        return _json(body)

    def _answer(self, read: Callable[[], object]) -> Handler:
        async def handle(_: web.Request) -> web.Response:
            return _json(msgspec.json.encode(read()))

        return handle

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: `graph` whenever newer telemetry is there."""
        if self._streams >= _MOST_STREAMS:
            return web.json_response({"message": "too many event streams are open"}, status=503)
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", **_SECURITY}
        response = web.StreamResponse(headers=headers)
        self._streams += 1
        try:
            await response.prepare(request)
            await self._follow(response)
        except ConnectionError:
            pass
        except TimeoutError:
            # The reader does not read: its buffers are full, and it would hold its place for ever.
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._streams -= 1
        return response

    async def _follow(self, response: web.StreamResponse) -> None:
        seen = -1
        while not self._is_closing:
            revision = self._state.revision()
            text = ": still here\n\n"
            if revision != seen:
                seen = revision
                text = f'event: graph\ndata: {{"revision": {revision}}}\n\n'
            async with asyncio.timeout(_PATIENCE):
                await response.write(text.encode())
            await self._newer_than(seen)

    async def _newer_than(self, seen: int) -> None:
        """Wait for newer telemetry or the end, as long as a silent connection may be silent."""
        try:
            async with asyncio.timeout(_HEARTBEAT), self._state.changed:
                await self._state.changed.wait_for(
                    lambda: self._is_closing or self._state.revision() != seen
                )
        except TimeoutError:
            return

    async def _close(self, _: web.Application) -> None:
        """Let the event streams end, so that shutting down need not cut them off."""
        self._is_closing = True
        async with self._state.changed:
            self._state.changed.notify_all()


async def _guarded(
    request: web.Request, handler: Handler, names: frozenset[str]
) -> web.StreamResponse:
    host = _HOST.fullmatch(request.headers.get("Host", "").lower())
    if host is None or host["name"] not in names:
        message = "the console is not served under this host name; use 127.0.0.1 or localhost"
        return web.json_response({"message": message}, status=421)
    try:
        return await handler(request)
    except web.HTTPException as error:
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return web.json_response({"message": error.reason}, status=error.status, headers=allowed)


def _graph_query(request: web.Request) -> _Query:
    """Read and check the parameters. Raises _Refused."""
    graph_type: Any = request.query.get("type", "versionedApp")
    if graph_type not in get_args(GraphType):
        raise _Refused("type", f"expected one of {', '.join(get_args(GraphType))}")
    try:
        seconds = float(request.query.get("duration", "60"))
    except ValueError:
        raise _Refused("duration", "expected seconds, such as 60") from None
    if not _SHORTEST <= seconds <= _LONGEST:
        raise _Refused("duration", f"expected {_SHORTEST:g} to {_LONGEST:g} seconds")
    spaces = sorted({name for name in request.query.get("namespaces", "").split(",") if name})
    if len(spaces) > _MOST_NAMESPACES:
        raise _Refused("namespaces", f"expected {_MOST_NAMESPACES} names at most")
    if not all(_NAMESPACE.fullmatch(name) for name in spaces):
        raise _Refused("namespaces", "expected names of namespaces, separated by commas")
    return _Query(tuple(spaces), seconds, graph_type)


async def _no_such_answer(_: web.Request) -> web.Response:
    return web.json_response({"message": "the API has no such answer"}, status=404)


def _json(body: bytes) -> web.Response:
    response = web.Response(body=body, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    if len(body) > _COMPRESSED_FROM:
        response.enable_compression()
    return response

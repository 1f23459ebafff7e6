"""The console's HTTP face: read models as JSON, an event stream, the single-page app."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
from aiohttp import web

from meltemi.console.types import Graph, GraphType, Mesh

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
_HEARTBEAT = 15.0
_SHORTEST, _LONGEST = 4.0, 900.0
_MOST_STREAMS = 64
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class State(msgspec.Struct, frozen=True):
    """Where the answers come from."""

    graph: Callable[[tuple[str, ...], float, GraphType], Graph]
    """(namespaces, seconds, type)."""
    mesh: Callable[[], Mesh]
    proxies: Callable[[], Any]
    problems: Callable[[], Any]
    revision: Callable[[], int]
    """Of the telemetry."""
    changed: asyncio.Condition
    """Notified when the revision grew."""


class Console:
    """Routes over a state."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._graphs: dict[tuple[Any, ...], bytes] = {}
        self._graphs_of = -1
        self._streams = 0

    def data_routes(self) -> list[web.RouteDef]:
        """The API alone, for the CLI's socket."""
        return [
            web.get("/api/graph", self._graph),
            web.get("/api/mesh", self._mesh),
            web.get("/api/proxies", self._proxies),
            web.get("/api/problems", self._problems),
        ]

    def application(self, *, names: frozenset[str] = _LOCAL_NAMES) -> web.Application:
        """The API, the events and the app. `names`: the Host headers that are served, so that a
        page elsewhere cannot reach the console by a name of its own (DNS rebinding)."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            host = request.host.rpartition(":")[0] if _has_port(request.host) else request.host
            if host not in names:
                return web.json_response({"message": f"host {host!r} is not served"}, status=421)
            response = await handler(request)
            if not response.prepared:
                response.headers.update(_SECURITY)
            return response

        app = web.Application(middlewares=[guard])
        app.add_routes([*self.data_routes(), web.get("/api/events", self._events)])
        app.router.add_get("/api/{rest:.*}", _no_such_answer)
        app.router.add_get("/{path:.*}", _page)
        return app

    async def _graph(self, request: web.Request) -> web.Response:
        query = request.query
        graph_type = query.get("type", "versionedApp")
        if graph_type not in get_args(GraphType):
            return _refused(
                "type", f"{graph_type!r} is not one of {', '.join(get_args(GraphType))}"
            )
        try:
            seconds = float(query.get("duration", "60"))
        except ValueError:
            return _refused("duration", "expected seconds")
        if not _SHORTEST <= seconds <= _LONGEST:
            return _refused("duration", f"expected {_SHORTEST:g} to {_LONGEST:g} seconds")
        spaces = tuple(sorted({n for n in query.get("namespaces", "").split(",") if n}))
        key = (spaces, seconds, graph_type)
        revision = self._state.revision()
        if revision != self._graphs_of:
            self._graphs.clear()
            self._graphs_of = revision
        body = self._graphs.get(key)
        if body is None:
            found = self._state.graph(spaces, seconds, graph_type)  # type: ignore[arg-type]
            body = self._graphs[key] = msgspec.json.encode(found)
        return _json(request, body)

    async def _mesh(self, request: web.Request) -> web.Response:
        return _json(request, msgspec.json.encode(self._state.mesh()))

    async def _proxies(self, request: web.Request) -> web.Response:
        return _json(request, msgspec.json.encode(self._state.proxies()))

    async def _problems(self, request: web.Request) -> web.Response:
        return _json(request, msgspec.json.encode(self._state.problems()))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: `graph` whenever newer telemetry is there."""
        if self._streams >= _MOST_STREAMS:
            return web.json_response({"message": "too many event streams"}, status=503)
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", **_SECURITY}
        response = web.StreamResponse(headers=headers)
        self._streams += 1
        try:
            await response.prepare(request)
            seen = -1
            while True:
                revision = self._state.revision()
                if revision != seen:
                    seen = revision
                    data = f'event: graph\ndata: {{"revision": {revision}}}\n\n'
                    await response.write(data.encode())
                try:
                    async with asyncio.timeout(_HEARTBEAT), self._state.changed:
                        await self._state.changed.wait()
                except TimeoutError:
                    await response.write(b": still here\n\n")
        except ConnectionError:
            return response
        finally:
            self._streams -= 1


def _has_port(host: str) -> bool:
    return host.rpartition(":")[2].isdecimal() and not host.endswith("]")


async def _no_such_answer(request: web.Request) -> web.Response:
    return web.json_response({"message": f"{request.path}: there is no such answer"}, status=404)


async def _page(request: web.Request) -> web.StreamResponse:
    """A file of the app; any other path is the app's own to route."""
    index = STATIC / "index.html"
    if not index.is_file():
        text = "The console's pages are not built: run `make web`. The API is under /api/.\n"
        return web.Response(text=text, status=503)
    wanted = (STATIC / request.match_info["path"]).resolve()
    if wanted.is_relative_to(STATIC) and wanted.is_file() and wanted != index:
        hashed = wanted.parent.name == "assets"
        age = "public, max-age=31536000, immutable" if hashed else "no-cache"
        return web.FileResponse(wanted, headers={"Cache-Control": age})
    return web.FileResponse(index, headers={"Cache-Control": "no-cache"})


def _json(request: web.Request, body: bytes) -> web.Response:
    response = web.Response(body=body, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    if len(body) > 2048:
        response.enable_compression()
    return response


def _refused(field: str, message: str) -> web.Response:
    return web.json_response({"message": f"{field}: {message}", "field": field}, status=400)

"""What the CLI asks the control plane, on a unix socket that only its user may open."""

import asyncio

import msgspec
from aiohttp import web

from meltemi.api.core import Pod
from meltemi.api.kinds import kind_by_word
from meltemi.app.engine import Engine
from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client
from meltemi.kube.errors import ApiError, KubeError, NotFound
from meltemi.simulate.analyze import analyze, complaints
from meltemi.simulate.ask import BadQuestion, Question
from meltemi.simulate.explain import explain
from meltemi.simulate.world import raw_objects
from meltemi.xds.server import Discovery
from meltemi.xds.status import Status

_LONGEST_WAIT = 300.0


class Change(msgspec.Struct, frozen=True):
    """The body of POST /debug/analyze: objects that stand in for those of the same name."""

    change: tuple[dict[str, object], ...] = ()


class Asked(msgspec.Struct, frozen=True):
    """The body of POST /debug/explain."""

    question: Question
    change: tuple[dict[str, object], ...] = ()
    """Objects that stand in for those of the same name, or beside them."""


class Control:
    """/ready and /debug/...; the console's routes are added beside them."""

    def __init__(
        self, engine: Engine, discovery: Discovery, status: Status, client: Client
    ) -> None:
        self._engine = engine
        self._discovery = discovery
        self._status = status
        self._client = client

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/ready", self._ready),
            web.get("/debug/ready", self._components),
            web.get("/debug/syncz", self._syncz),
            web.get("/debug/wait", self._wait),
            web.post("/debug/explain", self._explain),
            web.post("/debug/analyze", self._analyze),
        ]

    async def _ready(self, _: web.Request) -> web.Response:
        is_ready = self._discovery.ready.is_set()
        return web.json_response({"ready": is_ready}, status=200 if is_ready else 503)

    async def _components(self, _: web.Request) -> web.Response:
        """One answer to: is everything there?"""
        try:
            node_is_ready = any(_is_ready(node) for node in await self._client.list("Node"))
            api_is_ready = True
        except KubeError:
            api_is_ready = node_is_ready = False
        pods = self._engine.objects.pods.values()
        proxies = self._status.proxies()
        return web.json_response(
            {
                "apiserver": api_is_ready,
                "control-plane": self._discovery.ready.is_set(),
                "node": node_is_ready,
                "pods": {"total": len(pods), "ready": sum(map(_pod_is_ready, pods))},
                "proxies": {"total": len(proxies), "synced": sum(p.is_synced for p in proxies)},
                "problems": len(self._engine.problems()),
            }
        )

    async def _syncz(self, _: web.Request) -> web.Response:
        return _json(self._status.proxies())

    async def _explain(self, request: web.Request) -> web.Response:
        """What becomes of a request, as the objects are now, or with a change to them.

        The answer is worked out from a copy of the objects, on a thread: nothing waits for it.
        """
        try:
            asked = msgspec.json.decode(await request.read(), type=Asked)
            change = raw_objects(asked.change)
        except (msgspec.DecodeError, AttributeError) as error:
            return _error(400, f"not a question: {error}")
        engine = self._engine
        try:
            answer = await asyncio.to_thread(
                explain,
                self._raw(),
                asked.question,
                change=change,
                domain=engine.domain,
                settings=engine.start,
            )
        except BadQuestion as error:
            return _error(422, str(error))
        return _json(answer)

    async def _analyze(self, request: web.Request) -> web.Response:
        """What is wrong with the objects as they are, or as they would be with others applied."""
        try:
            change = raw_objects(msgspec.json.decode(await request.read(), type=Change).change)
        except (msgspec.DecodeError, AttributeError) as error:
            return _error(400, f"not objects: {error}")
        engine = self._engine
        if not change:
            return _json(complaints(engine.problems()))
        raw = {**self._raw(), **change}
        return _json(
            await asyncio.to_thread(analyze, raw, domain=engine.domain, settings=engine.start)
        )

    def _raw(self) -> dict[ObjectKey, bytes]:
        """A copy of all objects, as the API sent them."""
        sources = self._engine.objects.raw.values()
        return {key: body for source in sources for key, body in source.items().items()}

    async def _wait(self, request: web.Request) -> web.Response:
        """Answer once every proxy has acknowledged an object as it is now."""
        query = request.query
        kind = kind_by_word(query.get("kind", ""))
        if kind is None or kind.name not in self._engine.objects.raw:
            known = ", ".join(sorted(k.lower() for k in self._engine.objects.raw))
            return _error(400, f"{query.get('kind')}: the mesh distributes {known}")
        namespace = query.get("namespace", "default") if kind.namespaced else ""
        key = ObjectKey(kind.name, namespace, query.get("name", ""))
        try:
            found = await self._client.get(key)
        except NotFound:
            return _error(404, f"{key} does not exist")
        except (ApiError, ValueError) as error:
            return _error(400, f"{key}: {error}")
        seconds = min(float(query.get("timeout", "30")), _LONGEST_WAIT)
        version = found["metadata"]["resourceVersion"]
        try:
            async with asyncio.timeout(seconds):
                seen = int(version) if version.isdecimal() else 0
                revision = await self._engine.caught_up(key, seen)
                proxies = await self._status.settled(revision)
        except TimeoutError:
            late = self._status.late(self._engine.graph.revision)
            who = ", ".join(late) or "the control plane"
            return _error(504, f"{key}: not distributed within {seconds:g} s: {who}")
        return _json({"object": str(key), "proxies": proxies})


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)


def _is_ready(data: dict[str, object]) -> bool:
    status = data.get("status") or {}
    conditions = status.get("conditions") or [] if isinstance(status, dict) else []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _pod_is_ready(pod: Pod) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)

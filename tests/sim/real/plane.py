"""The real compile pipeline behind the real ADS server; an Envoy may stand for any proxy of it."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import msgspec
import yaml

from meltemi.app.engine import Engine
from meltemi.base.keys import ObjectKey
from meltemi.base.resource import LISTENER, Change, NodeInfo, ProxyView, SetKey, seal
from meltemi.compile.settings import AccessLog, MeshSettings
from meltemi.model.build import Domain
from meltemi.protos import Protos
from meltemi.simulate.world import Raw
from meltemi.xds.cache import Cache
from meltemi.xds.server import OPTIONS, Discovery
from meltemi.xds.status import SYNCED, Status

_LOG_FIELDS = {
    "client": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
    "id": "%REQ(X-REQUEST-ID)%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "route": "%ROUTE_NAME%",
    "upstream": "%UPSTREAM_HOST%",
}


_LIMIT = 20.0
"""Seconds for an Envoy to take a configuration."""


CANARY_PORT = 15999
_CANARY = SetKey(LISTENER, "canary")


class _Event(msgspec.Struct, frozen=True):
    key: ObjectKey
    raw: bytes | None


class Plane:
    """Objects in, configuration out. Node ids of Envoys are not those of the mesh's proxies:
    `become` shows an Envoy what a proxy would see."""

    def __init__(self, protos: Protos, access_log: str, *, allow_any: bool = True) -> None:
        self._log = AccessLog(access_log, msgspec.json.encode(_LOG_FIELDS).decode(), is_json=True)
        settings = MeshSettings(
            access_log=self._log,
            detection_timeout=3.0,
            allow_any=allow_any,
        )
        self.cache = Cache()
        self.status = Status(self.cache)
        self.engine = Engine(protos, Domain(), settings, self._publish)
        self._views: dict[str, ProxyView | None] = {}
        self._raw: Raw = {}
        self._roles: dict[str, str] = {}
        self._envoys: set[str] = set()
        self._revision = 0
        self._discovery = Discovery(
            self.cache, self.status, on_connect=self._connected, on_disconnect=lambda _: None
        )
        self._discovery.ready.set()
        self._protos = protos

    async def serve(self, path: str) -> "grpc.aio.Server":
        server = grpc.aio.server(options=(*OPTIONS, ("grpc.so_reuseport", 0)))
        self._discovery.add_to(server)
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        return server

    def _connected(self, envoy: NodeInfo) -> None:
        """An Envoy without a role sees nothing."""
        self._envoys.add(envoy.id)
        self._publish(Change(0, {}, {}))

    async def connected(self, count: int) -> None:
        """Wait until so many Envoys have taken a first configuration."""
        while sum(p.lds == SYNCED for p in self.status.proxies()) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def configure(
        self,
        raw: Raw,
        roles: dict[str, NodeInfo],
        warm: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """The mesh holds exactly these objects; each Envoy stands for its proxy. Returns when
        every Envoy has acknowledged all of it. Raises AssertionError for what one refuses.

        `warm` waits until nothing that was acknowledged still waits for something else."""
        raw = {key: self._logged(key, body) for key, body in raw.items()}
        gone = [_Event(key, None) for key in self._raw if key not in raw]
        new = [_Event(key, body) for key, body in raw.items() if self._raw.get(key) != body]
        known = self.engine.objects.raw
        self._raw = dict(raw)
        # An object that turns bad keeps its last good meaning: what changes goes first.
        changed = [_Event(event.key, None) for event in new]
        self.engine.deliver([e for e in (*gone, *changed) if e.key.kind in known])
        await self.engine.propagate()
        self.engine.deliver([e for e in new if e.key.kind in known])
        self._become(roles)
        await self.engine.propagate()
        await self._settled()
        refused = {
            f"{rejection.name}: {rejection.message}"
            for found in self.status.rejections().values()
            for rejection in found
        }
        assert not refused, f"Envoy refuses {refused}"
        if warm is not None:
            await warm()
        self._publish_canary()
        await self._settled()

    def _logged(self, key: ObjectKey, body: bytes) -> bytes:
        """A MeshConfig that names no access log gets the lab's own: tests read it."""
        if key != ObjectKey("ConfigMap", "istio-system", "istio"):
            return body
        document = msgspec.json.decode(body)
        mesh = yaml.safe_load(document["data"]["mesh"])
        if "accessLogFile" not in mesh:
            mesh["accessLogFile"] = self._log.path
            mesh["accessLogFormat"] = self._log.format
            mesh["accessLogEncoding"] = "JSON"
        document["data"]["mesh"] = yaml.safe_dump(mesh)
        return msgspec.json.encode(document)

    async def _settled(self) -> None:
        try:
            async with asyncio.timeout(_LIMIT):
                await self.status.settled(self._revision)
        except TimeoutError as error:
            raise AssertionError(f"not acknowledged: {self.status.proxies()}") from error

    @property
    def canary(self) -> str:
        """What the canary says once a worker has taken everything before it."""
        return str(self._revision)

    def _publish_canary(self) -> None:
        """A listener that says the revision. Envoy acknowledges listeners before its worker has
        them; the worker takes changes in order, so when it has the canary it has the rest."""
        said = {"inline_string": str(self._revision + 1)}
        kind = "envoy.extensions.filters.network.direct_response.v3.Config"
        answer = {"@type": f"type.googleapis.com/{kind}", "response": said}
        body = {
            "name": "canary",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": CANARY_PORT}},
            "filter_chains": [
                {
                    "filters": [
                        {"name": "envoy.filters.network.direct_response", "typed_config": answer}
                    ]
                }
            ],
        }
        message = self._protos.from_dict("envoy.config.listener.v3.Listener", body)
        listener = seal(LISTENER, "canary", message.SerializeToString(deterministic=True))
        self._publish(Change(0, {_CANARY: {"canary": listener}}, {}))

    def _become(self, roles: dict[str, NodeInfo]) -> None:
        wanted = {node.id for node in roles.values()}
        for node_id in [n for n in self.engine.proxies if n not in wanted]:
            self.engine.proxies.drop(node_id)
        for node in roles.values():
            self.engine.proxies.set(node.id, node)
        self._roles = {envoy: node.id for envoy, node in roles.items()}

    def _publish(self, change: Change) -> None:
        """What changed for proxies, and for the Envoys that stand for them."""
        self._views |= change.views
        views = dict(change.views)
        for envoy in self._envoys:
            view = self._views.get(self._roles.get(envoy, ""))
            views[envoy] = ProxyView(envoy, (*view.sets, _CANARY) if view else ())
        self._revision += 1
        self.cache.apply(Change(self._revision, change.resources, views))

"""The agent's HTTP side of one pod: what Envoy forwards from ports 15020 and 15021.

Envoy has decided already which of these paths a caller may use (`listeners`).
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Self

from aiohttp import web

from meltemi.proxy import metrics
from meltemi.proxy.app import App, HttpGet, Prober
from meltemi.proxy.envoy_admin import EnvoyAdmin, EnvoyUnreachable, UnixHttp
from meltemi.proxy.sds import restrict
from meltemi.proxy.spec import ProxySpec

log = logging.getLogger(__name__)

_PLAIN = "text/plain; version=0.0.4; charset=utf-8"
_APP_METRICS_SECONDS = 3.0
_ANSWER_SECONDS = 0.05
_LARGEST_APP_PAGE = 16 << 20
_NOT_FORWARDED = frozenset({"host", "connection", "content-length", "transfer-encoding"})


class LocalHttp:
    """Serves one pod's socket. Use as an async context manager."""

    def __init__(
        self,
        spec: ProxySpec,
        app: App,
        *,
        version: str,
        seconds_left: Callable[[], float | None],
        failure: Callable[[], str],
    ) -> None:
        """`seconds_left` and `failure` speak of the certificate."""
        self._spec = spec
        self._app = app
        self._version = version
        self._seconds_left = seconds_left
        self._failure = failure
        self._ports: dict[int, UnixHttp] = {}
        self._stack = AsyncExitStack()
        self._admin_http = UnixHttp(spec.admin_path)
        self.admin = EnvoyAdmin(self._admin_http)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._admin_http)
            for port in self._app.ports:
                http = UnixHttp(self._spec.app_path(port))
                self._ports[port] = await stack.enter_async_context(http)
            runner = web.AppRunner(
                self._routes(), access_log=None, handle_signals=False, shutdown_timeout=1.0
            )
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.UnixSite(runner, self._spec.agent_path).start()
            restrict(self._spec.agent_path)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def not_ready_because(self) -> str:
        """Empty when the proxy serves; a certificate must be there, it may be old."""
        left = self._seconds_left()
        if left is None:
            return f"no certificate yet: {self._failure() or 'asked for'}"
        if left <= 0:
            return f"the certificate expired: {self._failure()}"
        return await self.admin.not_ready_because()

    async def merged_metrics(self) -> bytes:
        """Envoy's page, the app's, and ours; an app that does not answer costs only its own."""
        envoy = await self.admin.prometheus()
        agent = metrics.agent_page(version=self._version, seconds_left=self._seconds_left())
        return metrics.merge(envoy, await self._app_metrics(), agent)

    def _routes(self) -> web.Application:
        app = web.Application(client_max_size=1 << 16)
        app.router.add_get("/healthz/ready", self._ready)
        app.router.add_get("/stats/prometheus", self._metrics)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/app-health/{probe:.+}", self._app_health)
        app.router.add_post("/quitquitquit", self._quit)
        app.router.add_post("/drain", self._drain)
        return app

    async def _ready(self, _: web.Request) -> web.Response:
        reason = await self.not_ready_because()
        return web.Response(status=503 if reason else 200, text=reason)

    async def _metrics(self, _: web.Request) -> web.Response:
        try:
            body = await self.merged_metrics()
        except EnvoyUnreachable as e:
            log.warning("%s.%s: no metrics: %s", self._spec.name, self._spec.namespace, e)
            return web.Response(status=503, text="Envoy does not answer")
        return web.Response(body=body, headers={"Content-Type": _PLAIN})

    async def _quit(self, request: web.Request) -> web.Response:
        """Answer first, for the answer goes through the Envoy that ends."""
        reply = web.Response(text="OK")
        await reply.prepare(request)
        await reply.write_eof()
        await asyncio.sleep(_ANSWER_SECONDS)
        with suppress(EnvoyUnreachable):
            await self.admin.quit()
        return reply

    async def _drain(self, _: web.Request) -> web.Response:
        await self.admin.drain()
        return web.Response(text="OK")

    async def _app_metrics(self) -> bytes:
        scrape = self._app.scrape
        if scrape is None:
            return b""
        try:
            status, body = await self._ports[scrape.port].call(
                "GET",
                scrape.path,
                seconds=_APP_METRICS_SECONDS,
                headers={"Accept": _PLAIN},
                largest=_LARGEST_APP_PAGE,
            )
        except EnvoyUnreachable as e:
            log.info("%s.%s: no app metrics: %s", self._spec.name, self._spec.namespace, e)
            return b""
        # A page cut at the limit would end inside a line: better none.
        return body if status == 200 and len(body) < _LARGEST_APP_PAGE else b""

    async def _app_health(self, request: web.Request) -> web.Response:
        """Do the app's own probe in its stead, as kubelets would; 200 to 399 is healthy."""
        prober = self._app.probers.get(request.path)
        if prober is None:
            return web.Response(status=404, text=f"no probe {request.path}")
        try:
            status = await self._probe(prober, request)
        except EnvoyUnreachable as e:
            return web.Response(status=500, text=str(e))
        return web.Response(status=status)

    async def _probe(self, prober: Prober, request: web.Request) -> int:
        http = self._ports[self._app.port_of(prober)]
        seconds = float(max(prober.timeout_seconds, 1))
        if prober.http_get is None:
            return await _tcp_probe(http, seconds)
        get = prober.http_get
        headers = {n: v for n, v in request.headers.items() if n.lower() not in _NOT_FORWARDED}
        headers |= {header.name: header.value for header in get.http_headers}
        headers.setdefault("Host", get.host or f"{self._spec.ip}:{self._app.port_of(prober)}")
        path = get.path if get.path.startswith("/") else f"/{get.path}"
        status, _ = await http.call(
            "GET", path, seconds=seconds, headers=headers, tls=_probe_tls(get), largest=1 << 16
        )
        return status


async def _tcp_probe(http: UnixHttp, seconds: float) -> int:
    """Envoy accepts for the app; it closes at once when nobody listens behind it."""
    return 200 if await http.connects(seconds) else 500


def _probe_tls(get: HttpGet) -> ssl.SSLContext | None:
    """Probes do not check certificates, as kubelets do not: they ask only whether it answers."""
    if get.scheme != "HTTPS":
        return None
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context

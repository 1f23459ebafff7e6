"""Calls into one pod over its unix sockets: Envoy's admin page, and the app's ports."""

import asyncio
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import aiohttp

from meltemi.proxy.errors import ProxyError

_LARGEST_PAGE = 64 << 20
_REFUSAL_SECONDS = 0.25
"""A refused connection on loopback comes back sooner than this."""


class EnvoyUnreachable(ProxyError):
    """Envoy, or the app behind it, did not answer."""


class UnixHttp:
    """HTTP over one unix socket, keeping connections. Use as an async context manager."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(self._path, limit=8, keepalive_timeout=60.0),
            read_bufsize=1 << 18,
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

    async def call(
        self,
        method: str,
        path: str,
        *,
        seconds: float,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        largest: int = _LARGEST_PAGE,
    ) -> tuple[int, bytes]:
        """Status and body; redirects are not followed. Raises EnvoyUnreachable."""
        if self._session is None:
            raise RuntimeError("not open: use `async with UnixHttp(...)`")
        scheme = "https" if tls is not None else "http"
        try:
            async with self._session.request(
                method,
                f"{scheme}://localhost{path}",
                headers=headers,
                ssl=tls if tls is not None else True,
                timeout=aiohttp.ClientTimeout(total=seconds),
                allow_redirects=False,
            ) as reply:
                body = await reply.content.read(largest)
                while not reply.content.at_eof() and len(body) < largest:
                    body += await reply.content.read(largest - len(body))
                return reply.status, body
        except (aiohttp.ClientError, OSError, TimeoutError) as e:
            raise EnvoyUnreachable(f"{self._path}{path}: {str(e) or type(e).__name__}") from e

    async def connects(self, seconds: float) -> bool:
        """Whether someone listens behind Envoy: it closes at once when its upstream refuses."""
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_unix_connection(self._path)
        except (OSError, TimeoutError):
            return False
        try:
            async with asyncio.timeout(min(seconds, _REFUSAL_SECONDS)):
                return bool(await reader.read(1))
        except TimeoutError:
            return True
        except OSError:
            return False
        finally:
            writer.transport.abort()


class EnvoyAdmin:
    """What we ask Envoy."""

    def __init__(self, http: UnixHttp) -> None:
        self._http = http
        self._configured = False

    async def not_ready_because(self) -> str:
        """Empty when Envoy serves: configuration received, listeners there, workers started."""
        try:
            if not self._configured:
                reason = await self._missing_configuration()
                if reason:
                    return reason
            status, body = await self._http.call("GET", "/ready", seconds=2.0)
        except EnvoyUnreachable as e:
            return f"Envoy does not answer: {e}"
        if status != 200:
            return f"Envoy is {body[:60].decode(errors='replace').strip().lower()}"
        self._configured = True
        return ""

    async def _missing_configuration(self) -> str:
        wanted = "cluster_manager.cds.update_success|listener_manager.lds.update_success"
        path = f"/stats?usedonly&filter=^({wanted}|listener_manager.workers_started)$"
        _, body = await self._http.call("GET", path, seconds=2.0)
        lines = body.decode(errors="replace").splitlines()
        stats = dict(line.split(": ", 1) for line in lines if ": " in line)
        for name, what in (
            ("cluster_manager.cds.update_success", "clusters"),
            ("listener_manager.lds.update_success", "listeners"),
        ):
            if int(stats.get(name, "0")) == 0:
                return f"Envoy has not received its {what}"
        if stats.get("listener_manager.workers_started") != "1":
            return "Envoy's workers have not started"
        return ""

    async def prometheus(self) -> bytes:
        """The raw page of statistics that were ever used."""
        status, body = await self._http.call("GET", "/stats/prometheus?usedonly", seconds=10.0)
        if status != 200:
            raise EnvoyUnreachable(f"/stats/prometheus answered {status}")
        return body

    async def drain(self) -> None:
        """Stop taking inbound connections, and let the open ones end."""
        await self._http.call("POST", "/drain_listeners?inboundonly&graceful", seconds=5.0)

    async def quit(self) -> None:
        """End Envoy."""
        await self._http.call("POST", "/quitquitquit", seconds=5.0)

"""Probes: is a container started, alive, ready? HTTP, TCP, commands, gRPC.

Kubernetes asks once a period. Until a container has first answered well we ask more often, since
nothing is gained by finding out late; failures still count once a period.
"""

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import msgspec

from meltemi.local.node.podspec import Container, Grpc, HttpGet, Probe, TcpSocket

EAGER = 0.1
"""Seconds between two tries before the first success."""
_SHOWN = 500
"""Characters of a command's output that an event repeats."""

RunCommand = Callable[[tuple[str, ...], float], Awaitable[tuple[int, str]]]
"""Runs a command in the container: (command, timeout in seconds) to exit code and output."""


class Verdict(msgspec.Struct, frozen=True):
    is_good: bool
    reason: str = ""


class Prober:
    """Asks the containers of one pod."""

    def __init__(self, ip: str, session: aiohttp.ClientSession) -> None:
        self._ip = ip
        self._session = session

    async def ask(self, probe: Probe, container: Container, run: RunCommand) -> Verdict:
        """One question; never raises for what the container does."""
        try:
            async with asyncio.timeout(probe.timeout_seconds):
                if probe.http_get is not None:
                    return await self._http(probe.http_get, container)
                if probe.tcp_socket is not None:
                    return await self._tcp(probe.tcp_socket, container)
                if probe.grpc is not None:
                    return await self._grpc(probe.grpc)
                if probe.exec is not None:
                    code, said = await run(probe.exec.command, probe.timeout_seconds)
                    return Verdict(code == 0, said.strip()[:_SHOWN] or f"exit code {code}")
        except TimeoutError:
            return Verdict(False, f"no answer within {probe.timeout_seconds} s")
        return Verdict(True)

    async def _http(self, probe: HttpGet, container: Container) -> Verdict:
        port = container.port_number(probe.port)
        if port is None:
            return Verdict(False, f"port {probe.port}: no port of the container has this name")
        path = probe.path if probe.path.startswith("/") else f"/{probe.path}"
        url = f"{probe.scheme.lower()}://{probe.host or self._ip}:{port}{path}"
        headers = {"User-Agent": "kube-probe/1.31", "Accept": "*/*"}
        headers |= {h.name: h.value for h in probe.http_headers}
        try:
            # Kubelets do not verify certificates of probes either: they ask for life, not identity.
            context = _unverified() if probe.scheme == "HTTPS" else True
            async with self._session.get(url, headers=headers, ssl=context) as reply:
                good = 200 <= reply.status < 400
                return Verdict(good, "" if good else f"GET {url}: HTTP status {reply.status}")
        except (aiohttp.ClientError, OSError) as error:
            return Verdict(False, f"GET {url}: {error}")

    async def _tcp(self, probe: TcpSocket, container: Container) -> Verdict:
        port = container.port_number(probe.port)
        if port is None:
            return Verdict(False, f"port {probe.port}: no port of the container has this name")
        try:
            _, writer = await asyncio.open_connection(probe.host or self._ip, port)
        except OSError as error:
            return Verdict(False, f"connect to {probe.host or self._ip}:{port}: {error.strerror}")
        writer.close()
        return Verdict(True)

    async def _grpc(self, probe: Grpc) -> Verdict:
        import grpc

        name = (probe.service or "").encode()
        request = b"\x0a" + bytes([len(name)]) + name if name else b""
        async with grpc.aio.insecure_channel(f"{self._ip}:{probe.port}") as channel:
            try:
                answer = await channel.unary_unary("/grpc.health.v1.Health/Check")(request)
            except grpc.aio.AioRpcError as error:
                return Verdict(False, f"gRPC health: {error.details()}")
        # HealthCheckResponse{status = 1}: field 1, varint; SERVING is 1.
        return Verdict(answer == b"\x08\x01", "gRPC health: not serving")


@functools.cache
def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def decisions(
    probe: Probe,
    ask: Callable[[], Awaitable[Verdict]],
    *,
    is_eager: bool,
    failed: Callable[[str], None],
    now: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[bool]:
    """Ask for ever; yield what the thresholds decide: the first time, and at each change.

    For a state that is bad again and again, at every threshold of failures. `failed` hears of
    each failure that counts.
    """
    await sleep(probe.initial_delay_seconds)
    period = max(probe.period_seconds, 1)
    hurries = is_eager and probe.success_threshold == 1
    state: bool | None = None
    goods = bads = 0
    counted = now() - period
    while True:
        started = now()
        verdict = await ask()
        if verdict.is_good:
            goods, bads = goods + 1, 0
            if state is not True and goods >= probe.success_threshold:
                state = True
                yield True
        elif started - counted >= period * 0.99:
            goods, counted, bads = 0, started, bads + 1
            failed(verdict.reason)
            if bads >= probe.failure_threshold:
                bads, state = 0, False
                yield False
        pause = EAGER if hurries and state is not True else period
        await sleep(max(0.0, started + min(pause, period) - now()))

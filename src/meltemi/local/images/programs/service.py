"""What the built-in HTTP programs share: serving until SIGTERM, and passing headers on."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiohttp import web

from meltemi.local.images.programs.sockets import BACKLOG, listening

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PROPAGATED = (
    "x-request-id",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-ot-span-context",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "x-cloud-trace-context",
    "traceparent",
    "tracestate",
    "grpc-trace-bin",
    "sw8",
    "end-user",
    "user-agent",
    "cookie",
    "authorization",
    "jwt",
)
"""Headers that a request takes along to the services behind, so that traces and routes hold."""

_GRACE = 1.0


def passed_on(request: web.Request) -> dict[str, str]:
    return {name: request.headers[name] for name in PROPAGATED if name in request.headers}


def serve(application: web.Application, ports: Sequence[int]) -> int:
    """Serve on all addresses until SIGTERM; open requests get a moment to finish."""
    return asyncio.run(_serve(application, ports))


async def _serve(application: web.Application, ports: Sequence[int]) -> int:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    runner = web.AppRunner(
        application, access_log=None, handle_signals=False, shutdown_timeout=_GRACE
    )
    await runner.setup()
    try:
        for port in ports:
            for sock in listening(port):
                await web.SockSite(runner, sock, backlog=BACKLOG).start()
        print(f"listening on {', '.join(map(str, ports))}", flush=True)
        await stopping.wait()
    finally:
        await runner.cleanup()
    return 0


def port_of(argv: Sequence[str], default: int = 9080) -> int:
    """The first argument, as Bookinfo's images take it."""
    return int(argv[0]) if argv and argv[0].isdecimal() else default


@web.middleware
async def log_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One line a request; headers stay out of it."""
    status = 500
    try:
        response: web.StreamResponse = await handler(request)
        status = response.status
        return response
    except web.HTTPException as error:
        status = error.status
        raise
    finally:
        if request.path != "/health":
            print(f"{request.method} {request.path} {status}", file=sys.stdout, flush=True)


def text(env: Mapping[str, str], name: str, default: str) -> str:
    return env.get(name) or default

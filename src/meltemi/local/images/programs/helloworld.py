"""Istio's hello-world sample: says its version and instance."""

from collections.abc import Mapping, Sequence

from aiohttp import web

from meltemi.local.images.programs.service import log_requests, serve

_PORT = 5000


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    version, instance = env.get("SERVICE_VERSION", "unknown"), env.get("HOSTNAME", "unknown")

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text=f"Hello version: {version}, instance: {instance}\n")

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="Helloworld is healthy")

    app = web.Application(middlewares=[log_requests])
    app.add_routes([web.get("/hello", hello), web.get("/health", health)])
    return serve(app, [_PORT])

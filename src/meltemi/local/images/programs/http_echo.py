"""Answers every request with one text: `-text=hello -listen=:5678`."""

import argparse
from collections.abc import Mapping, Sequence

from aiohttp import web

from meltemi.local.images.programs.service import log_requests, serve


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(prog="http-echo")
    parser.add_argument("-text", "--text", default=env.get("ECHO_TEXT", "hello-world"))
    parser.add_argument("-listen", "--listen", default=":5678")
    parser.add_argument("-status-code", "--status-code", type=int, default=200)
    options, _ = parser.parse_known_args(argv)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=f"{options.text}\n", status=options.status_code)

    app = web.Application(middlewares=[log_requests])
    app.add_routes([web.route("*", "/{path:.*}", answer)])
    return serve(app, [int(options.listen.rpartition(":")[2])])

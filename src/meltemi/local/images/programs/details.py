"""Bookinfo's details: facts about a book."""

from collections.abc import Mapping, Sequence

from aiohttp import web

from meltemi.local.images.programs.service import log_requests, port_of, serve


def application() -> web.Application:
    app = web.Application(middlewares=[log_requests])
    app.add_routes([web.get("/health", _health), web.get("/details/{id}", _details)])
    return app


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"status": "Details is healthy"})


async def _details(request: web.Request) -> web.Response:
    number = request.match_info["id"]
    if not number.isdecimal():
        return web.json_response({"error": "please provide numeric product id"}, status=400)
    return web.json_response(
        {
            "id": int(number),
            "author": "William Shakespeare",
            "year": 1595,
            "type": "paperback",
            "pages": 200,
            "publisher": "PublisherA",
            "language": "English",
            "ISBN-10": "1234567890",
            "ISBN-13": "123-1234567890",
        }
    )


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    return serve(application(), [port_of(argv)])

"""Bookinfo's ratings: stars per reviewer, kept in memory."""

import random
from collections.abc import Mapping, Sequence

from aiohttp import web

from meltemi.local.images.programs.service import log_requests, port_of, serve

_FIRST = {"Reviewer1": 5, "Reviewer2": 4}


class Ratings:
    """The store and its HTTP face; `version` v-faulty fails every second request by chance."""

    def __init__(self, version: str, random_: random.Random) -> None:
        self._version = version
        self._random = random_
        self._stars: dict[int, dict[str, int]] = {}

    def application(self) -> web.Application:
        app = web.Application(middlewares=[log_requests])
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/ratings/{id}", self._get),
                web.post("/ratings/{id}", self._post),
            ]
        )
        return app

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "Ratings is healthy"})

    async def _get(self, request: web.Request) -> web.Response:
        number = request.match_info["id"]
        if not number.isdecimal():
            return web.json_response({"error": "please provide numeric product ID"}, status=400)
        if self._version == "v-faulty" and self._random.random() < 0.5:
            return web.json_response({"error": "Service unavailable"}, status=503)
        stars = self._stars.get(int(number), _FIRST)
        return web.json_response({"id": int(number), "ratings": stars})

    async def _post(self, request: web.Request) -> web.Response:
        number = request.match_info["id"]
        if not number.isdecimal():
            return web.json_response({"error": "please provide numeric product ID"}, status=400)
        try:
            stars = await request.json()
            self._stars[int(number)] = {str(k): int(v) for k, v in stars.items()}
        except (ValueError, AttributeError):
            return web.json_response({"error": "please provide valid ratings JSON"}, status=400)
        return web.json_response({"id": int(number), "ratings": self._stars[int(number)]})


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    ratings = Ratings(env.get("SERVICE_VERSION", "v1"), random.Random())
    return serve(ratings.application(), [port_of(argv)])

"""Bookinfo's reviews: v1 without ratings, v2 with black stars, v3 with red ones."""

import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp
from aiohttp import web

from meltemi.local.images.programs.service import log_requests, passed_on, port_of, serve, text

_TEXTS = (
    (
        "Reviewer1",
        "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!",
    ),
    (
        "Reviewer2",
        "Absolutely fun and entertaining. The play lacks thematic depth when compared to other "
        "plays by Shakespeare.",
    ),
)
_PATIENCE = {"black": 10.0}
"""Seconds for ratings, by star colour; the others have 2.5."""


class Reviews:
    """Configured by ENABLE_RATINGS, STAR_COLOR, RATINGS_HOSTNAME and SERVICES_DOMAIN."""

    def __init__(self, env: Mapping[str, str]) -> None:
        domain = env.get("SERVICES_DOMAIN", "")
        host = text(env, "RATINGS_HOSTNAME", "ratings") + (f".{domain}" if domain else "")
        port = text(env, "RATINGS_SERVICE_PORT", "9080")
        self._url = f"http://{host}:{port if port.isdecimal() else '9080'}/ratings"
        self._asks = env.get("ENABLE_RATINGS", "").lower() == "true"
        self._color = text(env, "STAR_COLOR", "black")
        self._pod = env.get("HOSTNAME") or socket.gethostname()
        self._cluster = text(env, "CLUSTER_NAME", "null")
        self._session: aiohttp.ClientSession | None = None

    def application(self) -> web.Application:
        app = web.Application(middlewares=[log_requests])
        app.cleanup_ctx.append(self._client)
        app.add_routes([web.get("/health", self._health), web.get("/reviews/{id}", self._get)])
        return app

    async def _client(self, _: web.Application) -> AsyncIterator[None]:
        limit = aiohttp.ClientTimeout(total=_PATIENCE.get(self._color, 2.5))
        async with aiohttp.ClientSession(timeout=limit) as self._session:
            yield

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "Reviews is healthy"})

    async def _get(self, request: web.Request) -> web.Response:
        reviews: list[dict[str, Any]] = [{"reviewer": n, "text": t} for n, t in _TEXTS]
        if self._asks:
            stars = await self._ratings(request)
            for review in reviews:
                if stars is None:
                    review["rating"] = {"error": "Ratings service is currently unavailable"}
                elif review["reviewer"] in stars:
                    review["rating"] = {"stars": stars[review["reviewer"]], "color": self._color}
        return web.json_response(
            {
                "id": request.match_info["id"],
                "podname": self._pod,
                "clustername": self._cluster,
                "reviews": reviews,
            }
        )

    async def _ratings(self, request: web.Request) -> Mapping[str, int] | None:
        assert self._session is not None
        url = f"{self._url}/{request.match_info['id']}"
        try:
            async with self._session.get(url, headers=passed_on(request)) as reply:
                if reply.status != 200:
                    return None
                found: Mapping[str, int] = (await reply.json())["ratings"]
                return found
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
            return None


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    return serve(Reviews(env).application(), [port_of(argv)])

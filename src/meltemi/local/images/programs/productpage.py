"""Bookinfo's front: a page put together from details and reviews, with a login."""

import html
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
import msgspec
from aiohttp import web

from meltemi.local.images.programs.service import log_requests, passed_on, port_of, serve, text

_TIMEOUT = 3.0
_ATTEMPTS = {"reviews": 2}
_PRODUCT = {
    "id": 0,
    "title": "The Comedy of Errors",
    "descriptionHtml": "Two pairs of twins, separated by a shipwreck, meet in Ephesus, where "
    "everyone takes each of them for the other.",
}
_STYLE = """
:root{color-scheme:light dark;--ink:#1d2330;--dim:#5d6675;--line:#d9dde5;--card:#fff;--page:#f4f6f9;
--accent:#0a5fb4}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebf1;--dim:#9aa4b5;--line:#333b49;--card:#1b212c;
--page:#12161d;--accent:#7db9ff}}
*{box-sizing:border-box}body{margin:0;font:16px/1.5 system-ui,sans-serif;color:var(--ink);
background:var(--page)}header{display:flex;justify-content:space-between;align-items:center;
padding:.75rem 1.5rem;background:var(--card);border-bottom:1px solid var(--line)}
main{max-width:62rem;margin:0 auto;padding:2rem 1.5rem;display:grid;gap:1.5rem;
grid-template-columns:1fr 1fr}h1,.lead{grid-column:1/-1;margin:0}.lead{color:var(--dim)}
section{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:1.25rem}
h2{font-size:1.1rem;margin:0 0 .75rem}
dl{display:grid;grid-template-columns:auto 1fr;gap:.25rem 1rem;
margin:0}dt{color:var(--dim)}dd{margin:0}blockquote{margin:0 0 1rem}cite{color:var(--dim)}
.text-black-500{color:var(--ink)}.text-red-500{color:#d1293d}.error{color:#d1293d;font-weight:600}
form{display:flex;gap:.5rem}input,button{font:inherit;padding:.25rem .6rem;border-radius:.3rem;
border:1px solid var(--line);background:var(--page);color:var(--ink)}a{color:var(--accent)}
small{color:var(--dim)}@media(max-width:48rem){main{grid-template-columns:1fr}}
"""


class Backend(msgspec.Struct, frozen=True):
    """A service behind the page: its URL and what to say when it fails."""

    name: str
    url: str
    complaint: str


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: Any


class ProductPage:
    """Configured by SERVICES_DOMAIN, {DETAILS,REVIEWS,RATINGS}_{HOSTNAME,SERVICE_PORT}."""

    def __init__(self, env: Mapping[str, str], *, timeout: float = _TIMEOUT) -> None:
        self._backends = {name: _backend(env, name) for name in ("details", "reviews", "ratings")}
        self._flood = int(env.get("FLOOD_FACTOR", "0") or 0)
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self._results: dict[tuple[str, int], int] = {}

    def application(self) -> web.Application:
        app = web.Application(middlewares=[log_requests])
        app.cleanup_ctx.append(self._client)
        app.add_routes(
            [
                web.get("/", self._index),
                web.get("/index.html", self._index),
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.get("/productpage", self._page),
                web.post("/login", self._login),
                web.get("/logout", self._logout),
                web.get("/static/style.css", self._style),
                web.get("/api/v1/products", self._products),
                web.get("/api/v1/products/{id}", self._api),
                web.get("/api/v1/products/{id}/{what:reviews|ratings}", self._api),
            ]
        )
        return app

    async def _client(self, _: web.Application) -> AsyncIterator[None]:
        limit = aiohttp.ClientTimeout(total=self._timeout)
        async with aiohttp.ClientSession(timeout=limit) as self._session:
            yield

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="Product page is healthy")

    async def _metrics(self, _: web.Request) -> web.Response:
        lines = ["# TYPE request_result_total counter"]
        for (name, code), count in sorted(self._results.items()):
            labels = f'destination_app="{name}",response_code="{code}"'
            lines.append(f"request_result_total{{{labels}}} {count}")
        return web.Response(text="\n".join(lines) + "\n")

    async def _style(self, _: web.Request) -> web.Response:
        return web.Response(text=_STYLE, content_type="text/css")

    async def _index(self, _: web.Request) -> web.Response:
        body = (
            '<h1>Bookinfo</h1><p class="lead">A page made by four services in several versions. '
            '<a href="/productpage?u=normal">Open it as a visitor</a>.</p>'
        )
        return _html("Simple Bookstore App", body, user="")

    async def _page(self, request: web.Request) -> web.Response:
        user = _user(request)
        for _ in range(self._flood):
            await self._ask("reviews", "0", request, user)
        details = await self._ask("details", "0", request, user)
        reviews = await self._ask("reviews", "0", request, user)
        body = (
            f"<h1>{_PRODUCT['title']}</h1><p class=lead>{_PRODUCT['descriptionHtml']}</p>"
            f"{_details(details)}{_reviews(reviews)}"
        )
        return _html("Simple Bookstore App", body, user=user)

    async def _login(self, request: web.Request) -> web.Response:
        form = await request.post()
        response = _back(request)
        user = quote(str(form.get("username", ""))[:64])
        response.set_cookie("session", user, httponly=True, samesite="Lax")
        return response

    async def _logout(self, request: web.Request) -> web.Response:
        response = _back(request)
        response.del_cookie("session")
        return response

    async def _products(self, _: web.Request) -> web.Response:
        return web.json_response([_PRODUCT])

    async def _api(self, request: web.Request) -> web.Response:
        what = request.match_info.get("what", "details")
        answer = await self._ask(what, request.match_info["id"], request, _user(request))
        return web.json_response(answer.body, status=answer.status)

    async def _ask(self, name: str, product: str, request: web.Request, user: str) -> Answer:
        """Ask a service, again where it is worth it; failure becomes an answer too."""
        assert self._session is not None
        backend = self._backends[name]
        headers = passed_on(request)
        if user:
            headers["end-user"] = user
        status = 500
        for _ in range(_ATTEMPTS.get(name, 1)):
            try:
                url = f"{backend.url}/{quote(product)}"
                async with self._session.get(url, headers=headers) as reply:
                    status = reply.status
                    if status == 200:
                        self._count(name, status)
                        return Answer(200, await reply.json(content_type=None))
            except (aiohttp.ClientError, TimeoutError, ValueError):
                status = 500
            self._count(name, status)
        return Answer(status, {"error": backend.complaint})

    def _count(self, name: str, status: int) -> None:
        self._results[name, status] = self._results.get((name, status), 0) + 1


def _backend(env: Mapping[str, str], name: str) -> Backend:
    domain = env.get("SERVICES_DOMAIN", "")
    host = text(env, f"{name.upper()}_HOSTNAME", name) + (f".{domain}" if domain else "")
    port = text(env, f"{name.upper()}_SERVICE_PORT", "9080")
    what = "product details" if name == "details" else f"product {name}"
    return Backend(
        name,
        f"http://{host}:{port if port.isdecimal() else '9080'}/{name}",
        f"Sorry, {what} are currently unavailable for this book.",
    )


def _user(request: web.Request) -> str:
    """The logged-in name; a header that a caller sent itself counts too."""
    return unquote(request.cookies.get("session", "")) or request.headers.get("end-user", "")


def _back(request: web.Request) -> web.Response:
    """Where the visitor came from, on this site only."""
    came = request.headers.get("Referer", "")
    path = "/" + came.split("/", 3)[3] if came.count("/") >= 3 else "/productpage"
    return web.Response(status=302, headers={"Location": path})


def _details(answer: Answer) -> str:
    if answer.status != 200:
        return (
            "<section><h2>Book Details</h2><p class=error>Error fetching product details!</p>"
            f"<p>{html.escape(answer.body['error'])}</p></section>"
        )
    names = ("type", "pages", "publisher", "language", "ISBN-10", "ISBN-13")
    rows = "".join(
        f"<dt>{name.capitalize() if name.islower() else name}</dt>"
        f"<dd>{html.escape(str(answer.body.get(name, '')))}</dd>"
        for name in names
    )
    return f"<section><h2>Book Details</h2><dl>{rows}</dl></section>"


def _reviews(answer: Answer) -> str:
    if answer.status != 200:
        return (
            "<section><h2>Book Reviews</h2><p class=error>Error fetching product reviews!</p>"
            f"<p>{html.escape(answer.body['error'])}</p></section>"
        )
    parts = []
    for review in answer.body["reviews"]:
        rating = review.get("rating")
        stars = ""
        if rating and "error" in rating:
            stars = f"<p class=error>{html.escape(rating['error'])}</p>"
        elif rating:
            count = int(rating["stars"])
            color = html.escape(str(rating["color"]))
            stars = (
                f'<p class="text-{color}-500" role=img aria-label="{count} of 5 stars, {color}">'
                f"{'★' * count}{'☆' * (5 - count)}</p>"
            )
        parts.append(
            f"<blockquote>{html.escape(review['text'])}{stars}"
            f"<cite>{html.escape(review['reviewer'])}</cite></blockquote>"
        )
    served = html.escape(str(answer.body.get("podname", "")))
    return (
        f"<section><h2>Book Reviews</h2>{''.join(parts)}"
        f"<small>Reviews served by: <b>{served}</b></small></section>"
    )


def _html(title: str, body: str, *, user: str) -> web.Response:
    form = (
        "<form method=post action=/login><input name=username aria-label=User placeholder=user "
        "required><input name=passwd type=password aria-label=Password placeholder=password>"
        "<button>Sign in</button></form>"
    )
    if user:
        form = f"<span>{html.escape(user)} (<a href=/logout>sign out</a>)</span>"
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><meta "
        'name=viewport content="width=device-width"><link rel=stylesheet href=/static/style.css>'
        f"<header><b>Bookinfo</b>{form}</header><main>{body}</main></html>"
    )
    return web.Response(text=page, content_type="text/html")


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    return serve(ProductPage(env).application(), [port_of(argv)])

"""An HTTP service that answers with what it was asked, or as it was asked to: httpbin's endpoints.

Headers are strings, or lists of strings with `--lists`, as the implementation in Go has them.
"""

import argparse
import asyncio
import base64
import gzip
import json
import os
import random
import uuid
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
from aiohttp import web

from meltemi.local.images.programs.service import log_requests, serve

_LONGEST_DELAY = 10.0
_MOST_BYTES = 100 << 10
_MOST_LINES = 100
_MOST_BODY = 64 << 20
_BODY_METHODS = ("POST", "PUT", "PATCH", "DELETE")
_TEAPOT = "I am a teapot.\n"
_PAGE = (
    "<!DOCTYPE html><html><head><title>{0}</title></head><body><h1>{0}</h1><p>{1}</p></body></html>"
)
_POEM = "The wind from the north is called meltemi; it fills the sails and clears the sky."


class Httpbin:
    """Routes by path; every answer about the request comes from `_request`."""

    def __init__(self, env: Mapping[str, str], *, lists: bool) -> None:
        self._hostname = env.get("HOSTNAME", "")
        self._lists = lists

    def application(self) -> web.Application:
        app = web.Application(middlewares=[log_requests], client_max_size=_MOST_BODY)
        app.add_routes([*self._about_requests(), *self._about_answers()])
        return app

    def _about_requests(self) -> Sequence[web.RouteDef]:
        return [
            web.get("/", self._index),
            web.get("/get", self._get),
            *(web.route(m, f"/{m.lower()}", self._with_body) for m in _BODY_METHODS),
            web.route("*", "/anything{rest:(/.*)?}", self._with_body),
            web.get("/headers", self._headers),
            web.get("/ip", self._ip),
            web.get("/user-agent", self._user_agent),
            web.get("/uuid", self._uuid),
            web.get("/hostname", self._host),
            web.get("/cookies", self._cookies),
            web.get("/cookies/set", self._set_cookies),
            web.get("/cookies/set/{name}/{value}", self._set_cookie),
            web.get("/cookies/delete", self._delete_cookies),
            web.get("/basic-auth/{user}/{password}", self._basic),
            web.get("/hidden-basic-auth/{user}/{password}", self._basic),
            web.get("/bearer", self._bearer),
            web.get("/websocket/echo", self._websocket),
        ]

    def _about_answers(self) -> Sequence[web.RouteDef]:
        return [
            web.route("*", "/status/{codes}", self._status),
            web.route("*", "/delay/{seconds}", self._delay),
            web.get("/redirect/{count:[0-9]+}", self._redirect),
            web.get("/relative-redirect/{count:[0-9]+}", self._redirect),
            web.get("/absolute-redirect/{count:[0-9]+}", self._redirect),
            web.route("*", "/redirect-to", self._redirect_to),
            web.get("/gzip", self._gzip),
            web.get("/deflate", self._deflate),
            web.get("/bytes/{count:[0-9]+}", self._bytes),
            web.get("/stream-bytes/{count:[0-9]+}", self._bytes),
            web.get("/stream/{count:[0-9]+}", self._stream),
            web.get("/drip", self._drip),
            web.get("/base64/{value}", self._base64),
            web.route("*", "/response-headers", self._response_headers),
            web.get("/cache", self._cache),
            web.get("/cache/{seconds:[0-9]+}", self._cache_for),
            web.get("/etag/{tag}", self._etag),
            web.get("/html", self._html),
            web.get("/json", self._json),
            web.get("/xml", self._xml),
            web.get("/robots.txt", self._robots),
            web.get("/deny", self._deny),
            web.get("/encoding/utf8", self._utf8),
        ]

    def _mapping(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Several values of a name are a list; with `lists`, one is, too."""
        found: dict[str, Any] = {}
        for name, value in pairs:
            found.setdefault(name, []).append(value)
        if self._lists:
            return found
        return {name: values[0] if len(values) == 1 else values for name, values in found.items()}

    def _header_map(self, request: web.Request) -> dict[str, Any]:
        pairs = sorted((name.title(), value) for name, value in request.headers.items())
        found = self._mapping(pairs)
        if self._lists:
            return found
        return {n: ",".join(v) if isinstance(v, list) else v for n, v in found.items()}

    def _request(self, request: web.Request) -> dict[str, Any]:
        return {
            "args": self._mapping(list(request.query.items())),
            "headers": self._header_map(request),
            "origin": _origin(request),
            "url": str(request.url),
        }

    async def _index(self, _: web.Request) -> web.Response:
        text = "An HTTP request and response service: /get, /headers, /status/418, /delay/2, ..."
        return web.Response(text=_PAGE.format("httpbin", text), content_type="text/html")

    async def _get(self, request: web.Request) -> web.Response:
        return _answer(self._request(request))

    async def _with_body(self, request: web.Request) -> web.Response:
        raw = await request.read()
        found = {**self._request(request), "method": request.method}
        text = raw.decode(errors="replace")
        form: dict[str, Any] = {}
        parsed: Any = None
        if request.content_type == "application/x-www-form-urlencoded":
            form = self._mapping([(k, str(v)) for k, v in (await request.post()).items()])
            text = ""
        elif raw:
            try:
                parsed = json.loads(raw)
            except ValueError:
                parsed = None
        return _answer({**found, "data": text, "files": {}, "form": form, "json": parsed})

    async def _headers(self, request: web.Request) -> web.Response:
        return _answer({"headers": self._header_map(request)})

    async def _ip(self, request: web.Request) -> web.Response:
        return _answer({"origin": _origin(request)})

    async def _user_agent(self, request: web.Request) -> web.Response:
        return _answer({"user-agent": request.headers.get("User-Agent", "")})

    async def _uuid(self, _: web.Request) -> web.Response:
        return _answer({"uuid": str(uuid.uuid4())})

    async def _host(self, _: web.Request) -> web.Response:
        return _answer({"hostname": self._hostname})

    async def _status(self, request: web.Request) -> web.Response:
        """One code, or several with weights: 200:0.9,503:0.1."""
        codes, weights = [], []
        try:
            for choice in request.match_info["codes"].split(","):
                code, _, weight = choice.partition(":")
                codes.append(int(code))
                weights.append(float(weight or 1))
            code_ = random.choices(codes, weights)[0]
        except ValueError:
            return web.Response(status=400, text="Invalid status code\n")
        headers = {"Location": "/redirect/1"} if 300 <= code_ < 400 and code_ != 304 else {}
        if code_ == 401:
            headers["WWW-Authenticate"] = 'Basic realm="Fake Realm"'
        if not 200 <= code_ < 600:
            return web.Response(status=400, text="Invalid status code\n")
        return web.Response(status=code_, headers=headers, text=_TEAPOT if code_ == 418 else "")

    async def _delay(self, request: web.Request) -> web.Response:
        try:
            seconds = float(request.match_info["seconds"].removesuffix("s"))
        except ValueError:
            return web.Response(status=400, text="delay: a number of seconds is expected\n")
        await asyncio.sleep(min(max(seconds, 0.0), _LONGEST_DELAY))
        return await self._with_body(request)

    async def _redirect(self, request: web.Request) -> web.Response:
        count = int(request.match_info["count"])
        kind = request.path.split("/")[1]
        target = "/get" if count <= 1 else f"/{kind}/{count - 1}"
        if kind == "absolute-redirect":
            target = str(request.url.origin()) + target
        return web.Response(status=302, headers={"Location": target})

    async def _redirect_to(self, request: web.Request) -> web.Response:
        code = request.query.get("status_code", "302")
        status = int(code) if code.isdecimal() and code.startswith("3") else 302
        return web.Response(status=status, headers={"Location": request.query.get("url", "/")})

    async def _cookies(self, request: web.Request) -> web.Response:
        return _answer({"cookies": dict(request.cookies)})

    async def _set_cookies(self, request: web.Request) -> web.Response:
        response = web.Response(status=302, headers={"Location": "/cookies"})
        for name, value in request.query.items():
            response.set_cookie(name, value)
        return response

    async def _set_cookie(self, request: web.Request) -> web.Response:
        response = web.Response(status=302, headers={"Location": "/cookies"})
        response.set_cookie(request.match_info["name"], request.match_info["value"])
        return response

    async def _delete_cookies(self, request: web.Request) -> web.Response:
        response = web.Response(status=302, headers={"Location": "/cookies"})
        for name in request.query:
            response.del_cookie(name)
        return response

    async def _basic(self, request: web.Request) -> web.Response:
        user, password = request.match_info["user"], request.match_info["password"]
        wanted = aiohttp.encode_basic_auth(user, password)
        if request.headers.get("Authorization") == wanted:
            return _answer({"authenticated": True, "user": user})
        if request.path.startswith("/hidden"):
            return web.Response(status=404)
        challenge = {"WWW-Authenticate": 'Basic realm="Fake Realm"'}
        return web.Response(status=401, headers=challenge)

    async def _bearer(self, request: web.Request) -> web.Response:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind != "Bearer" or not token:
            return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})
        return _answer({"authenticated": True, "token": token})

    async def _gzip(self, request: web.Request) -> web.Response:
        body = gzip.compress(_encoded({**self._request(request), "gzipped": True}))
        return _compressed(body, "gzip")

    async def _deflate(self, request: web.Request) -> web.Response:
        body = zlib.compress(_encoded({**self._request(request), "deflated": True}))
        return _compressed(body, "deflate")

    async def _bytes(self, request: web.Request) -> web.Response:
        count = min(int(request.match_info["count"]), _MOST_BYTES)
        return web.Response(body=os.urandom(count), content_type="application/octet-stream")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for number in range(min(int(request.match_info["count"]), _MOST_LINES)):
            line = json.dumps({**self._request(request), "id": number})
            await response.write(line.encode() + b"\n")
        return response

    async def _drip(self, request: web.Request) -> web.StreamResponse:
        """`numbytes` bytes over `duration` seconds, after `delay`, with status `code`."""
        query = request.query
        try:
            count = min(int(query.get("numbytes", "10")), _MOST_BYTES)
            duration = min(float(query.get("duration", "2")), _LONGEST_DELAY)
            delay = min(float(query.get("delay", "0")), _LONGEST_DELAY)
            code = int(query.get("code", "200"))
        except ValueError:
            return web.Response(status=400, text="drip: numbers are expected\n")
        await asyncio.sleep(delay)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(count)}
        response = web.StreamResponse(status=code, headers=headers)
        await response.prepare(request)
        for _ in range(count):
            await response.write(b"*")
            await asyncio.sleep(duration / max(count, 1))
        return response

    async def _base64(self, request: web.Request) -> web.Response:
        try:
            text = base64.urlsafe_b64decode(request.match_info["value"]).decode()
        except ValueError:
            return web.Response(status=400, text="Incorrect Base64 data\n")
        return web.Response(text=text)

    async def _response_headers(self, request: web.Request) -> web.Response:
        response = _answer(self._mapping(list(request.query.items())))
        for name, value in request.query.items():
            response.headers.add(name, value)
        return response

    async def _cache(self, request: web.Request) -> web.Response:
        if "If-Modified-Since" in request.headers or "If-None-Match" in request.headers:
            return web.Response(status=304)
        response = _answer(self._request(request))
        response.headers["ETag"] = uuid.uuid4().hex
        return response

    async def _cache_for(self, request: web.Request) -> web.Response:
        response = _answer(self._request(request))
        response.headers["Cache-Control"] = f"public, max-age={request.match_info['seconds']}"
        return response

    async def _etag(self, request: web.Request) -> web.Response:
        tag = request.match_info["tag"]
        known = [t.strip().strip('"') for t in request.headers.get("If-None-Match", "").split(",")]
        headers = {"ETag": f'"{tag}"'}
        if tag in known or "*" in known:
            return web.Response(status=304, headers=headers)
        response = _answer(self._request(request))
        response.headers.update(headers)
        return response

    async def _html(self, _: web.Request) -> web.Response:
        return web.Response(text=_PAGE.format("Meltemi", _POEM), content_type="text/html")

    async def _json(self, _: web.Request) -> web.Response:
        return _answer({"slideshow": {"title": "Meltemi", "slides": [{"title": _POEM}]}})

    async def _xml(self, _: web.Request) -> web.Response:
        text = f'<?xml version="1.0"?><slideshow title="Meltemi"><slide>{_POEM}</slide></slideshow>'
        return web.Response(text=text, content_type="application/xml")

    async def _robots(self, _: web.Request) -> web.Response:
        return web.Response(text="User-agent: *\nDisallow: /deny\n")

    async def _deny(self, _: web.Request) -> web.Response:
        return web.Response(text="Robots are not welcome here.\n")

    async def _utf8(self, _: web.Request) -> web.Response:
        return web.Response(
            text=_PAGE.format("Μελτέμι", "ἄνεμος · ветер · 風"), content_type="text/html"
        )

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is web.WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is web.WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        return socket


def _origin(request: web.Request) -> str:
    forwarded = request.headers.get("X-Forwarded-For")
    return forwarded or request.remote or ""


def _encoded(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, indent=2, sort_keys=True).encode() + b"\n"


def _answer(data: Mapping[str, Any]) -> web.Response:
    return web.Response(body=_encoded(data), content_type="application/json")


def _compressed(body: bytes, encoding: str) -> web.Response:
    headers = {"Content-Encoding": encoding}
    return web.Response(body=body, content_type="application/json", headers=headers)


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """Takes `--port N`, and a gunicorn's `-b ADDRESS:PORT`, as samples give it."""
    parser = argparse.ArgumentParser(prog="httpbin")
    parser.add_argument("--port", "-port", type=int, default=int(env.get("PORT", "80")))
    parser.add_argument("-b", "--bind", default="")
    parser.add_argument("--lists", action="store_true")
    options, _ = parser.parse_known_args(argv)
    bound = options.bind.rpartition(":")[2]
    port = int(bound) if bound.isdecimal() else options.port
    return serve(Httpbin(env, lists=options.lists).application(), [port])

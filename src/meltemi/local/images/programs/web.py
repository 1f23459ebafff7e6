"""A web server for files, where an image of nginx or httpd is wanted and neither is installed.

It serves what is mounted at the usual place, or a page that says what it is. It reads no nginx
configuration, and says so.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiohttp import web

from meltemi.local.images.programs.service import log_requests, serve

_ROOT = "/usr/share/nginx/html"
_CONFIGURATION = ("/etc/nginx/nginx.conf", "/etc/nginx/conf.d", "/etc/nginx/templates")
_PAGE = (
    "<!DOCTYPE html><html><head><title>Welcome</title></head><body><h1>Welcome</h1>"
    "<p>This is Meltemi's built-in web server in {0}; nginx is not installed on the machine.</p>"
    "</body></html>\n"
)


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(prog="web")
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--root", default=_ROOT)
    options, _ = parser.parse_known_args(argv)
    for place in _CONFIGURATION:
        if os.path.exists(place):
            print(
                f"web: {place}: nginx is not installed on this machine, and the built-in web "
                "server does not read its configuration: install nginx",
                file=sys.stderr,
            )
            return 1
    return serve(_application(Path(options.root), env), [options.port])


def _application(root: Path, env: Mapping[str, str]) -> web.Application:
    async def answer(request: web.Request) -> web.StreamResponse:
        place = Path(os.path.normpath(root / request.match_info["path"]))
        if not place.is_relative_to(root):
            raise web.HTTPForbidden
        if place.is_dir():
            place = place / "index.html"
        if place.is_file():
            return web.FileResponse(place)
        if place == root / "index.html":
            text = _PAGE.format(env.get("HOSTNAME", "this pod"))
            return web.Response(text=text, content_type="text/html")
        raise web.HTTPNotFound

    app = web.Application(middlewares=[log_requests])
    app.add_routes([web.get("/{path:.*}", answer)])
    return app

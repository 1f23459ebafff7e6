"""Serves the single-page app: its hashed files for ever, the page always fresh, all compressed.

The build leaves a Brotli form beside scripts and styles; gzip is made once, when first asked for.
"""

import asyncio
import gzip
from collections.abc import Mapping
from pathlib import Path

import msgspec
from aiohttp import web

_TYPES = {
    ".css": "text/css",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
"""What shrinks; its type is said here, since browsers are told not to guess."""
_PACKED_TYPES = {".png": "image/png", ".ico": "image/x-icon", ".woff2": "font/woff2"}
_NOT_BUILT = """<!doctype html>
<html lang="en"><title>Meltemi</title>
<h1>The console's pages are not built</h1>
<p>Run <code>make web</code> where Meltemi's sources are, then load this page again.
The API answers meanwhile: <a href="/api/mesh">/api/mesh</a>, <a href="/api/graph">/api/graph</a>.
</html>
"""


class _File(msgspec.Struct, frozen=True):
    path: Path
    content_type: str
    changed: int
    packed: Mapping[str, bytes]
    """The body by content encoding, the smallest first; nothing for what does not shrink."""


class StaticFiles:
    """The files of one directory; any other path is the app's own to route."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self._files: dict[Path, _File] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a GET of a path outside of the API."""
        index = self._directory / "index.html"
        if not index.is_file():
            return web.Response(text=_NOT_BUILT, content_type="text/html", status=503)
        asked = request.match_info["path"]
        wanted = self._inside(asked)
        if wanted is not None and wanted != index:
            is_hashed = wanted.parent == self._directory / "assets"
            age = "public, max-age=31536000, immutable" if is_hashed else "no-cache"
            return await self._answer(request, wanted, {"Cache-Control": age})
        if asked.startswith("assets/"):
            # A page of an older build asks for what is gone: it must not get a page as a script.
            return web.Response(text="there is no such file\n", status=404)
        return await self._answer(request, index, {"Cache-Control": "no-cache"})

    def _inside(self, asked: str) -> Path | None:
        """The file that is asked for, if there is one in the directory."""
        if "\0" in asked:
            return None
        try:
            wanted = (self._directory / asked).resolve()
            return wanted if wanted.is_relative_to(self._directory) and wanted.is_file() else None
        except OSError:
            return None

    async def _answer(
        self, request: web.Request, path: Path, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        found = self._files.get(path)
        if found is None or found.changed != path.stat().st_mtime_ns:
            found = self._files[path] = await asyncio.to_thread(_read, path)
        headers = {**headers, "Vary": "Accept-Encoding", "Content-Type": found.content_type}
        taken = {part.partition(";")[0].strip() for part in _list(request, "Accept-Encoding")}
        encoding = next((name for name in found.packed if name in taken), None)
        if encoding is None:
            return web.FileResponse(path, headers=headers)
        tag = f'"{found.changed:x}-{encoding}"'
        headers["ETag"] = tag
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=headers)
        headers["Content-Encoding"] = encoding
        return web.Response(body=found.packed[encoding], headers=headers)


def _list(request: web.Request, header: str) -> list[str]:
    return request.headers.get(header, "").lower().split(",")


def _read(path: Path) -> _File:
    changed = path.stat().st_mtime_ns
    content_type = _TYPES.get(path.suffix)
    if content_type is None:
        other = _PACKED_TYPES.get(path.suffix, "application/octet-stream")
        return _File(path, other, changed, {})
    packed = {"gzip": gzip.compress(path.read_bytes(), 6, mtime=0)}
    brotli = path.with_name(f"{path.name}.br")
    if brotli.is_file():
        packed = {"br": brotli.read_bytes(), **packed}
    return _File(path, content_type, changed, packed)

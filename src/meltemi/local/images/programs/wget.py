"""The part of wget's command line that people type into a pod: `wget -qO- -T 3 URL`."""

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence

import aiohttp
from yarl import URL

_GENERIC, _NETWORK, _SERVER = 1, 4, 8
"""Exit codes that scripts know."""


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(prog="wget", add_help=False)
    parser.add_argument("urls", nargs="*")
    for flag in ("-q --quiet", "-S --server-response", "--spider", "--no-check-certificate",
                 "-nv --no-verbose"):  # fmt: skip
        parser.add_argument(*flag.split(), action="store_true")
    parser.add_argument("-O", "--output-document", default="")
    parser.add_argument("-T", "--timeout", type=float, default=900)
    parser.add_argument("-t", "--tries", type=int, default=1)
    parser.add_argument("-U", "--user-agent", default="Wget")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--post-data", default=None)
    try:
        options, _ = parser.parse_known_args(argv)
    except SystemExit:
        return _GENERIC
    if not options.urls:
        print("wget: missing URL", file=sys.stderr)
        return _GENERIC
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    limits = aiohttp.ClientTimeout(total=options.timeout)
    connector = aiohttp.TCPConnector(ssl=not options.no_check_certificate)
    code = 0
    async with aiohttp.ClientSession(timeout=limits, connector=connector) as session:
        for text in options.urls:
            url = URL(text if "://" in text else f"http://{text}")
            code = await _get(session, options, url) or code
    return code


async def _get(session: aiohttp.ClientSession, options: argparse.Namespace, url: URL) -> int:
    headers = {"User-Agent": options.user_agent}
    headers |= {n.strip(): v.strip() for n, _, v in (h.partition(":") for h in options.header)}
    method = "HEAD" if options.spider else "GET" if options.post_data is None else "POST"
    try:
        async with session.request(method, url, headers=headers, data=options.post_data) as reply:
            if options.server_response:
                print(f"  HTTP/1.1 {reply.status} {reply.reason}", file=sys.stderr)
                for name, value in reply.headers.items():
                    print(f"  {name}: {value}", file=sys.stderr)
            if reply.status >= 400:
                print(f"wget: server returned error: HTTP/1.1 {reply.status}", file=sys.stderr)
                return _SERVER
            if not options.spider:
                _save(options, url, await reply.read())
            return 0
    except TimeoutError:
        print("wget: download timed out", file=sys.stderr)
    except aiohttp.ClientError as error:
        print(f"wget: can't connect to {url.host}: {error}", file=sys.stderr)
    return _NETWORK


def _save(options: argparse.Namespace, url: URL, body: bytes) -> None:
    if options.output_document == "-":
        sys.stdout.buffer.write(body)
        sys.stdout.flush()
        return
    name = options.output_document or url.name or "index.html"
    with open(os.path.expanduser(name), "wb") as file:
        file.write(body)
    if not options.quiet:
        print(f"'{name}' saved", file=sys.stderr)

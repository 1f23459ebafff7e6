"""The part of curl's command line that people type into a pod."""

import argparse
import asyncio
import ssl
import sys
import time
from collections.abc import Mapping, Sequence

import aiohttp
from yarl import URL

_RESOLVE, _CONNECT, _HTTP, _TIMEOUT, _RECEIVE = 6, 7, 22, 28, 56
"""Exit codes that scripts know."""
_PASSING = (_RESOLVE, _CONNECT, _TIMEOUT, _RECEIVE)
"""Failures that another try may mend."""
_RETRY_PAUSE = 1.0


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    try:
        options, unknown = _parser().parse_known_args(argv)
    except SystemExit:
        return 2
    if unknown:
        print(f"curl: option {unknown[0]}: the built-in curl has no such option", file=sys.stderr)
        return 2
    if not options.urls:
        print("curl: no URL specified", file=sys.stderr)
        return 2
    return asyncio.run(_run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="curl", add_help=False)
    add = parser.add_argument
    add("urls", nargs="*")
    for flag in ("-s --silent", "-S --show-error", "-I --head", "-i --include", "-k --insecure",
                 "-L --location", "-f --fail", "-v --verbose", "-g --globoff",
                 "-N --no-buffer", "--http1.1", "--compressed", "-4 --ipv4"):  # fmt: skip
        add(*flag.split(), action="store_true")
    add("-o", "--output")
    add("-w", "--write-out", default="")
    add("-X", "--request")
    add("-A", "--user-agent")
    add("-b", "--cookie")
    add("-H", "--header", action="append", default=[])
    add("-d", "--data", "--data-raw", "--data-binary", action="append", default=[])
    add("-u", "--user", default="")
    add("-e", "--referer", default="")
    add("--cacert", default="")
    add("--retry", type=int, default=0)
    add("-m", "--max-time", type=float, default=None)
    add("--connect-timeout", type=float, default=None)
    return parser


async def _run(options: argparse.Namespace) -> int:
    limits = aiohttp.ClientTimeout(total=options.max_time, sock_connect=options.connect_timeout)
    trust: ssl.SSLContext | bool = not options.insecure
    if options.cacert and not options.insecure:
        trust = ssl.create_default_context(cafile=options.cacert)
    connector = aiohttp.TCPConnector(ssl=trust)
    code = 0
    async with aiohttp.ClientSession(timeout=limits, connector=connector) as session:
        for url in options.urls:
            for left in reversed(range(options.retry + 1)):
                failure = await _get(session, options, url)
                if failure not in _PASSING or not left:
                    break
                await asyncio.sleep(_RETRY_PAUSE)
            code = failure or code
    return code


async def _get(session: aiohttp.ClientSession, options: argparse.Namespace, url: str) -> int:
    target = URL(url if "://" in url else f"http://{url}")
    begun = time.monotonic()
    status, size = "000", 0
    try:
        async with session.request(
            _method(options),
            target,
            headers=_headers(options),
            data="&".join(options.data) or None,
            allow_redirects=options.location,
        ) as reply:
            status = str(reply.status)
            body = await reply.read()
            size = len(body)
            _show(options, reply, body)
        failed = options.fail and reply.status >= 400
        if failed:
            _complain(options, f"(22) The requested URL returned error: {status}")
        return _HTTP if failed else 0
    except aiohttp.ClientConnectorDNSError:
        _complain(options, f"(6) Could not resolve host: {target.host}")
        return _RESOLVE
    except TimeoutError:
        _complain(options, "(28) Operation timed out")
        return _TIMEOUT
    except aiohttp.ClientConnectorError as error:
        _complain(
            options, f"(7) Failed to connect to {target.host} port {target.port}: {error.strerror}"
        )
        return _CONNECT
    except aiohttp.ClientError as error:
        _complain(options, f"(56) Recv failure: {error or type(error).__name__}")
        return _RECEIVE
    finally:
        _write_out(options, status, size, time.monotonic() - begun)


def _method(options: argparse.Namespace) -> str:
    if options.request:
        return str(options.request)
    return "HEAD" if options.head else "POST" if options.data else "GET"


def _headers(options: argparse.Namespace) -> dict[str, str]:
    headers = {"User-Agent": options.user_agent or "curl/8.0", "Accept": "*/*"}
    if options.cookie:
        headers["Cookie"] = options.cookie
    if options.referer:
        headers["Referer"] = options.referer
    if options.user:
        name, _, password = options.user.partition(":")
        headers["Authorization"] = aiohttp.encode_basic_auth(name, password)
    if options.data:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    for line in options.header:
        name, _, value = line.partition(":")
        headers.pop(name.strip().title(), None)
        headers[name.strip()] = value.strip()
    return headers


def _show(options: argparse.Namespace, reply: aiohttp.ClientResponse, body: bytes) -> None:
    if options.fail and reply.status >= 400:
        return
    out = bytearray()
    if options.include or options.head:
        out += f"HTTP/1.1 {reply.status} {reply.reason}\r\n".encode()
        for name, value in reply.headers.items():
            out += f"{name.lower()}: {value}\r\n".encode()
        out += b"\r\n"
    if not options.head:
        out += body
    if options.output:
        with open(options.output, "wb") as file:
            file.write(out)
    else:
        sys.stdout.buffer.write(out)
        sys.stdout.flush()


def _write_out(options: argparse.Namespace, status: str, size: int, seconds: float) -> None:
    shown = options.write_out
    for name, value in (
        ("http_code", status),
        ("response_code", status),
        ("size_download", str(size)),
        ("time_total", f"{seconds:.6f}"),
    ):
        shown = shown.replace(f"%{{{name}}}", value)
    if shown:
        sys.stdout.write(shown.replace("\\n", "\n").replace("\\t", "\t"))
        sys.stdout.flush()


def _complain(options: argparse.Namespace, message: str) -> None:
    if not options.silent or options.show_error:
        print(f"curl: {message}", file=sys.stderr)

"""Built-in programs, in this process: what they answer, how they end."""

import argparse
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web

from meltemi.local.images.programs import curl
from meltemi.local.images.programs.fortio import Load, _joined, load_options
from meltemi.local.images.programs.httpbin import Httpbin


@contextlib.asynccontextmanager
async def serving(*, lists: bool = False) -> AsyncIterator[str]:
    runner = web.AppRunner(Httpbin({"HOSTNAME": "pod-1"}, lists=lists).application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/get", 200),
        ("/status/204", 204),
        ("/status/503:1", 503),
        ("/status/no", 400),
        ("/redirect/2", 302),
        ("/basic-auth/me/secret", 401),
        ("/hidden-basic-auth/me/secret", 404),
        ("/bearer", 401),
        ("/delay/0.01", 200),
        ("/delay/x", 400),
        ("/gzip", 200),
        ("/bytes/10", 200),
        ("/base64/aGVsbG8=", 200),
        ("/uuid", 200),
        ("/nothing", 404),
    ],
)
async def test_httpbin_has_the_endpoints_people_use(path: str, status: int) -> None:
    async with (
        serving() as base,
        ClientSession() as session,
        session.get(base + path, allow_redirects=False) as reply,
    ):
        assert reply.status == status


async def test_httpbin_shows_what_it_was_sent() -> None:
    async with serving() as base, ClientSession() as session:
        async with session.post(f"{base}/post?a=1&a=2", json={"x": 1}) as reply:
            found = await reply.json()
        assert (found["args"], found["json"]) == ({"a": ["1", "2"]}, {"x": 1})
        async with session.put(f"{base}/anything/deep", data={"f": "v"}) as reply:
            found = await reply.json()
        assert (found["method"], found["form"]) == ("PUT", {"f": "v"})
    async with (
        serving(lists=True) as base,
        ClientSession() as session,
        session.get(f"{base}/headers", headers={"X-One": "1"}) as reply,
    ):
        assert (await reply.json())["headers"]["X-One"] == ["1"]


async def asked(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = await asyncio.to_thread(curl.main, argv, {})
    said = capsys.readouterr()
    return code, said.out, said.err


def _without_log(said: str) -> str:
    """What curl printed: the service, in the same process, logs a line for each request."""
    return "".join(line for line in said.splitlines(keepends=True) if not line.startswith("GET "))


async def test_curl_ends_as_scripts_expect(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as base:
        code, out, _ = await asked(capsys, "-s", "-u", "me:secret", f"{base}/basic-auth/me/secret")
        assert (code, json.loads(_without_log(out))["authenticated"]) == (0, True)
        code, out, _ = await asked(
            capsys, "-s", "-o", "/dev/null", "-w", "%{http_code}\\n", f"{base}/status/418"
        )
        assert (code, _without_log(out)) == (0, "418\n")
        assert (await asked(capsys, "-sf", f"{base}/status/500"))[0] == 22
    assert (await asked(capsys, "-s", base))[0] == 7
    code, _, err = await asked(capsys, "--unheard-of", base)
    assert (code, "--unheard-of" in err) == (2, True)


async def test_fortio_counts_calls_by_code() -> None:
    options = _options("-c", "2", "-n", "20", "-qps=0")
    async with serving() as base:
        options.url = f"{base}/status/503"
        load = Load(options)
        await load.run()
    assert load.codes == {"503": 20}
    assert "Code 503 : 20 (100.0 %)" in load.report()
    assert "All done 20 calls" in load.report()


def _options(*argv: str) -> argparse.Namespace:
    return load_options().parse_args([*_joined(argv), "http://replaced"])

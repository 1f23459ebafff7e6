"""What was acknowledged is there: after 200 kills, on a full disk, at once after a start."""

import asyncio
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from meltemi.kube.kubeconfig import access_from_file, ssl_context

from .conftest import CONFIG_MAPS

KILLS = 200
SERVER = """
import asyncio, os, socket, sys
from pathlib import Path
from meltemi.local.apiserver.server import running

TOLD = int(sys.argv[3])

async def serve(data):
    sock = socket.create_server(("127.0.0.1", int(sys.argv[2])), backlog=128)
    async with running(Path(data), [sock]) as server:
        os.write(TOLD, f"{server.port}\\n".encode())
        await asyncio.Event().wait()

# Imports are paid once: each line on stdin forks a server, which the test kills.
for line in iter(sys.stdin.readline, ""):
    child = os.fork()
    if child == 0:
        asyncio.run(serve(sys.argv[1]))
    os.write(TOLD, f"pid {child}\\n".encode())
    os.waitpid(child, 0)
    os.write(TOLD, b"dead\\n")
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Forge:
    """Starts servers on one data directory, again and again."""

    def __init__(self, data: Path) -> None:
        self.data = data
        read, write = os.pipe()
        self._told = os.fdopen(read)
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(data), str(free_port()), str(write)],
            stdin=subprocess.PIPE,
            text=True,
            pass_fds=(write,),
        )
        os.close(write)
        self.pid = 0

    def start(self) -> float:
        """A server that answers; the seconds it took."""
        assert self._process.stdin is not None
        started = time.monotonic()
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        lines = [self._told.readline(), self._told.readline()]
        self.pid = int(next(line for line in lines if line.startswith("pid")).split()[1])
        return time.monotonic() - started

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self._told.readline() == "dead\n"

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._told.close()


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Forge]:
    found = Forge(tmp_path / "data")
    yield found
    found.close()


class Ledger:
    """What the API has acknowledged, by name: the last value, or None for deleted."""

    def __init__(self) -> None:
        self.sure: dict[str, str | None] = {}
        self.open: dict[str, str | None] = {}
        self.newest = 0
        self.count = 0


async def work(url: str, tls: ssl.SSLContext, ledger: Ledger, chance: random.Random) -> None:
    """Write until the server is gone; each writer has names of its own."""
    connector = aiohttp.TCPConnector(ssl=tls, limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def write(names: list[str]) -> None:
            while True:
                name = chance.choice(names)
                ledger.count += 1
                value = None if chance.random() < 0.2 else str(ledger.count)
                ledger.open[name] = value
                path = f"{url}{CONFIG_MAPS}/{name}"
                if value is None:
                    reply = await session.delete(path)
                else:
                    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
                            "data": {"v": value}}  # fmt: skip
                    reply = await session.patch(
                        f"{path}?fieldManager=t&force=true", data=json.dumps(body),
                        headers={"Content-Type": "application/apply-patch+yaml"},
                    )  # fmt: skip
                answer = await reply.json()
                assert reply.status in (200, 201, 404), answer
                ledger.sure[name] = ledger.open.pop(name)
                version = int(answer.get("metadata", {}).get("resourceVersion", 0))
                ledger.newest = max(ledger.newest, version)

        writers = [write([f"w{w}-{n}" for n in range(3)]) for w in range(4)]
        await asyncio.gather(*writers, return_exceptions=True)


async def check(url: str, tls: ssl.SSLContext, ledger: Ledger) -> None:
    """Every acknowledged write is there; one that was under way is there whole or not at all."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session,
        session.get(f"{url}{CONFIG_MAPS}") as reply,
    ):
        listed = await reply.json()
    found = {i["metadata"]["name"]: i["data"]["v"] for i in listed["items"] if "data" in i
             and "v" in i["data"]}  # fmt: skip
    assert int(listed["metadata"]["resourceVersion"]) >= ledger.newest
    for name, value in ledger.sure.items():
        allowed = {value, ledger.open[name]} if name in ledger.open else {value}
        assert found.get(name) in allowed, name
    ledger.sure = {name: found.get(name) for name in {*ledger.sure, *ledger.open}}
    ledger.open.clear()


def url_and_tls(data: Path) -> tuple[str, ssl.SSLContext]:
    access = access_from_file(data / "kubeconfig")
    tls = ssl_context(access)
    assert tls is not None
    return access.server, tls


@pytest.mark.timeout(240)
async def test_200_kills_lose_no_acknowledged_write(forge: Forge) -> None:
    ledger, chance = Ledger(), random.Random(3)
    starts = []
    for _ in range(KILLS):
        starts.append(await asyncio.to_thread(forge.start))
        url, tls = url_and_tls(forge.data)
        await check(url, tls, ledger)
        writing = asyncio.create_task(work(url, tls, ledger, chance))
        await asyncio.wait([writing], timeout=chance.uniform(0.005, 0.1))
        await asyncio.to_thread(forge.kill)
        await writing
    starts.append(await asyncio.to_thread(forge.start))
    await check(*url_and_tls(forge.data), ledger)
    await asyncio.to_thread(forge.kill)
    starts.sort()
    print(f"{ledger.count} writes; starts: median {starts[len(starts) // 2]:.3f} s")
    assert ledger.count > KILLS
    assert starts[len(starts) // 2] < 1.0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small tmpfs")
async def test_a_full_disk_is_an_error_and_no_corruption() -> None:
    directory = Path(tempfile.mkdtemp(prefix="mltfull"))
    await run("mount", "-t", "tmpfs", "-o", "size=3m", "none", str(directory))
    forge = Forge(directory / "data")
    try:
        await asyncio.to_thread(forge.start)
        url, tls = url_and_tls(forge.data)
        kept, refused = await fill(url, tls)
        assert refused
        assert kept
        await asyncio.to_thread(forge.kill)
        await asyncio.to_thread(forge.start)
        url, tls = url_and_tls(forge.data)
        assert await present(url, tls) == kept
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:
            answers = [await session.delete(f"{url}{CONFIG_MAPS}/{n}") for n in sorted(kept)[:3]]
            assert {a.status for a in answers} <= {200, 500}
        await asyncio.to_thread(forge.kill)
    finally:
        forge.close()
        await run("umount", str(directory))
        directory.rmdir()


async def run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0, command


async def fill(url: str, tls: ssl.SSLContext) -> tuple[set[str], int]:
    """Create until the disk is full; reads go on meanwhile."""
    kept, refused = set(), 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:
        for number in range(60):
            body = {"metadata": {"name": f"n{number}"}, "data": {"x": "y" * 100_000}}
            async with session.post(f"{url}{CONFIG_MAPS}", json=body) as reply:
                if reply.status == 201:
                    kept.add(f"n{number}")
                else:
                    refused += 1
                    assert reply.status == 500
                    assert (await reply.json())["kind"] == "Status"
            if refused > 2:
                break
        async with session.get(f"{url}{CONFIG_MAPS}") as reply:
            assert reply.status == 200
            listed = {i["metadata"]["name"] for i in (await reply.json())["items"]}
            assert listed - {"kube-root-ca.crt"} == kept
    return kept, refused


async def present(url: str, tls: ssl.SSLContext) -> set[str]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session,
        session.get(f"{url}{CONFIG_MAPS}") as reply,
    ):
        names = {i["metadata"]["name"] for i in (await reply.json())["items"]}
    return names - {"kube-root-ca.crt"}

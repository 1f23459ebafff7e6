"""The embedded API in a process of its own, and a client that can keep up with it."""

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from meltemi.kube.kubeconfig import access_from_file, ssl_context
from meltemi.local.memory import pss_mib

READY = b"ready: "


class Server:
    """One run of `python -m meltemi.local.apiserver`."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, data: Path) -> None:
        self.process = process
        self.port = port
        self._data = data

    @property
    def memory(self) -> float:
        """MiB, proportional."""
        return pss_mib([self.process.pid])

    @property
    def cpu(self) -> float:
        """Seconds of CPU it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def tls(self) -> ssl.SSLContext:
        """TLS as the administrator."""
        found = ssl_context(access_from_file(self._data / "kubeconfig"))
        assert found is not None
        return found

    @asynccontextmanager
    async def client(self, connections: int) -> AsyncIterator[aiohttp.ClientSession]:
        access = access_from_file(self._data / "kubeconfig")
        connector = aiohttp.TCPConnector(ssl=ssl_context(access) or False, limit=connections)
        headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
        async with aiohttp.ClientSession(
            access.server, connector=connector, headers=headers
        ) as session:
            yield session


@asynccontextmanager
async def serving(data: Path) -> AsyncIterator[Server]:
    """Start the API on a data directory; it is killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meltemi.local.apiserver", "--data", str(data), "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line.startswith(READY):
            raise RuntimeError(f"the API did not start in {data}")
        yield Server(process, int(line.removeprefix(READY)), data)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def config_map(name: str, **data: str) -> dict[str, Any]:
    """A small object."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "bench"}},
        "data": {"text": "x" * 200, **data},
    }

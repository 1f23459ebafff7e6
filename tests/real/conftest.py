"""A real mesh: real processes, Envoys, namespaces and packets, in a network of its own.

The test process moves into a fresh network namespace first, so that the mesh's ports, bridge and
rules meet nothing else on the machine, a running demo for instance.
"""

import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meltemi.local.node import syscalls

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = "root" if os.geteuid() else "" if shutil.which("kubectl") else "kubectl"
    if missing and os.environ.get("CI") == "true":
        raise pytest.UsageError(f"CI must run the real tests, and this machine has no {missing}")
    for item in items:
        if "tests/real" in str(item.fspath):
            item.add_marker(pytest.mark.real)
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"needs {missing}"))


@pytest.fixture(scope="session")
def own_network() -> None:
    """Leave the machine's network for good; this process is about to do nothing else."""
    syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    Path("/run/netns").mkdir(exist_ok=True)
    syscalls.mount("tmpfs", "/run/netns", "tmpfs")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH22x", b"lo", 1))


class Mesh:
    """One `meltemi up`, and the tools that people use on it."""

    ingress = "http://127.0.0.1:8080"
    console = "http://127.0.0.1:20001"

    def __init__(self, data: Path, prefix: tuple[str, ...] = ()) -> None:
        """`prefix`: a command that runs the others, as another user for instance."""
        self.data = data
        self.prefix = prefix
        self.seconds = 0.0

    def up(self, *options: str) -> None:
        started = time.monotonic()
        self.run(meltemi_command(), "up", "--detach", "--data", str(self.data), *options)
        self.seconds = time.monotonic() - started

    def down(self) -> None:
        self.run(meltemi_command(), "down", "--data", str(self.data))

    def run(self, *argv: str, text: str | None = None, check: bool = True) -> str:
        """A command's output; with `check`, a failure shows what it said."""
        result = self.result(*argv, text=text)
        if check and result.returncode:
            pytest.fail(f"{' '.join(argv)}: {result.stdout}{result.stderr}", pytrace=False)
        return result.stdout

    def result(self, *argv: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "KUBECONFIG": str(self.data / "kubeconfig")}
        return subprocess.run(
            (*self.prefix, *argv),
            input=text,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env=env,
        )

    def kubectl(self, *argv: str, text: str | None = None) -> str:
        return self.run("kubectl", *argv, text=text)

    def meltemi(self, command: str, *argv: str) -> str:
        return self.run(meltemi_command(), command, *argv, "--data", str(self.data))

    def status(self) -> Any:
        return json.loads(self.meltemi("status", "-o", "json"))

    def proxies(self) -> Any:
        return json.loads(self.meltemi("proxy-status", "-o", "json"))

    def apply(self, manifest: str, *waited: str) -> float:
        """Apply YAML (or a file under samples); wait until proxies have acknowledged `waited`.

        Answers the seconds between kubectl's return and the last acknowledgement.
        """
        if manifest.endswith(".yaml"):
            self.kubectl("apply", "-f", str(SAMPLES / manifest))
        else:
            self.kubectl("apply", "-f", "-", text=manifest)
        started = time.monotonic()
        for name in waited:
            self.meltemi("wait", "--for=distribution", name)
        return time.monotonic() - started

    def pid(self, component: str) -> int:
        return int((self.data / "run" / f"{component}.pid").read_text())

    def pod(self, label: str) -> Any:
        return json.loads(self.kubectl("get", "pods", "-l", label, "-o", "json"))["items"][0]

    def logs(self) -> str:
        """What the components said, for a failed test's report."""
        parts = []
        for path in sorted((self.data / "logs").glob("*.log")):
            tail = path.read_text(errors="replace").splitlines()[-30:]
            parts.append(f"== {path.name}\n" + "\n".join(tail))
        return "\n".join(parts)


DANGLING = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: dangling}
spec:
  hosts: [dangling.example.com]
  http: [{timeout: 5s, route: [{destination: {host: nowhere}}]}]
"""
"""A rule that leads nowhere: the mesh takes it, and says what is wrong with it."""


def meltemi_command() -> str:
    return str(Path(sys.executable).parent / "meltemi")


def running_mesh(*options: str, prefix: tuple[str, ...] = (), owner: int = 0) -> Iterator[Mesh]:
    data = Path(tempfile.mkdtemp(prefix="mlt"))
    os.chown(data, owner, owner)
    mesh = Mesh(data, prefix)
    try:
        mesh.up(*options)
        yield mesh
    except BaseException:
        print(mesh.logs())
        raise
    finally:
        if (data / "run" / "supervisor.pid").exists():
            mesh.down()
        shutil.rmtree(data, ignore_errors=True)


@pytest.fixture(scope="module")
def bookinfo(own_network: None) -> Iterator[Mesh]:
    """Bookinfo with its traffic; the tests of a module share it."""
    yield from running_mesh("--demo", "bookinfo")


@pytest.fixture(scope="module")
def platform(own_network: None) -> Iterator[Mesh]:
    """The platform with its control plane and gateway, and no application."""
    yield from running_mesh()


@pytest.fixture
def mesh(bookinfo: Mesh) -> Iterator[Mesh]:
    """The shared mesh without any routing rule; afterwards no proxy may have refused anything."""
    yield bookinfo
    refused = [line for proxy in bookinfo.proxies() for line in proxy["rejected"]]
    assert refused == []
    bookinfo.kubectl("delete", "virtualservice,peerauthentication", "--all")
    bookinfo.apply("bookinfo/networking/bookinfo-gateway.yaml", "virtualservice/bookinfo")


@pytest.fixture
def restart_mesh(own_network: None) -> type[Mesh]:
    return Mesh

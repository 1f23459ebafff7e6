"""One Kubernetes API that ordinary clients are pointed at.

It is the embedded one, in a process of its own, without controllers and node; or, to compare, the
cluster of the kubeconfig that MELTEMI_CONFORMANCE_KUBECONFIG names. Everything happens in a
namespace of its own.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REAL = os.environ.get("MELTEMI_CONFORMANCE_KUBECONFIG", "")


class Cluster:
    """Where the API is, and kubectl on it."""

    def __init__(self, kubeconfig: Path, home: Path, namespace: str) -> None:
        self.kubeconfig = kubeconfig
        self.home = home
        self.namespace = namespace
        self.is_embedded = not REAL

    def run(self, *argv: str, text: str | None = None, **env: str) -> tuple[int, str, str]:
        """Exit code, output and error output of kubectl in the tests' namespace."""
        result = subprocess.run(
            ["kubectl", *argv], input=text, capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.home), **env},
        )  # fmt: skip
        return result.returncode, result.stdout, result.stderr

    def kubectl(self, *argv: str, text: str | None = None, **env: str) -> str:
        """What kubectl prints; it has to succeed."""
        code, out, error = self.run(*argv, text=text, **env)
        if code:
            pytest.fail(f"kubectl {' '.join(argv)}: {out}{error}", pytrace=False)
        return out + error

    def refused(self, *argv: str, text: str | None = None) -> str:
        """What kubectl says when it has to fail."""
        code, out, error = self.run(*argv, text=text)
        assert code, f"kubectl {' '.join(argv)} succeeded: {out}"
        return out + error


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    home = Path(tempfile.mkdtemp(prefix="mltconf"))
    if REAL:
        found = Cluster(Path(REAL), home, "meltemi-conformance")
        yield from _namespaced(found)
    else:
        process = _embedded(home)
        try:
            yield from _namespaced(Cluster(home / "data/kubeconfig", home, "conformance"))
        finally:
            process.terminate()
            process.wait(10)
            assert process.stdout is not None
            process.stdout.close()
    shutil.rmtree(home)


def _embedded(home: Path) -> subprocess.Popen[str]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "meltemi.local.apiserver", "--data", str(home / "data"),
         "--port", str(port)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready")
    return process


def _namespaced(found: Cluster) -> Iterator[Cluster]:
    found.kubectl("create", "namespace", found.namespace)
    copy = found.home / "kubeconfig"
    shutil.copy(found.kubeconfig, copy)
    found.kubeconfig = copy
    found.kubectl("config", "set-context", "--current", "--namespace", found.namespace)
    yield found
    found.kubectl("delete", "namespace", found.namespace, "--wait=false")

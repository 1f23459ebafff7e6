"""A Go program on client-go, which speaks protobuf as controllers in Go do.

Building it downloads and compiles client-go, about three minutes of CPU the first time; Go's own
caches make later runs cheap. It runs in CI and when MELTEMI_CONFORMANCE_GO is set, and is skipped
where there is no Go, or its modules cannot be had.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import Cluster

SOURCE = Path(__file__).parent / "goclient"
WANTED = os.environ.get("MELTEMI_CONFORMANCE_GO") or os.environ.get("CI") == "true"


@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
@pytest.mark.skipif(
    not WANTED, reason="compiles client-go for minutes: runs with CI=true or MELTEMI_CONFORMANCE_GO"
)
def test_client_go_works(cluster: Cluster) -> None:
    fetch_modules()
    binary = cluster.home / "goclient"
    subprocess.run(["go", "build", "-o", binary, "."], cwd=SOURCE, check=True)
    result = subprocess.run(
        [binary, cluster.kubeconfig, cluster.namespace],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "not found"


def fetch_modules() -> None:
    """Download what go.sum names. That it cannot be had is not the API's fault."""
    try:
        fetched = subprocess.run(
            ["go", "mod", "download"], cwd=SOURCE, capture_output=True, text=True, timeout=240,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip("Go's modules did not arrive in 240 s")
    if fetched.returncode:
        lines = fetched.stderr.strip().splitlines() or ["go mod download failed"]
        pytest.skip(f"Go's modules cannot be had: {lines[-1]}")

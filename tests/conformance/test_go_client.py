"""A Go program on client-go, which speaks protobuf as controllers in Go do.

Building it downloads and compiles client-go: some minutes the first time, so it is asked for with
MELTEMI_CONFORMANCE_GO=1.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import Cluster

SOURCE = Path(__file__).parent / "goclient"


@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
@pytest.mark.skipif(
    not os.environ.get("MELTEMI_CONFORMANCE_GO"),
    reason="compiles client-go for minutes: set MELTEMI_CONFORMANCE_GO=1",
)
def test_client_go_works(cluster: Cluster) -> None:
    binary = cluster.home / "goclient"
    subprocess.run(["go", "build", "-o", binary, "."], cwd=SOURCE, check=True)
    result = subprocess.run(
        [binary, cluster.kubeconfig, cluster.namespace],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "not found"

"""The whole mesh as an ordinary user, in one user namespace."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meltemi.local.node import syscalls
from tests.oci_layout import Layout, file, machine_tools
from tests.real.conftest import Mesh, meltemi_command, running_mesh
from tests.real.load import until

USER = 64321
AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all")
"""An ordinary user, who has no account and needs none."""


@pytest.fixture(scope="module")
def open_installation(own_network: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let other users reach an interpreter that root has in its home: here, and nowhere else."""
    layers = tmp_path_factory.mktemp("layers")
    syscalls.mount("tmpfs", str(layers), "tmpfs", data="mode=0755")
    for number, place in enumerate(reversed(Path(sys.executable).resolve().parents)):
        if place.stat().st_mode & 0o001:
            continue
        upper, work = layers / f"{number}u", layers / f"{number}w"
        upper.mkdir()
        work.mkdir()
        data = f"lowerdir={place},upperdir={upper},workdir={work}"
        syscalls.mount("overlay", str(place), "overlay", data=data)
        place.chmod(0o755)


@pytest.fixture(scope="module")
def rootless(open_installation: None) -> Iterator[Mesh]:
    yield from running_mesh("--demo", "bookinfo", prefix=AS_USER, owner=USER)


async def test_bookinfo_answers(rootless: Mesh) -> None:
    code = ("curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}")
    assert rootless.run(*code, f"{rootless.ingress}/productpage") == "200"
    pod = rootless.pod("app=productpage")
    assert [c["name"] for c in pod["spec"]["containers"]] == ["productpage", "istio-proxy"]

    def in_sync() -> bool:
        return bool(rootless.status()["proxies"] == {"total": 7, "synced": 7})

    await until(in_sync)
    owner = rootless.run("ps", "-o", "uid=", "-p", str(rootless.pid("node"))).strip()
    assert owner == str(USER)


def test_the_wire_is_mutual_tls(rootless: Mesh) -> None:
    """Envoy's connections are known by their mark, since there is one user only."""
    rootless.kubectl("apply", "-f", "-", text=STRICT)
    rootless.meltemi("wait", "--for=distribution", "peerauthentication/default")
    code = ("curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}")
    assert rootless.run(*code, f"{rootless.ingress}/api/v1/products/0/reviews") == "200"
    rootless.kubectl("run", "plain", "--image=curlimages/curl",
                     "--labels=sidecar.istio.io/inject=false", "--command", "--",
                     "sleep", "infinity")  # fmt: skip
    rootless.kubectl("wait", "--for=condition=Ready", "pod/plain", "--timeout=60s")
    refused = rootless.result("kubectl", "exec", "plain", "--", "curl", "-sS", "-m", "5",
                              "http://reviews:9080/reviews/0")  # fmt: skip
    assert refused.returncode == 56


STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: STRICT}}
"""


def test_published_ports_are_opened_outside(rootless: Mesh) -> None:
    """Node ports listen on the machine; a port under 1024 is refused to this user, and told."""
    rootless.kubectl("expose", "deploy", "details-v1", "--name=shown", "--type=LoadBalancer",
                     "--port=9080")  # fmt: skip
    rootless.kubectl("wait", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}", "svc/shown",
                     "--timeout=20s")  # fmt: skip
    row = rootless.kubectl("get", "svc", "shown", "--no-headers").split()
    assert row[3].startswith("127.44.")
    rootless.kubectl("delete", "peerauthentication", "default")
    rootless.run("curl", "-sS", "-m", "10", "--retry", "20", "--retry-all-errors",
                 "--retry-delay", "0", f"http://{row[3]}:9080/details/1")  # fmt: skip
    port = re.search(r"9080:(\d+)/TCP", row[4])
    assert port is not None
    said = rootless.run("curl", "-sS", "-m", "10", f"http://127.0.0.1:{port[1]}/details/1")
    assert json.loads(said)["id"] == 1


def test_forbidden_namespaces_end_with_one_clear_sentence(open_installation: None) -> None:
    script = (
        "echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --ambient-caps=-all "
        f"--inh-caps=-all {meltemi_command()} up --detach --data /tmp/meltemi-never"
    )
    argv = (*AS_USER, "unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c", script)
    refused = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    [sentence] = refused.stderr.strip().splitlines()
    assert "does not let a user create namespaces" in sentence
    assert "sudo meltemi up" in sentence


def test_an_oci_image_runs_without_root(rootless: Mesh, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    script = b"cat /greeting; >/mine; id -u; sleep 999"
    extra = [file("greeting", b"hello\n", uid=4321), file("run.sh", script)]
    layout.image(
        [machine_tools("sh", "cat", "id", "sleep"), extra], {"Entrypoint": ["sh", "/run.sh"]}
    )
    archive = layout.archive(rootless.data / "image.tar")
    archive.chmod(0o644)
    rootless.meltemi("image", "add", "shipped", "--oci", str(archive))
    labels = "--labels=sidecar.istio.io/inject=false"
    rootless.kubectl("run", "shipped", "--image=shipped", labels)
    rootless.kubectl("wait", "--for=condition=Ready", "pod/shipped", "--timeout=60s")
    assert rootless.kubectl("logs", "shipped") == "hello\n0\n"

"""Commands from outside: their help, their output for programs, their exit codes and sentences."""

import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from meltemi.cli.main import app
from meltemi.local.home import Home, Ports

SYNCED = dict.fromkeys(("cds", "lds", "rds", "eds"), "SYNCED") | {"ecds": "NOT SENT"}
PROXIES = [{"proxy": "reviews-v1.default", **SYNCED, "rejected": []}]
READY = {
    "apiserver": True,
    "control-plane": True,
    "node": False,
    "pods": {"total": 3, "ready": 2},
    "proxies": {"total": 1, "synced": 1},
}
COMMANDS = sorted(command.name or "" for command in app.registered_commands)


class ControlPlane(socketserver.ThreadingUnixStreamServer):
    """Answers by path, as the control socket does."""

    daemon_threads = True

    def __init__(self, address: str) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, tuple[int, Any]] = {
            "/debug/syncz": (200, PROXIES),
            "/debug/ready": (200, READY),
            "/debug/wait": (200, {"object": "VirtualService/reviews.default", "proxies": 7}),
        }
        super().__init__(address, _Handler)


class _Handler(socketserver.StreamRequestHandler):
    server: ControlPlane

    def handle(self) -> None:
        target = self.rfile.readline().split()[1].decode()
        self.server.asked.append(target)
        status, answer = self.server.answers[urlsplit(target).path]
        body = json.dumps(answer).encode()
        head = f"HTTP/1.0 {status} x\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """The directory of a mesh whose supervisor is this process."""
    home = Home(tmp_path)
    home.prepare()
    home.supervisor_pid.write_text(str(os.getpid()))
    home.write_ports(Ports(20001, 8080, 6443))
    return home


@pytest.fixture
def plane(home: Home) -> Iterator[ControlPlane]:
    with ControlPlane(str(home.control_socket)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(*argv: str) -> Result:
    return CliRunner().invoke(app, argv)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    group = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    if not hasattr(group, "commands"):
        assert "Example: " in result.output


def test_proxy_status_is_a_list_for_programs(home: Home, plane: ControlPlane) -> None:
    result = run("proxy-status", "-o", "json", "--data", str(home.root))
    assert result.exit_code == 0
    assert json.loads(result.stdout) == PROXIES
    result = run("proxy-status", "-o", "yaml", "--data", str(home.root))
    assert yaml.safe_load(result.stdout) == PROXIES


def test_proxy_status_shows_what_a_proxy_refused(home: Home, plane: ControlPlane) -> None:
    refused = PROXIES[0] | {"rejected": ["Cluster x: bad"]}
    plane.answers["/debug/syncz"] = (200, [refused])
    result = run("proxy-status", "--data", str(home.root))
    assert result.exit_code == 0
    assert "PROXY" in result.stdout
    assert "reviews-v1.default: Cluster x: bad" in result.stderr


def test_status_has_the_promised_shape(home: Home, plane: ControlPlane) -> None:
    home.pid_file("apiserver").write_text(str(os.getpid()))
    result = run("status", "-o", "json", "--data", str(home.root))
    state = json.loads(result.stdout)
    assert [c["name"] for c in state["components"]] == ["apiserver", "control-plane", "node"]
    assert all(set(c) >= {"name", "pid", "ready", "pssMiB"} for c in state["components"])
    api = state["components"][0]
    assert api["ready"] is True
    assert api["pid"] == os.getpid()
    assert state["components"][1]["ready"] is False, "there is no such process"
    assert state["memory"]["pssMiB"] >= api["pssMiB"] > 0
    assert state["pods"] == READY["pods"]


def test_wait_asks_for_the_object_and_says_who_has_it(home: Home, plane: ControlPlane) -> None:
    result = run(
        "wait", "--for=distribution", "virtualservice/reviews.shop", "--data", str(home.root)
    )
    assert result.exit_code == 0
    assert "acknowledged by 7 proxies" in result.stdout
    query = parse_qs(urlsplit(plane.asked[-1]).query)
    assert query["kind"] == ["virtualservice"]
    assert query["name"] == ["reviews"]
    assert query["namespace"] == ["shop"]


@pytest.mark.parametrize("status", [400, 404, 504])
def test_wait_fails_with_the_control_planes_sentence(
    home: Home, plane: ControlPlane, status: int
) -> None:
    plane.answers["/debug/wait"] = (status, {"message": "VirtualService/x.default does not exist"})
    result = run("wait", "virtualservice/x", "--data", str(home.root))
    assert result.exit_code == 1
    assert result.stderr == "meltemi: VirtualService/x.default does not exist\n"


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (("wait", "reviews"), "KIND/NAME"),
        (("wait", "--for=lunch", "virtualservice/x"), "--for=lunch"),
        (("up", "--demo", "petshop"), "bookinfo"),
        (("proxy-config", "weather", "x"), "weather"),
    ],
)
def test_wrong_use_ends_with_code_2_and_names_it(argv: tuple[str, ...], word: str) -> None:
    result = run(*argv)
    assert result.exit_code == 2
    assert word in result.stderr


@pytest.mark.parametrize(
    "argv",
    [
        ("status",),
        ("kubeconfig",),
        ("graph",),
        ("proxy-status",),
        ("proxy-config", "cluster", "x"),
        ("wait", "virtualservice/x"),
    ],
)
def test_without_a_mesh_the_remedy_is_named(argv: tuple[str, ...], tmp_path: Path) -> None:
    result = run(*argv, "--data", str(tmp_path))
    assert result.exit_code == 1
    assert "meltemi up" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_control_plane_that_is_gone_is_named_with_its_log(home: Home) -> None:
    result = run("proxy-status", "--data", str(home.root))
    assert result.exit_code == 1
    assert "control-plane.log" in result.stderr
    assert "Traceback" not in result.output


def test_a_second_mesh_in_one_directory_is_refused(home: Home) -> None:
    result = run("up", "--data", str(home.root))
    assert result.exit_code == 1
    assert "already runs" in result.stderr


def test_a_busy_port_is_named_with_the_option_that_moves_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("up", "--data", str(tmp_path), "--console-port", str(port))
    assert result.exit_code == 1
    assert f"port {port}" in result.stderr
    assert "--console-port" in result.stderr


def test_a_missing_tool_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meltemi.local.sandbox._SBIN", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run("up", "--data", str(tmp_path))
    assert result.exit_code == 1
    assert "nftables" in result.stderr
    assert "apt-get install" in result.stderr


def test_the_default_directory_is_found(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.root / "share").mkdir()
    (home.root / "share" / "meltemi").symlink_to(home.root)
    monkeypatch.setenv("XDG_DATA_HOME", str(home.root / "share"))
    result = run("kubeconfig")
    assert result.exit_code == 0
    assert result.stdout.strip().endswith("meltemi/kubeconfig")


def test_inject_adds_a_sidecar_to_a_file_and_to_stdin(tmp_path: Path) -> None:
    pod = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c}]}}"
    path = tmp_path / "pod.yaml"
    path.write_text(pod)
    from_file = run("inject", "-f", str(path))
    assert from_file.exit_code == 0
    assert "istio-proxy" in from_file.stdout
    from_stdin = CliRunner().invoke(app, ["inject", "-f", "-"], input=pod)
    assert from_stdin.stdout == from_file.stdout


def test_inject_names_the_file_it_cannot_use(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [")
    for path in (bad, tmp_path / "none.yaml"):
        result = run("inject", "-f", str(path))
        assert result.exit_code == 1
        assert str(path) in result.stderr
        assert "Traceback" not in result.output


def test_commands_load_no_server_libraries() -> None:
    """What `meltemi wait` costs is mostly what it imports."""
    check = "import sys, meltemi.cli.main; print(sorted({'aiohttp', 'grpc'} & set(sys.modules)))"
    result = subprocess.run(
        (sys.executable, "-c", check), capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


BROKEN = """
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {host: nowhere}
"""


def test_analyze_names_object_field_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text(BROKEN)
    result = run("analyze", str(path), "--offline")
    assert result.exit_code == 79
    about = "VirtualService/reviews.default spec.http[0].route[0].destination.host"
    assert f"Error [MSH0201] ({about} {path}:14) no service has the host nowhere" in result.stdout
    assert run("analyze", str(path), "--offline", "-n", "other").stdout == "No problems found.\n"
    path.write_text(BROKEN.replace("nowhere", "reviews"))
    assert run("analyze", str(path), "--offline").exit_code == 0


def test_analyze_asks_the_mesh_that_runs(home: Home, plane: ControlPlane) -> None:
    keys = ("code", "severity", "kind", "namespace", "name", "path", "message")
    problem = dict(
        zip(keys, ("MSH0209", "warning", "Gateway", "a", "g", "spec.x", "y"), strict=True)
    )
    plane.answers["/debug/analyze"] = (200, [problem])
    result = run("analyze", "-o", "json", "--data", str(home.root))
    assert json.loads(result.stdout) == [problem]
    assert result.exit_code == 0, "a warning is no error"
    argv = ("analyze", "--failure-threshold", "warning", "--data", str(home.root))
    assert run(*argv).exit_code == 79


def test_kubeconfig_leads_to_the_mesh_beside_it(
    home: Home, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.kubeconfig.touch()
    monkeypatch.setenv("KUBECONFIG", str(home.kubeconfig))
    assert run("kubeconfig").stdout.strip() == str(home.kubeconfig)
    home.supervisor_pid.unlink()
    assert "no mesh runs" in run("kubeconfig").stderr

"""A real mesh in a network of its own: how fast it starts, what it holds, what it costs a request.

Needs root, and wrk for the data path. The server is an Envoy that answers by itself, so that what
is measured is what stands between it and the client.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.figures import Figure
from meltemi.kube.client import Client
from meltemi.kube.kubeconfig import access_from_file
from meltemi.local.memory import descendants, pss_mib
from meltemi.local.node import syscalls
from meltemi.local.sandbox import loopback_up
from meltemi.proxy.envoy import envoy_path

_SECONDS, _CONNECTIONS = 8, 16
_CLIENT_PORT, _SERVER_PORT = 9101, 9102
_PODS = 100
_CURL = ("-sf", "--retry", "50", "--retry-delay", "0", "--retry-all-errors", "-o", "/dev/null")


def own_network() -> None:
    """Leave the machine's network: the mesh's ports and bridge meet nothing else."""
    syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    Path("/run/netns").mkdir(exist_ok=True)
    syscalls.mount("tmpfs", "/run/netns", "tmpfs")
    loopback_up()


class Mesh:
    """One `meltemi up`."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def meltemi(self, command: str, *arguments: str) -> str:
        program = str(Path(sys.executable).parent / "meltemi")
        argv = (program, command, *arguments, "--data", str(self.data))
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def status(self) -> Any:
        return json.loads(self.meltemi("status", "-o", "json"))


@contextmanager
def up(*options: str) -> Iterator[tuple[Mesh, float]]:
    """A mesh, and the seconds until it served; it is taken down at the end."""
    with tempfile.TemporaryDirectory(prefix="mlt") as place:
        mesh = Mesh(Path(place))
        started = time.perf_counter()
        mesh.meltemi("up", "--detach", *options)
        try:
            yield mesh, time.perf_counter() - started
        finally:
            mesh.meltemi("down")


async def run() -> AsyncIterator[Figure]:
    if os.geteuid() != 0:
        raise SystemExit("the mesh benchmark needs root: it makes network namespaces")
    own_network()
    with up("--demo", "bookinfo") as (mesh, seconds):
        yield Figure("`meltemi up --demo bookinfo` to 200 on /productpage", seconds, "s", 10)
        await asyncio.sleep(5)
        status = mesh.status()
        yield Figure("everything, proportional memory", status["memory"]["pssMiB"], "MiB", 500)
        for component in status["components"]:
            yield Figure(f"of it {component['name']}", component["pssMiB"], "MiB")
        supervisor = int((mesh.data / "run" / "supervisor.pid").read_text())
        envoys = [pss_mib([pid]) for pid in descendants(supervisor) if _is_envoy(pid)]
        yield Figure(f"one Envoy of {len(envoys)}, average", sum(envoys) / len(envoys), "MiB")
    async for figure in _pods():
        yield figure
    async for figure in _data_path():
        yield figure


def _is_envoy(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text().strip() == "envoy"


async def _pods() -> AsyncIterator[Figure]:
    """Plain pods, a hundred at once."""
    with up() as (mesh, seconds):
        yield Figure("`meltemi up` alone", seconds, "s")
        before = mesh.status()["memory"]["pssMiB"]
        async with Client(access_from_file(mesh.data / "kubeconfig")) as client:
            started = time.perf_counter()
            await client.apply(_deployment("many", "sleep", replicas=_PODS), manager="bench")
            await _ready(client, "many", _PODS)
            yield Figure(f"{_PODS} pods ready", time.perf_counter() - started, "s")
        used = mesh.status()["memory"]["pssMiB"] - before
        yield Figure(f"{_PODS} pods, memory", used, "MiB")


async def _data_path() -> AsyncIterator[Figure]:
    """One server, reached directly, through two plain Envoys, and through two sidecars."""
    if shutil.which("wrk") is None:
        print("  wrk is not installed (Debian: apt-get install wrk)", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as place:
        images = Path(place) / "images.toml"
        config = json.dumps(_envoy(_listener(8080, _answer())))
        command = [str(envoy_path()), "--config-yaml", config, "--concurrency", "1", "-l", "error"]
        images.write_text(f'["bench/fast"]\ncommand = {json.dumps(command)}\n')
        with up("--images", str(images)) as (mesh, _):
            async with Client(access_from_file(mesh.data / "kubeconfig")) as client:
                found = await _measure(client, mesh, Path(place))
    direct = found["directly"]
    for what, (rate, median, slow) in found.items():
        yield Figure(f"requests {what}", rate, "/s")
        yield Figure(f"requests {what}, part of direct", rate / direct[0] * 100, "%")
        yield Figure(f"latency {what}, median", median, "ms")
        yield Figure(f"latency {what}, p99", slow, "ms")


async def _measure(
    client: Client, mesh: Mesh, place: Path
) -> dict[str, tuple[float, float, float]]:
    for document in (
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "fast", "namespace": "default"},
            "spec": {"selector": {"app": "fast"}, "ports": [{"name": "http", "port": 8080}]},
        },
        _deployment("fast", "bench/fast", inject=True),
        _deployment("bare", "bench/fast"),
        _deployment("client", "sleep", inject=True),
    ):
        await client.apply(document, manager="bench")
    for name in ("fast", "bare", "client"):
        await _ready(client, name, 1)
    mesh.meltemi("wait", "--for=distribution", "service/fast")
    service = next(s for s in await client.list("Service") if s["metadata"]["name"] == "fast")
    bare, inside = await _address(client, "bare"), _network(await _address(client, "client"))
    with _pair(place, bare):
        return {
            "directly": _wrk(f"http://{bare}:8080/"),
            "through two plain Envoys": _wrk(f"http://127.0.0.1:{_CLIENT_PORT}/"),
            "through the mesh": _wrk(f"http://{service['spec']['clusterIP']}:8080/", inside),
        }


def _wrk(url: str, network: str = "") -> tuple[float, float, float]:
    """Requests a second, and the median and 99th percentile of their latency in milliseconds."""
    inside = ("nsenter", f"--net=/run/netns/{network}") if network else ()
    argv = (*inside, "wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{_SECONDS}s", "--latency", url)
    text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert rate is not None
    return float(rate.group(1)), _latency(text, 50), _latency(text, 99)


def _latency(text: str, percentile: int) -> float:
    found = re.search(rf"\s{percentile}%\s+([\d.]+)(us|ms|s)", text)
    assert found is not None
    return float(found.group(1)) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found.group(2)]


@contextmanager
def _pair(place: Path, address: str) -> Iterator[None]:
    """Two Envoys that only forward, one after the other."""
    hops = ((_CLIENT_PORT, "127.0.0.1", _SERVER_PORT), (_SERVER_PORT, address, 8080))
    processes = []
    for number, (port, host, target) in enumerate(hops):
        path = place / f"hop-{number}.json"
        route = {"match": {"prefix": "/"}, "route": {"cluster": "next"}}
        path.write_text(json.dumps(_envoy(_listener(port, route), _cluster(host, target))))
        argv = (str(envoy_path()), "-c", str(path), "--concurrency", "2", "-l", "error")
        processes.append(subprocess.Popen((*argv, "--base-id", str(number + 7000))))
    try:
        subprocess.run(("curl", *_CURL, f"http://127.0.0.1:{_CLIENT_PORT}/"), check=True)
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def _envoy(listener: dict[str, Any], *clusters: dict[str, Any]) -> dict[str, Any]:
    return {"static_resources": {"listeners": [listener], "clusters": list(clusters)}}


def _answer() -> dict[str, Any]:
    return {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "hello\n"}},
    }


def _address_of(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _listener(port: int, route: dict[str, Any]) -> dict[str, Any]:
    extensions = "type.googleapis.com/envoy.extensions.filters"
    router = {"@type": f"{extensions}.http.router.v3.Router"}
    hosts = [{"name": "all", "domains": ["*"], "routes": [route]}]
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "route_config": {"virtual_hosts": hosts},
    }
    name = "envoy.filters.network.http_connection_manager"
    filters = [{"name": name, "typed_config": manager}]
    return {"address": _address_of("0.0.0.0", port), "filter_chains": [{"filters": filters}]}


def _cluster(host: str, port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address_of(host, port)}}
    endpoints = [{"lb_endpoints": [endpoint]}]
    return {
        "name": "next",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "next", "endpoints": endpoints},
    }


def _deployment(name: str, image: str, *, replicas: int = 1, inject: bool = False) -> Any:
    labels = {"app": name, "sidecar.istio.io/inject": str(inject).lower()}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": name, "image": image}]},
            },
        },
    }


async def _pods_of(client: Client, app: str) -> list[Any]:
    pods = await client.list("Pod", namespace="default")
    return [pod for pod in pods if pod["metadata"].get("labels", {}).get("app") == app]


async def _ready(client: Client, app: str, count: int) -> None:
    async with asyncio.timeout(120):
        while sum(map(_is_ready, await _pods_of(client, app))) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def _is_ready(pod: Any) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


async def _address(client: Client, app: str) -> str:
    address: str = (await _pods_of(client, app))[0]["status"]["podIP"]
    return address


def _network(address: str) -> str:
    """The name of the network namespace that has an address."""
    for path in Path("/run/netns").iterdir():
        argv = ("ip", "-n", path.name, "-o", "-4", "addr", "show")
        if (
            f" {address}/"
            in subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        ):
            return path.name
    raise RuntimeError(f"no network namespace has the address {address}")

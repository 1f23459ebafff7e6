"""What one sidecar holds in a mesh of 1,000 services: all of it, a Sidecar object's part, or what
it learned on demand.

Needs root. Real Envoys beside real pods; the services have endpoints that nobody answers at, so
that every byte is configuration.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from bench.figures import Figure
from bench.mesh import Mesh, _address, _deployment, _is_envoy, _network, _ready, own_network, up
from meltemi.kube.client import Client
from meltemi.kube.kubeconfig import access_from_file
from meltemi.local.memory import descendants

FEW, MANY, USED = 10, 1000, 10
_AT_ONCE = 8
_SETTLE = 5.0
"""Seconds for Envoy to free what it no longer needs."""
_PODS = ("whole", "scoped", "learning")


async def run() -> AsyncIterator[Figure]:
    if os.geteuid() != 0:
        raise SystemExit("the sidecar benchmark needs root: it makes network namespaces")
    own_network()
    with up() as (mesh, _):
        async with Client(access_from_file(mesh.data / "kubeconfig")) as client:
            await _make(client, range(FEW))
            await _deploy(client)
            await asyncio.sleep(_SETTLE)
            few = _memory(mesh)["whole"]
            yield Figure(f"a sidecar that sees {FEW} services", few, "MiB")
            await _make(client, range(FEW, MANY))
            await _use(client)
            await _settled(mesh)
            await asyncio.sleep(_SETTLE)
            found = _memory(mesh)
            aim = few * 1.2
            yield Figure(f"one that sees all {MANY}", found["whole"], "MiB")
            yield Figure(f"one with a Sidecar object for {USED}", found["scoped"], "MiB", aim)
            what = f"one on demand that uses {USED}"
            yield Figure(what, found["learning"], "MiB", aim)


async def _make(client: Client, numbers: range) -> None:
    """Services without selectors, each with one endpoint."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int) -> None:
        async with gate:
            for body in _service(number):
                await client.apply(body, manager="bench")

    async with asyncio.TaskGroup() as group:
        for number in numbers:
            group.create_task(one(number), name=f"service {number}")


def _service(number: int) -> list[dict[str, Any]]:
    name = f"svc-{number}"
    port = {"name": "http", "port": 8080, "protocol": "TCP"}
    meta = {"name": name, "namespace": "default"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"clusterIP": _vip(number), "ports": [port | {"targetPort": 8080}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": meta | {"labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [port],
            "endpoints": [
                {
                    "addresses": [f"10.99.{number // 250}.{number % 250 + 1}"],
                    "conditions": {"ready": True},
                }
            ],
        },
    ]


def _vip(number: int) -> str:
    return f"10.43.{100 + number // 250}.{number % 250 + 1}"


async def _deploy(client: Client) -> None:
    for name in _PODS:
        body = _deployment(name, "curlimages/curl", inject=True)
        template = body["spec"]["template"]
        template["spec"]["containers"][0]["command"] = ["sleep", "infinity"]
        scope = "on-demand" if name == "learning" else "full"
        template["metadata"]["annotations"] = {"meltemi.dev/scope": scope}
        await client.apply(body, manager="bench")
    hosts = [f"./svc-{n}.default.svc.cluster.local" for n in range(USED)]
    await client.apply(
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "Sidecar",
            "metadata": {"name": "scoped", "namespace": "default"},
            "spec": {
                "workloadSelector": {"labels": {"app": "scoped"}},
                "egress": [{"hosts": hosts}],
            },
        },
        manager="bench",
    )
    for name in _PODS:
        await _ready(client, name, 1)


async def _use(client: Client) -> None:
    """Let the learning pod call its services; nobody answers, but it has learned them."""
    network = _network(await _address(client, "learning"))
    for number in range(USED):
        url = f"http://{_vip(number)}:8080/"
        argv = ("ip", "netns", "exec", network, "curl", "-s", "-m", "3", "-o", "/dev/null", url)
        await asyncio.to_thread(subprocess.run, argv, check=False)


async def _settled(mesh: Mesh) -> None:
    async with asyncio.timeout(120):
        while True:
            proxies = json.loads(mesh.meltemi("proxy-status", "-o", "json"))
            if proxies and all(p["cds"] == p["eds"] == "SYNCED" for p in proxies):
                return
            await asyncio.sleep(0.5)


def _memory(mesh: Mesh) -> dict[str, float]:
    """Private dirty memory of each pod's Envoy, in MiB, by workload."""
    supervisor = int((mesh.data / "run" / "supervisor.pid").read_text())
    found: dict[str, float] = {}
    for pid in descendants(supervisor):
        if not _is_envoy(pid):
            continue
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        bootstrap = json.loads(Path(argv[argv.index("--config-path") + 1]).read_text())
        workload = bootstrap["node"]["metadata"]["WORKLOAD_NAME"]
        found[workload] = _private_mib(pid)
    return found


def _private_mib(pid: int) -> float:
    for text in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if text.startswith("Private_Dirty:"):
            return int(text.split()[1]) / 1024
    return 0.0

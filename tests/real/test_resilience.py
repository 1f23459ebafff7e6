"""What dies comes back, and requests do not notice."""

import asyncio
import json
import os
import signal
import socket
import time

from tests.real.conftest import Mesh
from tests.real.load import Load, until

URL = "/api/v1/products/0/reviews"


async def test_killing_the_control_plane_fails_no_request(mesh: Mesh) -> None:
    before = mesh.pid("control-plane")
    async with Load(mesh.ingress + URL) as load:
        await load.reach(100)
        os.kill(before, signal.SIGKILL)
        await load.reach(100)

        def is_back() -> bool:
            try:
                is_new = mesh.pid("control-plane") != before
            except FileNotFoundError:
                return False
            return is_new and mesh.result(*_status(mesh)).returncode == 0 and _in_sync(mesh)

        await until(is_back)
        mesh.apply("bookinfo/networking/virtual-service-all-v1.yaml", "virtualservice/reviews")
        await load.reach(100)
    assert load.failures == {}
    assert load.answers[200] > 300


def _status(mesh: Mesh) -> tuple[str, ...]:
    import sys
    from pathlib import Path

    return (str(Path(sys.executable).parent / "meltemi"), "status", "--data", str(mesh.data))


def _in_sync(mesh: Mesh) -> bool:
    status = mesh.status()
    return bool(status["proxies"]["total"] == 7 and status["proxies"]["synced"] == 7)


async def test_killing_the_api_loses_no_acknowledged_write(mesh: Mesh) -> None:
    from meltemi.kube.client import Client
    from meltemi.kube.errors import KubeError
    from meltemi.kube.kubeconfig import access_from_file

    acknowledged: list[str] = []
    stopping = asyncio.Event()

    async def write(client: Client, writer: int) -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            name = f"kept-{writer}-{number}"
            meta = {"name": name, "namespace": "kept"}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}
            try:
                await client.create({**body, "data": {"n": str(number)}})
                acknowledged.append(name)
            except KubeError:
                await asyncio.sleep(0.01)

    mesh.kubectl("create", "namespace", "kept")
    async with Client(access_from_file(mesh.data / "kubeconfig")) as client:
        async with asyncio.TaskGroup() as group:
            for writer in range(4):
                group.create_task(write(client, writer), name=f"writer {writer}")
            for _ in range(5):
                wanted = len(acknowledged) + 100
                await until(lambda wanted=wanted: len(acknowledged) >= wanted)
                os.kill(mesh.pid("apiserver"), signal.SIGKILL)
            wanted = len(acknowledged) + 100
            await until(lambda: len(acknowledged) >= wanted)
            stopping.set()
        found = {item["metadata"]["name"] for item in await client.list("ConfigMap", "kept")}
    lost = set(acknowledged) - found
    print(f"{len(acknowledged)} writes acknowledged over 5 kills")
    assert lost == set()
    mesh.kubectl("delete", "namespace", "kept", "--timeout=60s")


async def test_a_pod_that_is_deleted_is_replaced_without_failed_requests(mesh: Mesh) -> None:
    mesh.kubectl("scale", "deploy/details-v1", "--replicas=2")
    mesh.kubectl("rollout", "status", "deploy/details-v1", "--timeout=60s")
    url = f"{mesh.ingress}/api/v1/products/0"
    async with Load(url) as load:
        await load.reach(100)
        doomed = mesh.pod("app=details")["metadata"]["name"]
        mesh.kubectl("delete", "pod", doomed, "--wait=false")
        await load.reach(200)
        await until(lambda: _ready(mesh, "details-v1") == 2)
        await load.reach(100)
    mesh.kubectl("scale", "deploy/details-v1", "--replicas=1")
    assert load.failures == {}


async def test_a_program_that_dies_is_started_again(mesh: Mesh) -> None:
    pod = mesh.pod("app=ratings")["metadata"]["name"]
    mesh.result("kubectl", "exec", pod, "-c", "ratings", "--", "/bin/sh", "-c", "kill -9 -1")
    mesh.result("kubectl", "exec", pod, "-c", "ratings", "--", "/bin/sh", "-c", "kill -15 1")

    def restarted() -> bool:
        statuses = mesh.pod("app=ratings")["status"]["containerStatuses"]
        found = next(s for s in statuses if s["name"] == "ratings")
        return bool(found["restartCount"] >= 1 and found["ready"])

    await until(restarted)
    assert mesh.kubectl("logs", pod, "-c", "ratings", "--previous")


def _ready(mesh: Mesh, deployment: str) -> int:
    found = json.loads(mesh.kubectl("get", "deploy", deployment, "-o", "json"))
    return int(found["status"].get("readyReplicas", 0))


async def test_down_leaves_nothing_and_up_continues(mesh: Mesh) -> None:
    mesh.apply("bookinfo/networking/virtual-service-all-v1.yaml", "virtualservice/reviews")
    mesh.down()
    assert os.listdir("/run/netns") == []
    assert "meltemi0" not in [name for _, name in socket.if_nameindex()]
    mesh.up()
    began = time.monotonic()
    await until(lambda: _in_sync(mesh))
    print(f"in sync {time.monotonic() - began:.1f} s after up returned")
    assert "reviews" in mesh.kubectl("get", "virtualservice")
    async with Load(mesh.ingress + URL) as load:
        await load.reach(50)
    assert load.failures == {}

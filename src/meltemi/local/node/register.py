"""The node's own object in the API."""

import os

from meltemi.base.clock import Clock
from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client, JsonObject
from meltemi.kube.writer import ensure, patch_status


async def register(client: Client, name: str, ip: str, clock: Clock) -> None:
    """Create the Node, or bring it up to date, and report it ready."""
    await ensure(
        client,
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {
                    "kubernetes.io/hostname": name,
                    "kubernetes.io/os": "linux",
                    "kubernetes.io/arch": _architecture(),
                    "node-role.kubernetes.io/control-plane": "",
                },
            },
        },
    )
    await patch_status(client, ObjectKey("Node", "", name), _status(ip, f"{clock.now():%FT%TZ}"))


def _status(ip: str, now: str) -> JsonObject:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    capacity = {"cpu": str(os.cpu_count() or 1), "memory": f"{pages // 1024}Ki", "pods": "500"}
    kernel = os.uname()
    return {
        "capacity": capacity,
        "allocatable": capacity,
        "addresses": [
            {"type": "InternalIP", "address": ip},
            {"type": "Hostname", "address": kernel.nodename},
        ],
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "KubeletReady",
                "message": "the node runs pods as processes",
                "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            }
        ],
        "nodeInfo": {
            "architecture": _architecture(),
            "operatingSystem": "linux",
            "kernelVersion": kernel.release,
            "osImage": "Meltemi",
            "kubeletVersion": "v1.31.0+meltemi",
            "containerRuntimeVersion": "process://1",
            "kubeProxyVersion": "",
            "machineID": "",
            "systemUUID": "",
            "bootID": "",
        },
    }


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)

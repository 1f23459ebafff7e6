"""The node's own object in the API, and its heartbeat."""

import asyncio
import logging
import os
from typing import NoReturn

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import JsonObject
from meltemi.kube.errors import KubeError
from meltemi.kube.writer import ensure, patch_status
from meltemi.local.node.machine import Machine

log = logging.getLogger(__name__)

_BEAT = 10.0
_STATUS_EVERY = 30
"""Beats between two reports of the conditions (every five minutes, as kubelets do it)."""
_LEASES = "kube-node-lease"
_MOST_PODS = 500


async def register(machine: Machine) -> None:
    """Create the Node, or bring it up to date, and report it ready."""
    name = machine.node_name
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": _architecture(),
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": _architecture(),
        "node-role.kubernetes.io/control-plane": "",
    }
    body: JsonObject = {"apiVersion": "v1", "kind": "Node"}
    await ensure(machine.client, {**body, "metadata": {"name": name, "labels": labels}})
    await _report(machine, started=machine.stamp())


async def _report(machine: Machine, *, started: str) -> None:
    key = ObjectKey("Node", "", machine.node_name)
    await patch_status(machine.client, key, _status(machine, started, machine.stamp()))


async def heartbeat(machine: Machine) -> NoReturn:
    """Renew the node's lease for ever, and now and then its conditions."""
    name, started, beats = machine.node_name, machine.stamp(), 0
    while True:
        try:
            now = f"{machine.clock.now():%Y-%m-%dT%H:%M:%S.%fZ}"
            spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now}
            lease: JsonObject = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
            lease["metadata"] = {"name": name, "namespace": _LEASES}
            await ensure(machine.client, {**lease, "spec": spec})
            if beats % _STATUS_EVERY == 0:
                await _report(machine, started=started)
            beats += 1
        except KubeError as error:
            log.warning("heartbeat: %s", error)
        await asyncio.sleep(_BEAT)


def _status(machine: Machine, started: str, now: str) -> JsonObject:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    capacity = {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{pages // 1024}Ki",
        "pods": str(_MOST_PODS),
    }
    kernel = os.uname()
    conditions = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "memory is not looked at"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "disks are not looked at"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "process numbers are not looked at"),
        ("Ready", "True", "KubeletReady", _readiness(machine)),
    ]
    return {
        "capacity": capacity,
        "allocatable": capacity,
        "addresses": [
            *({"type": "InternalIP", "address": ip} for ip in machine.host_ips),
            {"type": "Hostname", "address": kernel.nodename},
        ],
        "conditions": [
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": now,
                "lastTransitionTime": started,
            }
            for kind, status, reason, message in conditions
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        "nodeInfo": {
            "architecture": _architecture(),
            "operatingSystem": "linux",
            "kernelVersion": kernel.release,
            "osImage": "Meltemi",
            "kubeletVersion": "v1.32.0+meltemi",
            "containerRuntimeVersion": "process://1",
            "kubeProxyVersion": "",
            "machineID": "",
            "systemUUID": "",
            "bootID": "",
        },
    }


def _readiness(machine: Machine) -> str:
    """What the node does, and what it cannot do on this machine."""
    unlimited = machine.cgroups.unlimited
    if unlimited:
        return f"the node runs pods as processes, and does not limit all of them: {unlimited}"
    return "the node runs pods as processes, with limits of CPU and memory"


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)

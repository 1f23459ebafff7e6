"""What a pod's environment is built from, and what a pod asks for in vain."""

import os
from collections.abc import Mapping, Sequence

from meltemi.local.node.environment import Environment
from meltemi.local.node.etc import hostname_of
from meltemi.local.node.machine import Machine
from meltemi.local.node.podspec import Pod


def environment_of(machine: Machine, pod: Pod, ips: Sequence[str]) -> Environment:
    """Builds environments for the containers of a pod that has these addresses."""
    objects, meta = machine.objects, pod.metadata
    links = []
    if pod.spec.enable_service_links:
        links = [s for s in machine.services if s.namespace == meta.namespace]
    api = machine.services.get("default", "kubernetes")
    if api is not None and api not in links:
        links.append(api)
    return Environment(
        pod,
        _facts(machine, pod, ips),
        config_map=lambda namespace, name: _text(objects.config_map(namespace, name)),
        secret=lambda namespace, name: _text(objects.secret(namespace, name)),
        services=links,
    )


def _facts(machine: Machine, pod: Pod, ips: Sequence[str]) -> Mapping[str, str]:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "status.podIP": next(iter(ips), ""),
        "status.podIPs": ",".join(ips),
        "status.hostIP": machine.host_ip,
        "status.hostIPs": ",".join(machine.host_ips),
        "hostname": hostname_of(pod),
        "capacity.cpu": str(os.cpu_count() or 1),
        "capacity.memory": str(pages),
    }


def _text(data: Mapping[str, bytes] | None) -> Mapping[str, str] | None:
    return None if data is None else {k: v.decode(errors="replace") for k, v in data.items()}


def not_served(pod: Pod) -> Sequence[str]:
    """What of a pod the node passes over, a sentence each."""
    spec, found = pod.spec, []
    for name, is_set in (
        ("shareProcessNamespace", spec.share_process_namespace),
        ("hostPID", spec.host_pid),
        ("hostIPC", spec.host_ipc),
    ):
        if is_set:
            found.append(f"spec.{name} is not served: containers have a process space of their own")
    if not spec.host_network and any(p.host_port for c in spec.containers for p in c.ports):
        found.append(
            "spec.containers[].ports[].hostPort is not served: publish the port by a Service of "
            "type NodePort or LoadBalancer"
        )
    return found

"""The API as pods reach it: Service `kubernetes` leads to the node's address, and on to the API."""

import socket
from typing import NoReturn
from urllib.parse import urlsplit

from meltemi.kube.client import JsonObject
from meltemi.kube.kubeconfig import access_from_file
from meltemi.kube.writer import ensure
from meltemi.local.node.forward import serve_tcp
from meltemi.local.node.machine import Machine

PORT = 6443
"""The port of the API on the node's address; who calls still has to prove who it is."""


class _Api:
    def __init__(self, port: int) -> None:
        self._port = port

    def targets(self, client: str, protocol: str) -> list[tuple[str, int]]:
        return [("127.0.0.1", self._port)]


async def serve(machine: Machine) -> NoReturn:
    """Write the endpoint, and carry connections to it on, until cancelled."""
    port = urlsplit(access_from_file(machine.home.kubeconfig).server).port or 443
    listening = socket.create_server((machine.host_ip, PORT))
    await ensure(machine.client, _slice(machine.host_ip))
    await serve_tcp(listening, _Api(port))
    raise AssertionError("a server ends by cancellation")


def _slice(ip: str) -> JsonObject:
    conditions = {"ready": True, "serving": True, "terminating": False}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip], "conditions": conditions}],
        "ports": [{"name": "https", "port": PORT, "protocol": "TCP"}],
    }

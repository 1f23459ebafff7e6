"""Deploys the gateway and the demo applications from the manifests that ship with Meltemi."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from meltemi.kube.client import Client
from meltemi.kube.kubeconfig import access_from_file
from meltemi.local.home import Ports

_BOOKINFO = (
    "bookinfo/platform/bookinfo.yaml",
    "bookinfo/networking/destination-rule-all.yaml",
    "bookinfo/networking/bookinfo-gateway.yaml",
)
_TRAFFIC = "traffic.yaml"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_POLL = 0.05


def samples() -> Path:
    """Where the manifests are: in the installed package, or in the source tree."""
    package = Path(__file__).parent.parent
    packaged = package / "samples"
    return packaged if packaged.is_dir() else package.parent.parent / "samples"


class Deployer:
    """Applies sample manifests, and waits for what they start."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def deploy(self, *names: str) -> None:
        """Server-side apply of every document of the files, in their order.

        Each remembers what was applied, as after `kubectl apply`: so kubectl may apply the next
        version without a warning.
        """
        for name in names:
            for document in _documents(samples() / name):
                applied = json.dumps(document, separators=(",", ":"))
                notes = document["metadata"].get("annotations", {})
                await self._client.apply(
                    {
                        **document,
                        "metadata": {
                            **document["metadata"],
                            "annotations": {**notes, _LAST_APPLIED: applied},
                        },
                    },
                    manager="meltemi-up",
                )

    async def deploy_demo(self, name: str) -> None:
        """Bookinfo in the namespace default, with sidecars and a gateway."""
        assert name == "bookinfo"
        await self._client.apply(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": "default", "labels": {"istio-injection": "enabled"}},
            },
            manager="meltemi-up",
        )
        await self.deploy(*_BOOKINFO)

    async def deploy_traffic(self) -> None:
        """A visitor; it comes when everything is there, so that the graph starts without errors."""
        await self.deploy(_TRAFFIC)
        await self.available()

    async def available(self) -> None:
        """Wait until every Deployment has all its pods available."""
        while True:
            if all(map(_is_available, await self._client.list("Deployment"))):
                return
            await asyncio.sleep(_POLL)

    async def gateway_answers(self, ports: Ports | None, *, path: str = "/productpage") -> None:
        """Wait for the ingress to answer: 200 with the demo, anything without."""
        if ports is None:
            return
        url = f"http://127.0.0.1:{ports.ingress}{path}"
        gateways = await self._client.list("Gateway")
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(url) as reply:
                        if reply.status == 200 or (not gateways and reply.status < 500):
                            return
                except aiohttp.ClientError:
                    if not gateways:
                        return
                await asyncio.sleep(_POLL)


@asynccontextmanager
async def deployer(kubeconfig: Path) -> AsyncIterator[Deployer]:
    """A deployer for the API that the kubeconfig names."""
    async with Client(access_from_file(kubeconfig)) as client:
        yield Deployer(client)


def _is_available(deployment: dict[str, Any]) -> bool:
    status = deployment.get("status") or {}
    seen: bool = status.get("observedGeneration") == deployment["metadata"]["generation"]
    ready: int = status.get("availableReplicas", 0)
    return seen and ready >= deployment["spec"]["replicas"]


def _documents(path: Path) -> Iterable[dict[str, Any]]:
    for document in yaml.load_all(path.read_text(), yaml.CSafeLoader):
        if document:
            if document["kind"] != "Namespace":
                document["metadata"].setdefault("namespace", "default")
            yield document

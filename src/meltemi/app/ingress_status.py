"""Tells every Ingress of ours where it is reached: the addresses of the gateway's Service."""

import asyncio
import logging

import msgspec

from meltemi.api.core import LoadBalancerIngress, Service
from meltemi.app.engine import Engine
from meltemi.base.keys import ObjectKey
from meltemi.compile.settings import MESH, MeshSettings
from meltemi.kube.client import Client
from meltemi.kube.errors import KubeError
from meltemi.kube.writer import patch_status

log = logging.getLogger(__name__)

_RETRY = 5.0
"""Seconds."""

Addresses = tuple[LoadBalancerIngress, ...]


class IngressStatus:
    """Writes `status.loadBalancer` of Ingress objects."""

    def __init__(self, engine: Engine, client: Client) -> None:
        self._engine = engine
        self._client = client

    async def run(self) -> None:
        """Look after every propagation, until cancelled."""
        while True:
            wrote = await self._write()
            if not wrote:
                await asyncio.sleep(_RETRY)
                continue
            async with self._engine.changed:
                await self._engine.changed.wait()

    def outdated(self, addresses: Addresses) -> list[ObjectKey]:
        """The Ingress objects that say something else."""
        objects, ours = self._engine.objects.ingresses, self._engine.model.ingress_gateways
        found = ((key, objects.get(key)) for key in ours)
        return [
            key
            for key, ingress in found
            if ingress is not None and ingress.status.load_balancer.ingress != addresses
        ]

    async def _write(self) -> bool:
        settings = self._engine.settings.get(MESH) or MeshSettings()
        addresses = self._addresses(settings)
        status = {"loadBalancer": {"ingress": msgspec.to_builtins(addresses) or None}}
        for key in self.outdated(addresses):
            try:
                await patch_status(self._client, key, status)
            except KubeError as error:
                log.warning("%s: its status cannot be written: %s", key, error)
                return False
        return True

    def _addresses(self, settings: MeshSettings) -> Addresses:
        key = ObjectKey("Service", settings.root_namespace, settings.ingress_service)
        return addresses_of(self._engine.objects.services.get(key))


def addresses_of(service: Service | None) -> Addresses:
    """Those of its load balancer, or its external IPs; none while there are none."""
    if service is None:
        return ()
    given = service.status.load_balancer.ingress
    return given or tuple(LoadBalancerIngress(ip=ip) for ip in service.spec.external_ips)

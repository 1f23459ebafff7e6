"""Tells every Ingress of ours where it is reached: the addresses of the gateway's Service."""

from collections.abc import Iterator

import msgspec

from meltemi.api.core import LoadBalancerIngress, Service
from meltemi.app.status_writer import Status, StatusWriter
from meltemi.base.keys import ObjectKey
from meltemi.compile.settings import MESH, MeshSettings

Addresses = tuple[LoadBalancerIngress, ...]


class IngressStatus(StatusWriter):
    """Writes `status.loadBalancer` of Ingress objects."""

    what = "addresses"

    def outdated(self) -> Iterator[tuple[ObjectKey, Status]]:
        """The Ingress objects that say something else."""
        addresses = self._addresses(self._engine.settings.get(MESH) or MeshSettings())
        status = {"loadBalancer": {"ingress": msgspec.to_builtins(addresses) or None}}
        for key in self._engine.model.ingress_gateways:
            ingress = self._engine.objects.ingresses.get(key)
            if ingress is not None and ingress.status.load_balancer.ingress != addresses:
                yield key, status

    def _addresses(self, settings: MeshSettings) -> Addresses:
        key = ObjectKey("Service", settings.root_namespace, settings.ingress_service)
        return addresses_of(self._engine.objects.services.get(key))


def addresses_of(service: Service | None) -> Addresses:
    """Those of its load balancer, or its external IPs; none while there are none."""
    if service is None:
        return ()
    given = service.status.load_balancer.ingress
    return given or tuple(LoadBalancerIngress(ip=ip) for ip in service.spec.external_ips)

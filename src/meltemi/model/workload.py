"""Workloads: the instances that send and serve traffic."""

from collections.abc import Mapping

import msgspec

from meltemi.base.identity import Identity
from meltemi.base.keys import ObjectKey, WorkloadKey
from meltemi.model.service import Port


class Workload(msgspec.Struct, frozen=True):
    """One pod or WorkloadEntry as the mesh sees it."""

    key: WorkloadKey
    source: ObjectKey
    address: str
    labels: Mapping[str, str]
    identity: Identity
    name: str
    """The owner's name, `reviews-v1`: what metrics call `workload`."""
    app: str
    version: str
    canonical_service: str
    canonical_revision: str
    in_mesh: bool
    """A sidecar or gateway proxy answers mutual TLS for it (label security.istio.io/tlsMode)."""
    is_gateway: bool
    ready: bool
    container_ports: Mapping[str, int]
    """Named container ports; of a WorkloadEntry, ports by the name of the service's port."""
    network: str = ""
    node: str = ""
    locality: str = ""
    """`region/zone/subzone`."""
    weight: int = 1
    also: tuple[str, ...] = ()
    """Its further addresses, of the other family."""

    @property
    def has_ipv6(self) -> bool:
        return any(":" in address for address in (self.address, *self.also))

    def port_behind(self, port: Port) -> int:
        """Its port behind a service's: what an entry says of the name, the target's number, or
        the container port of that name; 0 when there is none."""
        if self.is_entry and port.name in self.container_ports:
            return self.container_ports[port.name]
        if isinstance(port.target, int):
            return port.target
        return self.container_ports.get(port.target, 0)

    @property
    def is_entry(self) -> bool:
        """It is not a pod: Kubernetes' own endpoints do not know it."""
        return self.source.kind == "WorkloadEntry"

"""Endpoints: the addresses behind one port of one service. Their own branch of the graph."""

from collections.abc import Mapping

import msgspec

from meltemi.base.identity import Identity
from meltemi.base.keys import ServicePortKey


class Endpoint(msgspec.Struct, frozen=True):
    address: str
    port: int
    ready: bool
    labels: Mapping[str, str] = {}
    """The workload's labels: subsets select by them."""
    mtls: bool = False
    """The workload accepts mutual TLS on this port: it has a proxy and its mode is not DISABLE."""
    identity: Identity | None = None
    workload: str = ""
    namespace: str = ""
    app: str = ""
    version: str = ""
    canonical_service: str = ""
    canonical_revision: str = ""
    locality: str = ""
    node: str = ""
    weight: int = 1
    network: str = ""
    """As the workload itself says; empty: the mesh knows."""
    also: tuple[str, ...] = ()
    """Further addresses of the same workload, tried where the first does not answer."""

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self.address, *self.also)


class EndpointSet(msgspec.Struct, frozen=True):
    key: ServicePortKey
    endpoints: tuple[Endpoint, ...]
    """Ordered by address and port. Only the ready ones take traffic; the others tell who may."""

    @property
    def ready(self) -> tuple[Endpoint, ...]:
        return tuple(e for e in self.endpoints if e.ready)

    @property
    def identities(self) -> tuple[str, ...]:
        """SPIFFE URIs of the workloads behind the port: whom a client may meet there."""
        return tuple(sorted({e.identity.uri for e in self.endpoints if e.identity}))

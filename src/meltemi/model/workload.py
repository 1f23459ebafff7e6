"""Workloads: the instances that send and serve traffic."""

from collections.abc import Mapping

import msgspec

from meltemi.base.identity import Identity
from meltemi.base.keys import ObjectKey, WorkloadKey


class Workload(msgspec.Struct, frozen=True):
    """One pod as the mesh sees it."""

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
    """Named container ports."""
    network: str = ""
    locality: str = ""
    """`region/zone/subzone`."""

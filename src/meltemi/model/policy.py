"""Destination policies: what DestinationRule means for the clients of a host.

The blocks (load balancer, connection pool, outlier detection, tls) stay the API's own Structs:
they are already plain values.
"""

from collections.abc import Mapping

import msgspec

from meltemi.api.networking import (
    ClientTLSSettings,
    ConnectionPool,
    LoadBalancer,
    OutlierDetection,
    TrafficPolicy,
)
from meltemi.base.keys import ObjectKey


class Blocks(msgspec.Struct, frozen=True):
    """The four blocks in force for one port of one subset."""

    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None


class SubsetPolicy(msgspec.Struct, frozen=True):
    name: str
    labels: Mapping[str, str]
    policy: TrafficPolicy | None
    source: ObjectKey
    path: str
    """`spec.subsets[1]`."""


class DestinationPolicy(msgspec.Struct, frozen=True):
    """The merged DestinationRules of one host in one namespace (mesh-semantics 1.3)."""

    host: str
    """Full, or with a left-most wildcard."""
    namespace: str
    sources: tuple[ObjectKey, ...]
    export_to: tuple[str, ...]
    workload_selector: Mapping[str, str] | None
    policy: TrafficPolicy | None
    subsets: tuple[SubsetPolicy, ...]

    def subset(self, name: str) -> SubsetPolicy | None:
        return next((s for s in self.subsets if s.name == name), None)

    def blocks(self, port: int, subset: str = "") -> Blocks:
        """The blocks for a port: a matching port-level entry replaces all four at its level;
        a subset's blocks override the host's one by one, unless its port-level entry matches."""
        base = _level(self.policy, port)
        chosen = self.subset(subset) if subset else None
        if chosen is None or chosen.policy is None:
            return base
        for entry in chosen.policy.port_level_settings:
            if entry.port.number == port:
                return _blocks(entry)
        own = _blocks(chosen.policy)
        return Blocks(
            own.load_balancer or base.load_balancer,
            own.connection_pool or base.connection_pool,
            own.outlier_detection or base.outlier_detection,
            own.tls or base.tls,
        )


def _blocks(policy: TrafficPolicy | object) -> Blocks:
    return Blocks(
        getattr(policy, "load_balancer", None),
        getattr(policy, "connection_pool", None),
        getattr(policy, "outlier_detection", None),
        getattr(policy, "tls", None),
    )


def _level(policy: TrafficPolicy | None, port: int) -> Blocks:
    if policy is None:
        return Blocks()
    for entry in policy.port_level_settings:
        if entry.port.number == port:
            return _blocks(entry)
    return _blocks(policy)

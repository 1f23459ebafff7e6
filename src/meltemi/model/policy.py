"""Destination policies: what DestinationRule means for the clients of a host.

The blocks (load balancer, connection pool, ...) stay the API's own Structs: they are already
plain values.
"""

from collections.abc import Iterator, Mapping

import msgspec

from meltemi.api.networking import (
    ClientTLSSettings,
    ConnectionPool,
    LoadBalancer,
    OutlierDetection,
    ProxyProtocol,
    RetryBudget,
    TrafficPolicy,
    TrafficPolicyBlocks,
    Tunnel,
)
from meltemi.base.keys import ObjectKey


class Blocks(msgspec.Struct, frozen=True):
    """What is in force for one port of one subset."""

    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLSSettings | None = None
    tunnel: Tunnel | None = None
    proxy_protocol: ProxyProtocol | None = None
    retry_budget: RetryBudget | None = None

    def over(self, base: TrafficPolicy | None) -> "Blocks":
        """These blocks, with those of the mesh's default where one is unset."""
        if base is None:
            return self
        return _overridden(_overridden(self, _four(base)), _extras(base))


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
    created: tuple[str, str, str] = ("", "", "")
    """The age of its oldest rule."""

    @property
    def levels(self) -> Iterator[TrafficPolicyBlocks]:
        """Every set of blocks in it."""
        for policy in (self.policy, *(s.policy for s in self.subsets)):
            if policy is not None:
                yield from (policy, *policy.port_level_settings)

    def subset(self, name: str) -> SubsetPolicy | None:
        return next((s for s in self.subsets if s.name == name), None)

    def blocks(self, port: int, subset: str = "") -> Blocks:
        """The blocks for a port: a matching port-level entry replaces load balancer, pool,
        outlier detection and tls at its level, even where it is silent; a subset's blocks
        override the host's one by one, unless its port-level entry matches."""
        chosen = self.subset(subset) if subset else None
        own = chosen.policy if chosen is not None else None
        rest = _overridden(_extras(own), _extras(self.policy))
        four = _port_entry(own, port) or _overridden(
            _four(own), _port_entry(self.policy, port) or _four(self.policy)
        )
        return _overridden(four, rest)


def _port_entry(policy: TrafficPolicy | None, port: int) -> Blocks | None:
    """The blocks of a port-level entry, when there is one for the port."""
    entries = policy.port_level_settings if policy is not None else ()
    return next((_four(entry) for entry in entries if entry.port.number == port), None)


def _four(policy: TrafficPolicyBlocks | None) -> Blocks:
    if policy is None:
        return Blocks()
    return Blocks(
        policy.load_balancer, policy.connection_pool, policy.outlier_detection, policy.tls
    )


def _extras(policy: TrafficPolicy | None) -> Blocks:
    """What port-level entries never speak of."""
    if policy is None:
        return Blocks()
    return Blocks(
        tunnel=policy.tunnel,
        proxy_protocol=policy.proxy_protocol,
        retry_budget=policy.retry_budget,
    )


def _overridden(first: Blocks, second: Blocks) -> Blocks:
    """The first's blocks, and the second's where the first is silent."""
    return Blocks(
        first.load_balancer or second.load_balancer,
        first.connection_pool or second.connection_pool,
        first.outlier_detection or second.outlier_detection,
        first.tls or second.tls,
        first.tunnel or second.tunnel,
        first.proxy_protocol or second.proxy_protocol,
        first.retry_budget or second.retry_budget,
    )

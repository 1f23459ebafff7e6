"""Which endpoints a client prefers by where they are (mesh-semantics 1.3, localityLbSetting).

Failover makes priorities: Envoy sends to the next one only as the endpoints of those before it
fail. Distribution makes weights. Everything is a function of the client's own topology labels.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from meltemi.api.networking import (
    LocalityDistribute,
    LocalityFailover,
    LocalityLoadBalancer,
    ZoneAwareLoadBalancer,
)
from meltemi.compile import ir
from meltemi.compile.settings import MeshSettings
from meltemi.model.endpoint import Endpoint
from meltemi.model.locality import NETWORK, NODE, PLACE, REGION, SUBZONE, ZONE, topology
from meltemi.model.policy import Blocks, DestinationPolicy

Topology = Mapping[str, str]

_LEAST = 6
_CLOSE = (NETWORK, REGION, ZONE, SUBZONE)
_DISTRIBUTIONS = {
    "PreferClose": _CLOSE,
    "PreferSameZone": _CLOSE,
    "PreferSameNode": (*_CLOSE, NODE),
}


class Preference(msgspec.Struct, frozen=True):
    """What decides for one cluster: shares, or what to fail over to; nothing: nearest first."""

    shares: tuple[LocalityDistribute, ...] = ()
    failover: tuple[LocalityFailover, ...] = ()
    labels: tuple[str, ...] = ()
    """`label` the client shares with an endpoint, or `label=value`; most significant first."""
    least: int = 0
    """Envoy itself prefers the client's zone within its region, from so many endpoints on."""

    @property
    def asks(self) -> frozenset[str]:
        """The client's labels that matter."""
        keys = {label for label in self.labels if "=" not in label}
        if self.least:
            keys.add(REGION)
        return frozenset(keys) if self.labels or self.least else frozenset(PLACE)


def preference(blocks: Blocks, distribution: str, mesh: MeshSettings) -> Preference | None:
    """The setting in force: the rule's, else the Service's trafficDistribution, else the mesh's;
    of two beside each other the zone-aware one. None: endpoints are alike. Failover without
    outlier detection has nothing to go by."""
    balancer = blocks.load_balancer
    zones = _zones(balancer.zone_aware_lb_setting if balancer is not None else None)
    if zones is not None:
        return zones
    setting = balancer.locality_lb_setting if balancer is not None else None
    if setting is None:
        if distribution in _DISTRIBUTIONS:
            return Preference(labels=_DISTRIBUTIONS[distribution])
        zones = _zones(mesh.zones)
        if zones is not None:
            return zones
        setting = mesh.locality or LocalityLoadBalancer()
    if setting.enabled is False:
        return None
    if setting.distribute:
        return Preference(shares=setting.distribute)
    if blocks.outlier_detection is None:
        return None
    return Preference(failover=setting.failover, labels=setting.failover_priority)


def _zones(setting: ZoneAwareLoadBalancer | None) -> Preference | None:
    if setting is None or setting.enabled is False:
        return None
    least = setting.min_cluster_size or _LEAST
    return Preference(failover=setting.failover, labels=setting.failover_priority, least=least)


def asked_of_clients(
    policy: DestinationPolicy | None, distribution: str, settings: MeshSettings
) -> frozenset[str]:
    """The topology labels by which some cluster of a service prefers endpoints."""
    levels = list(policy.levels) if policy is not None else []
    outlier = next((x.outlier_detection for x in levels if x.outlier_detection), None)
    asked: set[str] = set()
    for balancer in (None, *(level.load_balancer for level in levels)):
        blocks = Blocks(load_balancer=balancer, outlier_detection=outlier)
        found = preference(blocks.over(settings.default_policy), distribution, settings)
        asked |= found.asks if found is not None else frozenset()
    return frozenset(asked)


def grouped(
    endpoints: Iterable[Endpoint], wanted: Preference | None, client: Topology, cluster: str = ""
) -> tuple[ir.EndpointGroup, ...]:
    """The endpoints in groups of one locality and priority; the first priority is 0 and there
    are no gaps. `cluster`: the name of the mesh's own cluster."""
    listed = list(endpoints)
    if wanted is None:
        return _groups(listed, lambda _e: 0)
    if wanted.shares:
        return _distributed(_groups(listed, lambda _e: 0), wanted.shares, client)
    if wanted.least:
        return _groups(listed, lambda e: _by_region(e, wanted, client, cluster))
    if wanted.labels:
        return _groups(listed, lambda e: _by_labels(e, wanted.labels, client, cluster))
    return _groups(listed, lambda e: _by_distance(e, wanted.failover, client))


def only(
    groups: Sequence[ir.EndpointGroup], keep: Callable[[Endpoint], bool]
) -> tuple[ir.EndpointGroup, ...]:
    """The groups with some of their endpoints; priorities close up again."""
    left = [
        msgspec.structs.replace(group, endpoints=tuple(e for e in group.endpoints if keep(e)))
        for group in groups
    ]
    left = [group for group in left if group.endpoints]
    rank = {p: i for i, p in enumerate(sorted({group.priority for group in left}))}
    return tuple(msgspec.structs.replace(g, priority=rank[g.priority]) for g in left)


def _groups(
    endpoints: Sequence[Endpoint], priority: Callable[[Endpoint], int]
) -> tuple[ir.EndpointGroup, ...]:
    found: dict[tuple[int, str], list[Endpoint]] = {}
    for endpoint in endpoints:
        found.setdefault((priority(endpoint), endpoint.locality), []).append(endpoint)
    rank = {p: i for i, p in enumerate(sorted({p for p, _ in found}))}
    return tuple(
        ir.EndpointGroup(
            locality=locality,
            priority=rank[p],
            weight=sum(e.weight for e in found[p, locality]),
            endpoints=tuple(found[p, locality]),
        )
        for p, locality in sorted(found)
    )


def _by_distance(endpoint: Endpoint, failover: Sequence[LocalityFailover], client: Topology) -> int:
    """0: same region, zone and subzone; 1: same zone; 2: same region; 3: elsewhere; 4: elsewhere,
    and not where the client's region fails over to."""
    here = [client.get(name, "") for name in PLACE]
    there = [*endpoint.locality.split("/"), "", ""][:3]
    if not any(here):
        return 0
    for distance in range(3):
        if here[: 3 - distance] == there[: 3 - distance]:
            return distance
    rule = next((f for f in failover if f.from_ == here[0]), None)
    return 3 if rule is None or rule.to == there[0] else 4


def _by_region(endpoint: Endpoint, wanted: Preference, client: Topology, cluster: str) -> int:
    """By the labels, and among those alike the client's own region, then where it fails over to;
    zones are Envoy's."""
    here, there = client.get(REGION, ""), endpoint.locality.partition("/")[0]
    rule = next((f for f in wanted.failover if f.from_ == here), None)
    rank = 2 if rule is not None and rule.to != there else 1
    if not here or there == here:
        rank = 0
    return _by_labels(endpoint, wanted.labels, client, cluster) * 3 + rank


def _by_labels(endpoint: Endpoint, labels: Sequence[str], client: Topology, cluster: str) -> int:
    """How many of the labels, from the first without a gap, the endpoint does not share."""
    theirs = topology(endpoint.labels, endpoint.locality, node=endpoint.node, cluster=cluster)
    for i, label in enumerate(labels):
        key, given, value = label.partition("=")
        wanted = value if given else client.get(key, "")
        if theirs.get(key, "") != wanted:
            return len(labels) - i
    return 0


def _distributed(
    groups: Sequence[ir.EndpointGroup], shares: Sequence[LocalityDistribute], client: Topology
) -> tuple[ir.EndpointGroup, ...]:
    """Weights as the first matching `from` says; localities it does not name get nothing. A
    share for several localities is split as their endpoints' weights are."""
    here = "/".join(client.get(name, "") for name in PLACE).rstrip("/")
    share = next((s for s in shares if _within(here, s.from_)), None)
    if share is None:
        return tuple(groups)
    weights: dict[str, float] = {}
    for pattern, percent in share.to.items():
        reached = [g for g in groups if _within(g.locality, pattern)]
        total = sum(g.weight for g in reached)
        for group in reached:
            weights.setdefault(group.locality, 0.0)
            weights[group.locality] += percent * 100 * group.weight / total if total else 0
    return tuple(
        msgspec.structs.replace(g, weight=max(round(weights[g.locality]), 1))
        for g in groups
        if g.locality in weights
    )


def _within(locality: str, pattern: str) -> bool:
    """Whether a locality falls under `region`, `region/zone/*` or `*`."""
    if pattern == "*":
        return True
    wanted = pattern.removesuffix("/*").split("/")
    return locality.split("/")[: len(wanted)] == wanted

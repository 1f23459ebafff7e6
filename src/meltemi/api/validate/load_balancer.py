"""What a DestinationRule's loadBalancer may say (mesh-semantics 1.3)."""

import datetime
import re
from collections.abc import Iterator, Sequence

from meltemi.api import networking as net
from meltemi.api.validate import headers, words
from meltemi.api.validate.words import Advice, Finding
from meltemi.base.problems import Code

_BALANCERS = (
    "UNSPECIFIED", "LEAST_CONN", "LEAST_REQUEST", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN",
)  # fmt: skip
_WARMING = (None, "UNSPECIFIED", "LEAST_CONN", "LEAST_REQUEST", "ROUND_ROBIN")
_LARGEST_RING = 8 << 20
_LARGEST_TABLE = 5_000_011
_LOCALITY = re.compile(r"[^/*]+(?:/[^/*]+){0,2}(?:/\*)?|\*")


_PLACE = (
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
)


def load_balancer(balancer: net.LoadBalancer, path: str) -> Iterator[Finding]:
    yield from words.choice(balancer.simple, f"{path}.simple", _BALANCERS)
    if balancer.simple is not None and balancer.consistent_hash is not None:
        yield path, "simple and consistentHash exclude each other: keep one of them"
    if balancer.consistent_hash is not None:
        yield from _consistent_hash(balancer.consistent_hash, f"{path}.consistentHash")
    if balancer.locality_lb_setting is not None:
        yield from locality(balancer.locality_lb_setting, f"{path}.localityLbSetting")
    if balancer.zone_aware_lb_setting is not None:
        yield from zone_aware(balancer.zone_aware_lb_setting, f"{path}.zoneAwareLbSetting")
    yield from _warmup(balancer, path)


def _warmup(balancer: net.LoadBalancer, path: str) -> Iterator[Finding]:
    legacy, warmup = balancer.warmup_duration_secs, balancer.warmup
    if legacy is None and warmup is None:
        return
    if legacy is not None and warmup is not None:
        yield f"{path}.warmupDurationSecs", "warmup says the same and more: keep one of them"
    yield from words.duration(legacy, f"{path}.warmupDurationSecs")
    if warmup is not None:
        if warmup.duration is None:
            yield f"{path}.warmup.duration", "how long? give it a duration"
        yield from words.duration(warmup.duration, f"{path}.warmup.duration")
        if warmup.minimum_percent is not None:
            yield from words.percent(warmup.minimum_percent, f"{path}.warmup.minimumPercent")
        if warmup.aggression is not None and not 1 <= warmup.aggression <= 1000:
            yield f"{path}.warmup.aggression", "must be from 1 to 1000"
    if balancer.consistent_hash is not None or balancer.simple not in _WARMING:
        name = "warmup" if warmup is not None else "warmupDurationSecs"
        yield Advice(
            f"{path}.{name}",
            "only LEAST_REQUEST and ROUND_ROBIN warm up new endpoints: choose one of them",
        )


def _consistent_hash(consistent: net.ConsistentHash, path: str) -> Iterator[Finding]:
    keys = {
        "httpHeaderName": consistent.http_header_name,
        "httpCookie": consistent.http_cookie,
        "useSourceIp": consistent.use_source_ip,
        "httpQueryParameterName": consistent.http_query_parameter_name,
    }
    given = [name for name, value in keys.items() if value]
    if len(given) != 1:
        yield path, f"give it one of {', '.join(keys)}"
    if consistent.http_header_name is not None:
        yield from headers.name(consistent.http_header_name, f"{path}.httpHeaderName")
    if consistent.http_query_parameter_name is not None:
        yield from words.text(
            consistent.http_query_parameter_name, f"{path}.httpQueryParameterName"
        )
    if consistent.http_cookie is not None:
        yield from _cookie(consistent.http_cookie, f"{path}.httpCookie")
    yield from _sizes(consistent, path)


def _cookie(cookie: net.HTTPCookie, path: str) -> Iterator[Finding]:
    yield from headers.name(cookie.name, f"{path}.name")
    yield from words.text(cookie.path, f"{path}.path")
    if cookie.ttl is not None and cookie.ttl < datetime.timedelta():
        yield f"{path}.ttl", "must not be negative; 0s is a cookie of the browser's session"
    for i, attribute in enumerate(cookie.attributes):
        yield from headers.name(attribute.name, f"{path}.attributes[{i}].name")
        yield from words.text(attribute.value, f"{path}.attributes[{i}].value")


def _sizes(consistent: net.ConsistentHash, path: str) -> Iterator[Finding]:
    if consistent.ring_hash is not None and consistent.maglev is not None:
        yield f"{path}.maglev", "ringHash and maglev exclude each other: keep one of them"
    ring = consistent.ring_hash.minimum_ring_size if consistent.ring_hash else 0
    for name, size in (
        ("ringHash.minimumRingSize", ring),
        ("minimumRingSize", consistent.minimum_ring_size),
    ):
        if not 0 <= size <= _LARGEST_RING:
            yield f"{path}.{name}", f"must be from 0 to {_LARGEST_RING}"
    table = consistent.maglev.table_size if consistent.maglev else 0
    if table and not (2 <= table <= _LARGEST_TABLE and _is_prime(table)):
        yield f"{path}.maglev.tableSize", f"must be a prime number up to {_LARGEST_TABLE}"


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % d for d in range(2, int(number**0.5) + 1))


def locality(setting: net.LocalityLoadBalancer, path: str) -> Iterator[Finding]:
    """A rule's, or the mesh's."""
    kinds = {
        "distribute": setting.distribute,
        "failover": setting.failover,
        "failoverPriority": setting.failover_priority,
    }
    given = [name for name, value in kinds.items() if value]
    if len(given) > 1:
        yield f"{path}.{given[1]}", f"{' and '.join(given)} exclude each other: keep one of them"
    for i, share in enumerate(setting.distribute):
        yield from _distribute(share, f"{path}.distribute[{i}]")
    yield from _failover(setting.failover, setting.failover_priority, path)


def zone_aware(setting: net.ZoneAwareLoadBalancer, path: str) -> Iterator[Finding]:
    """A rule's, or the mesh's. Regions, zones and subzones are its own business."""
    if setting.min_cluster_size < 0:
        yield f"{path}.minClusterSize", "must not be negative"
    yield from _failover(setting.failover, setting.failover_priority, path)
    for i, label in enumerate(setting.failover_priority):
        if label.partition("=")[0] in _PLACE:
            where = f"{path}.failoverPriority[{i}]"
            yield where, "regions and zones are preferred anyway: remove it"


def _failover(
    failovers: Sequence[net.LocalityFailover], labels: Sequence[str], path: str
) -> Iterator[Finding]:
    for i, failover in enumerate(failovers):
        where = f"{path}.failover[{i}]"
        for name, region in (("from", failover.from_), ("to", failover.to)):
            if not region or "*" in region or "/" in region:
                yield f"{where}.{name}", "name a region, without zones and wildcards"
        if failover.from_ == failover.to:
            yield f"{where}.to", "failing over to the same region changes nothing"
    for i, label in enumerate(labels):
        key, _, value = label.partition("=")
        yield from words.labels({key: value}, f"{path}.failoverPriority[{i}]")
        if label in labels[:i]:
            yield f"{path}.failoverPriority[{i}]", f"{label!r} is there twice: remove one"


def _distribute(share: net.LocalityDistribute, path: str) -> Iterator[Finding]:
    for name, place in (("from", share.from_), *(("to", to) for to in share.to)):
        if not _LOCALITY.fullmatch(place):
            where = f"{path}.{name}"
            yield where, f"{place[:80]!r} is not region/zone/subzone, with * only as the last part"
    if any(not 0 < weight <= 100 for weight in share.to.values()):
        yield f"{path}.to", "each share must be from 1 to 100"
    elif sum(share.to.values()) != 100:
        yield f"{path}.to", f"the shares add up to {sum(share.to.values())}: make it 100"
    for place in share.to:
        wider = [o for o in share.to if o != place and _covers(o, place)]
        if wider:
            yield Advice(
                f"{path}.to",
                f"{place!r} lies within {wider[0]!r} too and counts for both",
                Code.BAD_VALUE,
            )


def _covers(pattern: str, place: str) -> bool:
    return pattern == "*" or (pattern.endswith("/*") and place.startswith(pattern[:-1]))

"""What a DestinationRule may say (mesh-semantics 1.3)."""

import re
from collections.abc import Iterator

from meltemi.api import networking as net
from meltemi.api.validate import words
from meltemi.api.validate.words import LABEL, Finding

_BALANCERS = (
    "UNSPECIFIED", "LEAST_CONN", "LEAST_REQUEST", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN",
)  # fmt: skip
_CLIENT_TLS = ("DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL")


def destination_rule(spec: net.DestinationRuleSpec) -> Iterator[Finding]:
    yield from words.host(spec.host, "spec.host")
    if spec.traffic_policy is not None:
        yield from _policy(spec.traffic_policy, "spec.trafficPolicy")
    seen: set[str] = set()
    for i, subset in enumerate(spec.subsets):
        path = f"spec.subsets[{i}]"
        if not subset.name:
            yield f"{path}.name", "a subset needs a name"
        elif not re.fullmatch(LABEL, subset.name):
            yield f"{path}.name", f"{subset.name[:80]!r} is not a name: use a DNS label"
        if subset.name in seen:
            yield f"{path}.name", f"subset {subset.name!r} is there twice: rename one of them"
        seen.add(subset.name)
        if subset.traffic_policy is not None:
            yield from _policy(subset.traffic_policy, f"{path}.trafficPolicy")


def _policy(policy: net.TrafficPolicy, path: str) -> Iterator[Finding]:
    yield from _blocks(policy, path)
    for i, port in enumerate(policy.port_level_settings):
        where = f"{path}.portLevelSettings[{i}]"
        yield from words.port(port.port.number, f"{where}.port.number")
        yield from _blocks(port, where)


def _blocks(blocks: net.TrafficPolicyBlocks, path: str) -> Iterator[Finding]:
    balancer = blocks.load_balancer
    if balancer is not None:
        if balancer.simple is not None and balancer.simple not in _BALANCERS:
            yield f"{path}.loadBalancer.simple", f"must be one of {', '.join(_BALANCERS[1:])}"
        if balancer.simple is not None and balancer.consistent_hash is not None:
            yield f"{path}.loadBalancer", "simple and consistentHash exclude each other"
    if blocks.tls is not None and blocks.tls.mode not in _CLIENT_TLS:
        yield f"{path}.tls.mode", f"must be one of {', '.join(_CLIENT_TLS)}"
    pool = blocks.connection_pool
    if pool is not None:
        for name, part in (("tcp", pool.tcp), ("http", pool.http)):
            for field in part.__struct_fields__ if part is not None else ():
                value = getattr(part, field)
                if isinstance(value, int) and value < 0:
                    yield f"{path}.connectionPool.{name}.{field}", "must not be negative"
    outlier = blocks.outlier_detection
    if outlier is not None:
        yield from words.percent(
            outlier.max_ejection_percent, f"{path}.outlierDetection.maxEjectionPercent"
        )
        yield from words.percent(
            outlier.min_health_percent, f"{path}.outlierDetection.minHealthPercent"
        )

"""What is in force on the way, in words, with the field that put it there."""

import datetime
import re

import msgspec

from meltemi.api.networking import (
    ConnectionPool,
    LoadBalancer,
    OutlierDetection,
    TrafficPolicy,
    TrafficPolicyBlocks,
)
from meltemi.base.keys import ObjectKey
from meltemi.compile import ir
from meltemi.model.route import HeaderEdits
from meltemi.simulate.patterns import describe
from meltemi.simulate.routing import because
from meltemi.simulate.trace import Because, Policy
from meltemi.simulate.world import World

_BLOCKS = (
    ("load balancer", "load_balancer", "loadBalancer"),
    ("connection pool", "connection_pool", "connectionPool"),
    ("outlier detection", "outlier_detection", "outlierDetection"),
    ("TLS", "tls", "tls"),
    ("tunnel", "tunnel", "tunnel"),
    ("PROXY protocol", "proxy_protocol", "proxyProtocol"),
    ("retry budget", "retry_budget", "retryBudget"),
)


_ALWAYS = frozenset({"timeout", "retries"})
"""Every route has these; without an object they are the mesh's own."""


def route_policies(world: World, route: ir.Route) -> tuple[Policy, ...]:
    """What a route does besides choosing destinations; defaults name no object."""
    return tuple(_unless_default(world, policy) for policy in _route_policies(route))


def _unless_default(world: World, policy: Policy) -> Policy:
    """Without the object, where the object is silent and the mesh's default holds."""
    if all(_is_declared(world, one) for one in policy.because) and (
        policy.because or policy.name not in _ALWAYS
    ):
        return policy
    return Policy(policy.name, f"{policy.value} (default)")


def _is_declared(world: World, because: Because) -> bool:
    """Whether an object sets the field itself."""
    key = ObjectKey(because.kind, because.namespace, because.name)
    value: object = world.objects.virtual_services.get(key)
    for name, index in _STEP.findall(because.path):
        fields = msgspec.structs.fields(value) if isinstance(value, msgspec.Struct) else ()
        attribute = next((f.name for f in fields if f.encode_name == name), "")
        value = getattr(value, attribute, None) if attribute else None
        if index and isinstance(value, tuple):
            value = value[int(index)] if int(index) < len(value) else None
    return value is not None


_STEP = re.compile(r"(\w+)(?:\[(\d+)\])?")


def _route_policies(route: ir.Route) -> list[Policy]:
    found: list[Policy] = []
    if isinstance(route.action, ir.Forward):
        found += _forward_policies(route, route.action)
    fault = route.fault
    if fault is not None and fault.delay is not None:
        text = f"{seconds(fault.delay.duration)} for {fault.delay.percent:g} % of requests"
        found.append(Policy("delay", text, because(route, "fault.delay")))
    if fault is not None and fault.abort is not None:
        what = fault.abort.grpc_status or fault.abort.status or 500
        text = f"{what} for {fault.abort.percent:g} % of requests"
        found.append(Policy("abort", text, because(route, "fault.abort")))
    if route.cors is not None:
        origins = ", ".join(describe(o) for o in route.cors.origins) or "none"
        found.append(Policy("CORS", f"origins {origins}", because(route, "corsPolicy")))
    if route.headers != HeaderEdits():
        found.append(Policy("headers", _edits(route.headers), because(route, "headers")))
    return found


def _forward_policies(route: ir.Route, action: ir.Forward) -> list[Policy]:
    limit = seconds(action.timeout) if action.timeout else "none"
    found = [Policy("timeout", limit, because(route, "timeout"))]
    retry = action.retry
    text = "none"
    if retry.attempts:
        text = f"{retry.attempts} on {','.join(retry.on)}"
        text += f", each at most {seconds(retry.per_try)}" if retry.per_try else ""
    found.append(Policy("retries", text, because(route, "retries")))
    rewrite = action.rewrite
    if rewrite is not None:
        parts = [f"path {rewrite.path}"] if rewrite.path else []
        parts += [f"path {rewrite.regex[0]} to {rewrite.regex[1]}"] if rewrite.regex else []
        parts += [f"authority {rewrite.authority}"] if rewrite.authority else []
        found.append(Policy("rewrite", ", ".join(parts), because(route, "rewrite")))
    for policy in action.hashes:
        found.append(Policy("consistent hash", _hash(policy)))
    return found


def cluster_policies(world: World, cluster: ir.Cluster) -> tuple[Policy, ...]:
    """The blocks of DestinationRules in force, each with the level it comes from."""
    found: list[Policy] = []
    for label, attribute, field in _BLOCKS:
        block = getattr(cluster.blocks, attribute)
        if block is not None:
            found.append(Policy(label, _words(block), _origin(world, cluster, attribute, field)))
    return tuple(found)


def origins(world: World, cluster: ir.Cluster) -> tuple[Because, ...]:
    """What makes a cluster: its service, and the field that defines its subset."""
    found: list[Because] = []
    for key in cluster.sources:
        rule = world.objects.destination_rules.get(key)
        if rule is None:
            found.append(Because(*key))
        found += [
            Because(*key, f"spec.subsets[{i}]")
            for i, subset in enumerate(rule.spec.subsets if rule is not None else ())
            if subset.name == cluster.subset
        ]
    return tuple(found)


def _origin(world: World, cluster: ir.Cluster, attribute: str, field: str) -> tuple[Because, ...]:
    """The most specific field that holds exactly the block in force."""
    block = getattr(cluster.blocks, attribute)
    for key in cluster.sources:
        rule = world.objects.destination_rules.get(key)
        if rule is None:
            continue
        levels: list[tuple[str, TrafficPolicy | None]] = [
            (f"spec.subsets[{i}].trafficPolicy", subset.traffic_policy)
            for i, subset in enumerate(rule.spec.subsets)
            if subset.name == cluster.subset
        ]
        levels.append(("spec.trafficPolicy", rule.spec.traffic_policy))
        for path, policy in levels:
            for place, blocks in _entries(path, policy, cluster.port):
                if getattr(blocks, attribute, None) == block:
                    return (Because(*key, f"{place}.{field}"),)
    return ()


def _entries(
    path: str, policy: TrafficPolicy | None, port: int
) -> list[tuple[str, TrafficPolicyBlocks]]:
    if policy is None:
        return []
    own: list[tuple[str, TrafficPolicyBlocks]] = [
        (f"{path}.portLevelSettings[{i}]", entry)
        for i, entry in enumerate(policy.port_level_settings)
        if entry.port.number == port
    ]
    return [*own, (path, policy)]


def _words(block: msgspec.Struct) -> str:
    """A block's set fields, as the API names them."""
    match block:
        case LoadBalancer(simple=str(simple)):
            return simple
        case LoadBalancer() | ConnectionPool() | OutlierDetection():
            return _flat(msgspec.to_builtins(block, enc_hook=_plain))
        case _:
            return _flat(msgspec.to_builtins(block, enc_hook=_plain))


def _flat(value: object) -> str:
    if isinstance(value, dict):
        parts = (f"{key} {_flat(item)}" for key, item in value.items())
        return ", ".join(parts)
    if isinstance(value, list):
        return "[" + "; ".join(map(_flat, value)) + "]"
    return str(value)


def _plain(value: object) -> str:
    return seconds(value) if isinstance(value, datetime.timedelta) else str(value)


def _hash(policy: ir.HashPolicy) -> str:
    if policy.header:
        return f"header {policy.header}"
    if policy.query:
        return f"query parameter {policy.query}"
    return f"cookie {policy.cookie}" if policy.cookie else "source address"


def _edits(edits: HeaderEdits) -> str:
    parts = []
    for side, put, add, remove in (
        ("request", edits.request_set, edits.request_add, edits.request_remove),
        ("response", edits.response_set, edits.response_add, edits.response_remove),
    ):
        parts += [f"{side} set {name}: {value}" for name, value in put]
        parts += [f"{side} add {name}: {value}" for name, value in add]
        parts += [f"{side} remove {name}" for name in remove]
    return ", ".join(parts)


def seconds(span: datetime.timedelta) -> str:
    """A duration in Go's form: `1.5s`, `250ms`."""
    value = span.total_seconds()
    return f"{value * 1000:g}ms" if value and abs(value) < 1 else f"{value:g}s"

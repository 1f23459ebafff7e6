"""What the graph shows of the configuration: which services have rules, which pods a sidecar."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from meltemi.model.build import Model
from meltemi.model.hosts import candidates
from meltemi.model.policy import DestinationPolicy
from meltemi.model.route import MESH, Forward, HttpRule, L4Rule, RouteTable, Weighted
from meltemi.model.service import Service

NO_REVISION = "latest"
"""The canonical revision of a workload that has none."""


class ServiceFacts(msgspec.Struct, frozen=True):
    """A service of the mesh, and what is configured for it."""

    has_routes: bool = False
    """A route table stands under its host, or leads to it from a gateway or another host."""
    has_fault: bool = False
    has_mirror: bool = False
    shifts_traffic: bool = False
    has_circuit_breaker: bool = False


class WorkloadFacts(msgspec.Struct, frozen=True):
    """All pods of one workload."""

    app: str
    version: str
    """Empty without one."""
    pods: int
    ready: int
    in_mesh: int
    is_gateway: bool


class Facts(msgspec.Struct, frozen=True):
    """By (namespace, name)."""

    services: Mapping[tuple[str, str], ServiceFacts] = {}
    workloads: Mapping[tuple[str, str], WorkloadFacts] = {}


class _Rules:
    """What route tables do to a host."""

    def __init__(self) -> None:
        self.has_routes = False
        self.http: list[HttpRule] = []
        self.l4: list[L4Rule] = []


def facts(model: Model) -> Facts:
    """Read the model as it is now."""
    return Facts(_services(model), _workloads(model))


def _services(model: Model) -> Mapping[tuple[str, str], ServiceFacts]:
    rules = _rules_by_host(model.tables.values())
    policies: dict[str, list[DestinationPolicy]] = defaultdict(list)
    for policy in model.policies.values():
        policies[policy.host].append(policy)
    return {
        (service.namespace, service.name): _of_service(service, rules, policies)
        for service in model.services.values()
    }


def _rules_by_host(tables: Iterable[RouteTable]) -> Mapping[str, _Rules]:
    """Each rule under the hosts it stands for in the mesh and under those it leads to."""
    found: dict[str, _Rules] = defaultdict(_Rules)
    for table in tables:
        own = table.hosts if MESH in table.gateways else ()
        for host in own:
            found[host].has_routes = True
        for rule in table.http:
            for host in {*own, *_hosts(_destinations(rule))}:
                found[host].has_routes = True
                found[host].http.append(rule)
        for l4 in (*table.tls, *table.tcp):
            for host in {*own, *_hosts(l4.destinations)}:
                found[host].has_routes = True
                found[host].l4.append(l4)
    return found


def _destinations(rule: HttpRule) -> tuple[Weighted, ...]:
    return rule.action.destinations if isinstance(rule.action, Forward) else ()


def _hosts(destinations: Iterable[Weighted]) -> Iterator[str]:
    return (destination.target.host for destination in destinations)


def _of_service(
    service: Service,
    rules: Mapping[str, _Rules],
    policies: Mapping[str, list[DestinationPolicy]],
) -> ServiceFacts:
    names = [name for name in candidates(service.host) if name in rules]
    http = [rule for name in names for rule in rules[name].http]
    l4 = [rule for name in names for rule in rules[name].l4]
    return ServiceFacts(
        has_routes=any(rules[name].has_routes for name in names),
        has_fault=any(rule.fault is not None for rule in http),
        has_mirror=any(rule.mirrors for rule in http),
        shifts_traffic=any(len(_destinations(rule)) > 1 for rule in http)
        or any(len(rule.destinations) > 1 for rule in l4),
        has_circuit_breaker=any(
            _breaks(policy)
            for name in candidates(service.host)
            for policy in policies.get(name, ())
        ),
    )


def _breaks(rule: DestinationPolicy) -> bool:
    for block in (rule.policy, *(subset.policy for subset in rule.subsets)):
        if block is None:
            continue
        for level in (block, *block.port_level_settings):
            if level.connection_pool is not None or level.outlier_detection is not None:
                return True
    return False


def _workloads(model: Model) -> Mapping[tuple[str, str], WorkloadFacts]:
    found: dict[tuple[str, str], WorkloadFacts] = {}
    for workload in model.workloads.values():
        key = (workload.key.namespace, workload.name)
        revision = workload.canonical_revision
        before = found.get(key) or WorkloadFacts(
            app=workload.canonical_service,
            version="" if revision == NO_REVISION else revision,
            pods=0,
            ready=0,
            in_mesh=0,
            is_gateway=workload.is_gateway,
        )
        found[key] = msgspec.structs.replace(
            before,
            pods=before.pods + 1,
            ready=before.ready + workload.ready,
            in_mesh=before.in_mesh + workload.in_mesh,
        )
    return found

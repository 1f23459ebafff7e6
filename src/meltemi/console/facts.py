"""What the graph shows of the configuration: which services have rules, which pods a sidecar."""

from collections.abc import Mapping

import msgspec

from meltemi.model.build import Model
from meltemi.model.policy import DestinationPolicy
from meltemi.model.route import Forward, RouteTable


class ServiceFacts(msgspec.Struct, frozen=True):
    has_routes: bool = False
    has_fault: bool = False
    has_mirror: bool = False
    shifts_traffic: bool = False
    has_circuit_breaker: bool = False


class WorkloadFacts(msgspec.Struct, frozen=True):
    """All pods of one workload."""

    app: str
    version: str
    pods: int
    ready: int
    in_mesh: int
    is_gateway: bool


class Facts(msgspec.Struct, frozen=True):
    """By (namespace, name)."""

    services: Mapping[tuple[str, str], ServiceFacts] = {}
    workloads: Mapping[tuple[str, str], WorkloadFacts] = {}


def facts(model: Model) -> Facts:
    """Read the model as it is now."""
    return Facts(_services(model), _workloads(model))


def _services(model: Model) -> Mapping[tuple[str, str], ServiceFacts]:
    routes: dict[str, list[RouteTable]] = {}
    for table in model.tables.values():
        if "mesh" in table.gateways:
            for host in table.hosts:
                routes.setdefault(host, []).append(table)
    policies: dict[str, list[DestinationPolicy]] = {}
    for policy in model.policies.values():
        policies.setdefault(policy.host, []).append(policy)
    found = {}
    for key, service in model.services.items().items():
        tables, rules = routes.get(service.host, []), policies.get(service.host, [])
        if tables or rules:
            found[key.namespace, service.name] = _of_service(tables, rules)
    return found


def _of_service(tables: list[RouteTable], rules: list[DestinationPolicy]) -> ServiceFacts:
    http = [rule for table in tables for rule in table.http]
    return ServiceFacts(
        has_routes=bool(tables),
        has_fault=any(rule.fault is not None for rule in http),
        has_mirror=any(rule.mirrors for rule in http),
        shifts_traffic=any(
            isinstance(rule.action, Forward) and len(rule.action.destinations) > 1 for rule in http
        ),
        has_circuit_breaker=any(_breaks(rule) for rule in rules),
    )


def _breaks(rule: DestinationPolicy) -> bool:
    blocks = [rule.policy, *(subset.policy for subset in rule.subsets)]
    return any(
        b is not None and (b.connection_pool is not None or b.outlier_detection is not None)
        for b in blocks
    )


def _workloads(model: Model) -> Mapping[tuple[str, str], WorkloadFacts]:
    found: dict[tuple[str, str], WorkloadFacts] = {}
    for workload in model.workloads.values():
        key = (workload.key.namespace, workload.name)
        before = found.get(key) or WorkloadFacts(
            app=workload.canonical_service,
            version=workload.canonical_revision,
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

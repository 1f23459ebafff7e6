"""Destination policies from DestinationRules: merging and lookup (mesh-semantics 1.3)."""

from collections.abc import Mapping, Sequence

from meltemi.api.networking import DestinationRule, Subset
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Outcome, Problem, Severity
from meltemi.flow import Fetch, Index, View
from meltemi.model.hosts import candidates, export_list, full_host, is_visible
from meltemi.model.policy import DestinationPolicy, SubsetPolicy

PolicyKey = tuple[str, str, str]
"""(namespace, host, name of the oldest rule merged into it)."""


def merged_policy(
    rule: DestinationRule, siblings: Sequence[DestinationRule], domain: str
) -> Mapping[PolicyKey, Outcome[DestinationPolicy]]:
    """The policy that `rule` heads, or nothing when an older rule heads its group.

    Rules of one namespace and host merge when they are exported alike and select alike.
    """
    group = sorted((s for s in siblings if _group(s) == _group(rule)), key=lambda r: r.age_order)
    if group[0].key != rule.key:
        return {}
    namespace = rule.metadata.namespace
    host = full_host(rule.spec.host, namespace, domain)
    selector = rule.spec.workload_selector
    subsets, problems = _merged_subsets(group)
    policy = DestinationPolicy(
        host=host,
        namespace=namespace,
        sources=tuple(r.key for r in group),
        export_to=export_list(rule.spec.export_to if selector is None else ["."], namespace),
        workload_selector=selector.match_labels if selector is not None else None,
        policy=next((r.spec.traffic_policy for r in group if r.spec.traffic_policy), None),
        subsets=subsets,
        created=group[0].age_order,
    )
    return {(namespace, host, rule.metadata.name): Outcome(policy, problems)}


def _group(rule: DestinationRule) -> tuple[object, ...]:
    selector = rule.spec.workload_selector
    labels = None if selector is None else tuple(sorted(selector.match_labels.items()))
    return (export_list(rule.spec.export_to, rule.metadata.namespace), labels)


def _merged_subsets(
    group: Sequence[DestinationRule],
) -> tuple[tuple[SubsetPolicy, ...], tuple[Problem, ...]]:
    kept: dict[str, SubsetPolicy] = {}
    problems: list[Problem] = []
    for rule in group:
        for i, subset in enumerate(rule.spec.subsets):
            path = f"spec.subsets[{i}]"
            if subset.name in kept:
                problems.append(_duplicate(rule.key, path, subset, kept[subset.name].source))
            else:
                kept[subset.name] = SubsetPolicy(
                    subset.name, subset.labels, subset.traffic_policy, rule.key, path
                )
    return tuple(kept.values()), tuple(problems)


def _duplicate(about: ObjectKey, path: str, subset: Subset, first: ObjectKey) -> Problem:
    return Problem(
        Code.DUPLICATE_SUBSET,
        Severity.WARNING,
        about,
        f"{path}.name",
        f"subset {subset.name!r} is already defined by {first} for the same host, which is older "
        "and wins; rename or remove one of the two",
    )


def policies_over(
    fetch: Fetch,
    policies: View[PolicyKey, DestinationPolicy],
    by_host: Index[DestinationPolicy],
    host: str,
) -> tuple[tuple[PolicyKey, DestinationPolicy], ...]:
    """All policies that cover a host, with their keys, the most specific host first."""
    return tuple(
        ((policy.namespace, policy.host, policy.sources[0].name), policy)
        for name in candidates(host)
        for policy in fetch.by(policies, by_host, name)
    )


def choose_policy(
    found: Sequence[tuple[PolicyKey, DestinationPolicy]],
    *,
    service_namespace: str,
    client_namespace: str,
    root_namespace: str,
    client_labels: Mapping[str, str],
) -> PolicyKey | None:
    """The policy a client applies, out of those that cover a host: the first level that has any
    match wins, and levels are never merged.

    Levels: the client's namespace (unless it is the root), the service's, the root. Within one,
    the most specific host; a rule that selects the client beats one for all; then the oldest.
    """
    if not found:
        return None
    own = [client_namespace] if client_namespace != root_namespace else []
    for level in (*own, service_namespace, root_namespace):
        usable = [
            (key, policy)
            for key, policy in found
            if policy.namespace == level and _applies(policy, client_namespace, client_labels)
        ]
        if usable:
            host = usable[0][1].host
            best = [(key, policy) for key, policy in usable if policy.host == host]
            return min(best, key=lambda p: (p[1].workload_selector is None, p[1].created))[0]
    return None


def _applies(policy: DestinationPolicy, namespace: str, labels: Mapping[str, str]) -> bool:
    if policy.workload_selector is not None:
        return policy.namespace == namespace and (
            policy.workload_selector.items() <= labels.items()
        )
    return is_visible(policy.export_to, namespace)

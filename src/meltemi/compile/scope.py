"""Scopes: which proxies may see the same configuration, and so share it.

Sidecars of one namespace share a scope unless a rule tells some of them apart by their labels;
gateways share one when their labels are equal, because Gateways choose them by labels.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from meltemi.base.resource import NodeInfo
from meltemi.model.policy import DestinationPolicy
from meltemi.model.route import RouteTable


class ScopeKey(NamedTuple):
    kind: str
    """`sidecar` or `router`."""
    namespace: str
    labels: tuple[tuple[str, str], ...]
    """Those that matter; ordered."""
    traits: tuple[str, ...] = ()
    """What else tells gateways apart: `READS_SECRETS`, `UNPRIVILEGED`; ordered."""

    @property
    def owner(self) -> str:
        """The name of its sets."""
        labels = ",".join(f"{name}={value}" for name, value in self.labels)
        return "/".join((self.kind, self.namespace, labels, *self.traits))


READS_SECRETS = "reads-secrets"
"""The proxy has proved who it is, and may read the Secrets of its namespace."""
UNPRIVILEGED = "unprivileged"
"""The pod may not listen below port 1024."""


def scope_of(node: NodeInfo, telling: frozenset[str]) -> ScopeKey:
    """A proxy's scope; `telling` are the labels that rules ask about."""
    if node.kind == "router":
        labels = tuple(sorted(node.labels.items()))
        return ScopeKey("router", node.namespace, labels, tuple(_traits(node)))
    labels = tuple(sorted((k, v) for k, v in node.labels.items() if k in telling))
    return ScopeKey("sidecar", node.namespace, labels)


def _traits(node: NodeInfo) -> Iterator[str]:
    if node.reads_secrets:
        yield READS_SECRETS
    if str(node.metadata.get("UNPRIVILEGED_POD", "")).lower() == "true":
        yield UNPRIVILEGED


def labels_of_table(table: RouteTable) -> frozenset[str]:
    """The source labels that a route table's rules ask about."""
    return frozenset(
        name
        for rules in (table.http, table.tls, table.tcp)
        for rule in rules
        for match in rule.matches
        for name in match.source_labels
    )


def labels_of_policy(policy: DestinationPolicy) -> frozenset[str]:
    return frozenset(policy.workload_selector or ())


def is_subset(wanted: Mapping[str, str], labels: Iterable[tuple[str, str]]) -> bool:
    """Whether all wanted labels are there."""
    return wanted.items() <= dict(labels).items()

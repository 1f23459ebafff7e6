"""Scopes: which proxies may see the same configuration, and so share it.

Sidecars of one namespace share a scope unless a rule tells some of them apart by their labels;
gateways share one when their labels are equal, because Gateways choose them by labels.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.base.resource import NodeInfo
from meltemi.model.policy import DestinationPolicy
from meltemi.model.route import RouteTable
from meltemi.model.sidecar import SidecarDef


class ScopeKey(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """Part of the keys of most views, so its hash is kept."""

    kind: str
    """`sidecar` or `router`."""
    namespace: str
    labels: tuple[tuple[str, str], ...]
    """Those that matter; ordered."""
    traits: tuple[str, ...] = ()
    """What else tells proxies apart: `READS_SECRETS`, `UNPRIVILEGED`, `IPV6`; ordered."""
    place: tuple[tuple[str, str], ...] = ()
    """Where the proxies run, as topology labels, as far as some rule asks; ordered."""
    sidecar: ObjectKey = ObjectKey("", "", "")
    """The Sidecar object that applies; without a name: none."""

    @property
    def has_ipv6(self) -> bool:
        return IPV6 in self.traits

    @property
    def owner(self) -> str:
        """The name of its sets."""
        labels, place = (
            ",".join(f"{name}={value}" for name, value in pairs)
            for pairs in (self.labels, self.place)
        )
        sidecar = f"{self.sidecar.namespace}.{self.sidecar.name}" if self.sidecar.name else ""
        rest = filter(None, (place, sidecar))
        return "/".join((self.kind, self.namespace, labels, *self.traits, *rest))


READS_SECRETS = "reads-secrets"
"""The account of the proxy may read the Secrets of its namespace."""
PEERS = "peers"
"""The proxies know their peers (ISTIO_META_ENABLE_SELF_DISCOVERY), and may so prefer their zone."""
ON_DEMAND = "on-demand"
"""The proxies learn what they use: `sidecar` is the workload's learned scope."""
IPV6 = "ipv6"
"""The proxy has an IPv6 address: what listens at any address does so in both families."""
UNPRIVILEGED = "unprivileged"
"""The pod may not listen below port 1024."""
_TOPOLOGY = "topology="


class Topology(msgspec.Struct, frozen=True, rename="camel"):
    """What stands before a gateway: the gatewayTopology of its ProxyConfig."""

    num_trusted_proxies: int = 0
    """How many addresses at the end of x-forwarded-for come from proxies we believe."""
    forward_client_cert_details: str = ""
    proxy_protocol: dict[str, object] | None = None
    """Set: every connection begins with a PROXY header."""

    @property
    def trusted_hops(self) -> int:
        return max(self.num_trusted_proxies, 0)

    @property
    def client_certificates(self) -> str:
        """How x-forwarded-client-cert is treated; empty: as at any edge."""
        known = self.forward_client_cert_details in _CLIENT_CERTIFICATES
        return self.forward_client_cert_details if known else ""


_CLIENT_CERTIFICATES = frozenset(
    {"SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY"}
)


def topology_of(scope: ScopeKey) -> Topology:
    """The topology of a gateway scope; what cannot be read counts as none."""
    found = next((t for t in scope.traits if t.startswith(_TOPOLOGY)), "")
    try:
        text = found.removeprefix(_TOPOLOGY) or "{}"
        return msgspec.json.decode(text, type=Topology, strict=False)
    except msgspec.DecodeError:
        return Topology()


def scope_of(
    node: NodeInfo,
    telling: frozenset[str],
    place: Mapping[str, str] = {},
    sidecar: SidecarDef | None = None,
) -> ScopeKey:
    """A proxy's scope; `telling` are the labels that rules ask about. `place` has the labels
    of where the proxy runs, which count only if some rule asks. Gateways heed no Sidecar."""
    asked = tuple(sorted((k, v) for k, v in place.items() if k in telling and v))
    if node.kind == "router":
        labels = tuple(sorted(node.labels.items()))
        return ScopeKey("router", node.namespace, labels, tuple(_traits(node)), asked)
    labels = tuple(sorted((k, v) for k, v in node.labels.items() if k in telling))
    own = (
        (READS_SECRETS, node.reads_secrets),
        (IPV6, node.has_ipv6),
        (PEERS, knows_peers(node)),
    )
    traits = tuple(trait for trait, holds in own if holds)
    scope = ScopeKey("sidecar", node.namespace, labels, traits, asked)
    return scope if sidecar is None else msgspec.structs.replace(scope, sidecar=sidecar.source)


def _traits(node: NodeInfo) -> Iterator[str]:
    if node.reads_secrets:
        yield READS_SECRETS
    if str(node.metadata.get("UNPRIVILEGED_POD", "")).lower() == "true":
        yield UNPRIVILEGED
    if node.has_ipv6:
        yield IPV6
    if knows_peers(node):
        yield PEERS
    config = node.metadata.get("PROXY_CONFIG")
    topology = config.get("gatewayTopology") if isinstance(config, dict) else None
    if topology:
        yield _TOPOLOGY + msgspec.json.encode(topology, order="sorted").decode()


def knows_peers(node: NodeInfo) -> bool:
    """Whether a proxy has a cluster of its peers."""
    return str(node.metadata.get("ENABLE_SELF_DISCOVERY", "")).lower() == "true"


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
    """The labels by which a policy selects clients."""
    return frozenset(policy.workload_selector or ())


def names_secrets(policy: DestinationPolicy) -> bool:
    """Whether a policy originates TLS with the certificates of a Secret."""
    return any(level.tls is not None and bool(level.tls.credential_name) for level in policy.levels)


def may_use_secrets(policy: DestinationPolicy, scope: ScopeKey) -> bool:
    """Gateways use Secrets of their namespace; sidecars only for rules that select them. Who may
    not read a Secret does not receive it, and connects to nobody."""
    return scope.kind == "router" or policy.workload_selector is not None


def is_subset(wanted: Mapping[str, str], labels: Iterable[tuple[str, str]]) -> bool:
    """Whether all wanted labels are there."""
    return wanted.items() <= dict(labels).items()

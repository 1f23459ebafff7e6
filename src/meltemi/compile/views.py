"""The compiler's views, each a small function of the model: who sees what, and what it becomes.

What many proxies share is keyed by what tells it apart: a cluster by its service and the policy
that applies (a Variant), a virtual host by its service and route table (a RouteVariant). Scopes
only choose among them, so a thousand services cost their bytes once, however many scopes see them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from meltemi.api.networking import ConnectionPool, TrafficPolicy, TrafficPolicyBlocks
from meltemi.base.identity import Identity
from meltemi.base.keys import HostKey, ObjectKey, ServicePortKey, WorkloadKey
from meltemi.base.problems import Outcome
from meltemi.base.resource import NodeInfo
from meltemi.compile import ir
from meltemi.compile.plan.clusters import Behind
from meltemi.compile.plan.inbound import Subject
from meltemi.compile.plan.inbound import inbound as plan_inbound
from meltemi.compile.plan.locality import asked_of_clients
from meltemi.compile.plan.secrets import secrets_in
from meltemi.compile.scope import (
    ON_DEMAND,
    PEERS,
    ScopeKey,
    labels_of_policy,
    labels_of_table,
    may_use_secrets,
    names_secrets,
    scope_of,
)
from meltemi.compile.settings import MESH, Mesh, MeshSettings
from meltemi.compile.visibility import (
    Listed,
    Orphan,
    Pair,
    Sight,
    Way,
    applied,
    egress_of,
    visibility,
)
from meltemi.flow import Fetch, Graph, View
from meltemi.model.build import (
    POLICY_BY_HOST,
    SERVICE_BY_NAMESPACE,
    SIDECAR_BY_NAMESPACE,
    TABLE_BY_HOST,
    Model,
)
from meltemi.model.endpoint import EndpointSet
from meltemi.model.hosts import candidates
from meltemi.model.locality import NETWORK, locality_of_labels, topology
from meltemi.model.policies import PolicyKey, choose_policy, policies_over
from meltemi.model.policy import DestinationPolicy
from meltemi.model.route import Forward, HttpRule, RouteTable, Target
from meltemi.model.service import Service
from meltemi.model.sidecar import SidecarDef
from meltemi.model.sidecars import choose_sidecar
from meltemi.model.tables import table_for
from meltemi.model.tls import InboundTls, Mode
from meltemi.model.workload import Workload

_NO_LABELS: frozenset[str] = frozenset()


class Variant(NamedTuple):
    """A service under one destination policy, as far as the clients are alike to it."""

    host: HostKey
    policy: PolicyKey | None
    client: tuple[tuple[str, str], ...] = ()
    """The clients' labels by which endpoints are preferred; ordered."""
    secrets: bool = False
    """The clients use the Secrets that the policy names."""
    peers: bool = False
    """The clients know their peers."""


class RouteVariant(NamedTuple):
    """The routes to a service, as some scopes apply them."""

    host: HostKey
    table: ObjectKey | None
    local: bool
    """The clients are in the service's namespace."""
    client: ScopeKey | None
    """Set where the routes depend on who asks."""


class Covering(msgspec.Struct, frozen=True):
    """The policies and tables that cover a host, the most specific first."""

    policies: tuple[tuple[PolicyKey, DestinationPolicy], ...]
    tables: tuple[RouteTable, ...]
    alias_of: str = ""
    hashes: bool = False
    """Some policy balances by consistent hash, which routes must know."""
    asks: tuple[frozenset[str], ...] = (frozenset(),)
    """The labels of clients by which endpoints are preferred: without a policy, and under each."""
    credentials: bool = False
    """The mesh's default policy names a Secret, for gateways."""


class Views(NamedTuple):
    """The planning views, for `build` to seal and `assemble` to join."""

    scopes_of: View[str, ScopeKey]
    scopes: View[ScopeKey, ScopeKey]
    pairs: View[Pair, Sight]
    orphans: View[Orphan, ObjectKey]
    covering: View[HostKey, Covering]
    behind: View[ServicePortKey, Behind]
    choices: View[Pair, Variant]
    routes: View[Way, RouteVariant]
    inbounds: View[str, ir.Inbound]


def views(
    graph: Graph,
    model: Model,
    proxies: View[str, NodeInfo],
    mesh: Mesh,
    workloads: View[str, ObjectKey],
) -> Views:
    """Add the planning views to the graph. `workloads` has the proxies of on-demand scope."""
    planner = _Planner(model, mesh)
    distributed = graph.derive(
        "distributed services",
        model.services,
        lambda _f, key, s: {key: Outcome(s.distribution)} if s.distribution else {},
    )
    planner.know(distributed)
    telling = graph.derive(
        "telling labels",
        mesh.settings,
        planner.telling,
        reads=(model.tables, model.policies, model.networks, distributed),
    )
    scopes_of = graph.derive(
        "scope of proxy",
        proxies,
        planner.scope(telling, workloads),
        reads=(
            telling,
            workloads,
            model.sidecars,
            model.workloads,
            model.networks,
            mesh.fields,
        ),
    )
    scopes = graph.distinct("scopes", scopes_of)
    listed, pairs, orphans = visibility(graph, model, scopes)
    covering = graph.derive(
        "covering rules",
        listed,
        planner.covering,
        reads=(model.policies, model.tables, model.networks, distributed, mesh.fields),
    )
    chooser = _Chooser(model, covering, mesh)
    return Views(
        scopes_of=scopes_of,
        scopes=scopes,
        pairs=pairs,
        orphans=orphans,
        covering=covering,
        behind=graph.derive(
            "behind ports", model.endpoints, planner.behind, reads=(model.services,)
        ),
        choices=graph.derive(
            "policy choice", pairs, chooser.variant, reads=(covering, mesh.fields)
        ),
        routes=graph.derive(
            "route choice", pairs, chooser.routes, reads=(covering, model.sidecars, mesh.fields)
        ),
        inbounds=graph.derive(
            "inbound",
            proxies,
            planner.inbound,
            reads=(
                model.workloads,
                model.services,
                model.inbound_tls,
                model.sidecars,
                model.policies,
                model.credentials,
                model.credential_faults,
                mesh.fields,
            ),
        ),
    )


class _Planner:
    """Transforms that read the model."""

    def __init__(self, model: Model, mesh: Mesh) -> None:
        self._model = model
        self._mesh = mesh

    _distributed: View[HostKey, str]

    def know(self, distributed: View[HostKey, str]) -> None:
        """Where `telling` finds the services with a trafficDistribution."""
        self._distributed = distributed

    def scope(
        self, telling: View[str, frozenset[str]], workloads: View[str, ObjectKey]
    ) -> Callable[[Fetch, str, NodeInfo], Mapping[str, Outcome[ScopeKey]]]:
        """Which scope a proxy belongs to."""

        def transform(fetch: Fetch, key: str, node: NodeInfo) -> Mapping[str, Outcome[ScopeKey]]:
            labels = fetch.get(telling, MESH) or _NO_LABELS
            sidecar = self._sidecar(fetch, node) if node.kind == "sidecar" else None
            scope = scope_of(node, labels, self.place(fetch, node), sidecar)
            learned = fetch.get(workloads, key)
            if learned is not None and sidecar is None:
                traits = (*scope.traits, ON_DEMAND)
                scope = msgspec.structs.replace(scope, traits=traits, sidecar=learned)
            return {key: Outcome(scope)}

        return transform

    def _sidecar(self, fetch: Fetch, node: NodeInfo) -> SidecarDef | None:
        sidecars, root = self._model.sidecars, self._mesh.of(fetch).root_namespace
        own = fetch.by(sidecars, SIDECAR_BY_NAMESPACE, node.namespace)
        return choose_sidecar(own, fetch.by(sidecars, SIDECAR_BY_NAMESPACE, root), node.labels)

    def telling(
        self, fetch: Fetch, key: str, settings: MeshSettings
    ) -> Mapping[str, Outcome[frozenset[str]]]:
        """The labels that some rule asks clients about."""
        asked = [labels_of_table(t) for t in fetch.all(self._model.tables)]
        if fetch.get(self._model.networks, MESH) is not None:
            asked.append(frozenset((NETWORK,)))
        policies = [*fetch.all(self._model.policies), None]
        asked += [labels_of_policy(p) for p in policies if p is not None]
        for distribution in {"", *fetch.all(self._distributed)}:
            asked += [asked_of_clients(p, distribution, settings) for p in policies]
        return {key: Outcome(frozenset().union(*asked))}

    def place(self, fetch: Fetch, node: NodeInfo) -> Mapping[str, str]:
        """Where a proxy runs: what is known of its pod, and what its labels say."""
        workload = fetch.get(self._model.workloads, WorkloadKey(node.namespace, node.name))
        locality = workload.locality if workload else locality_of_labels(node.labels)
        machine = workload.node if workload else ""
        cluster = self._mesh.of(fetch).cluster
        known = topology(node.labels, locality, node=machine, cluster=cluster)
        networks = fetch.get(self._model.networks, MESH)
        if networks is None:
            return known
        said = node.labels.get(NETWORK) or str(node.metadata.get("NETWORK") or "")
        said = said or (workload.network if workload else "")
        return {**known, NETWORK: networks.of(said, node.ip, cluster)}

    def covering(
        self, fetch: Fetch, key: HostKey, listed: Listed
    ) -> Mapping[HostKey, Outcome[Covering]]:
        """Rules for the host; tables for what it is another name of, too."""
        model = self._model
        hosts = (key.host, listed.alias_of) if listed.alias_of else (key.host,)
        tables = dict.fromkeys(
            table.source
            for host in hosts
            for name in candidates(host)
            for table in fetch.by(model.tables, TABLE_BY_HOST, name)
        )
        found = (fetch.get(model.tables, source) for source in tables)
        policies = policies_over(fetch, model.policies, POLICY_BY_HOST, key.host)
        kept = tuple(table for table in found if table is not None)
        settings, distribution = self._mesh.of(fetch), fetch.get(self._distributed, key) or ""
        bodies = (None, *(policy for _, policy in policies))
        always = frozenset(() if fetch.get(self._model.networks, MESH) is None else (NETWORK,))
        asks = tuple(asked_of_clients(body, distribution, settings) | always for body in bodies)
        default = settings.default_policy
        covering = Covering(
            policies=policies,
            tables=kept,
            alias_of=listed.alias_of,
            hashes=_hashes((policy for _, policy in policies), default),
            asks=asks,
            credentials=_credentials(default),
        )
        return {key: Outcome(covering)}

    def behind(
        self, fetch: Fetch, key: ServicePortKey, endpoints: EndpointSet
    ) -> Mapping[ServicePortKey, Outcome[Behind]]:
        """Apart from endpoints, so that their comings and goings leave clusters alone."""
        service = fetch.get(self._model.services, HostKey(key.namespace, key.host))
        by_name = service is not None and service.resolution.by_name
        found = Behind(
            identities=endpoints.identities,
            mutual=bool(endpoints.endpoints) and all(e.mtls for e in endpoints.endpoints),
            named=endpoints.ready if by_name else (),
        )
        return {key: Outcome(found)}

    def inbound(self, fetch: Fetch, key: str, node: NodeInfo) -> Mapping[str, Outcome[ir.Inbound]]:
        if node.kind != "sidecar":
            return {}
        settings = self._mesh.of(fetch)
        where = WorkloadKey(node.namespace, node.name)
        workload = fetch.get(self._model.workloads, where) or _workload(node, settings)
        tls = fetch.get(self._model.inbound_tls, where)
        if tls is None:
            tls = InboundTls(where, Mode.PERMISSIVE, {}, None)
        services = fetch.by(self._model.services, SERVICE_BY_NAMESPACE, node.namespace)
        secrets = secrets_in(fetch, self._model, node.namespace, may_read=node.reads_secrets)
        subject = Subject(
            workload=workload,
            services=services,
            tls=tls,
            sidecar=self._sidecar(fetch, node),
            pools=self._pools(fetch, settings),
            secrets=secrets,
        )
        planned = plan_inbound(subject, settings)
        return {key: Outcome(planned.inbound, planned.problems)}

    def _pools(
        self, fetch: Fetch, settings: MeshSettings
    ) -> Callable[[Service, int], ConnectionPool | None]:
        """What the DestinationRules of a service's own namespace say of its connections."""

        def pool(service: Service, port: int) -> ConnectionPool | None:
            policies = policies_over(fetch, self._model.policies, POLICY_BY_HOST, service.host)
            key = choose_policy(
                policies,
                service_namespace=service.namespace,
                client_namespace=service.namespace,
                root_namespace=settings.root_namespace,
                client_labels={},
            )
            found = next((policy for name, policy in policies if name == key), None)
            return found.blocks(port, "").connection_pool if found is not None else None

        return pool


def _workload(node: NodeInfo, settings: MeshSettings) -> Workload:
    """A workload from what its proxy says, until (or because no) pod is known."""
    labels = node.labels
    app = labels.get("app", node.name)
    return Workload(
        key=WorkloadKey(node.namespace, node.name),
        source=ObjectKey("Pod", node.namespace, node.name),
        address=node.ip,
        labels=labels,
        identity=Identity(settings.trust_domain, node.namespace, "default"),
        name=node.name,
        app=app,
        version=labels.get("version", ""),
        canonical_service=app,
        canonical_revision=labels.get("version", "latest"),
        in_mesh=True,
        is_gateway=False,
        ready=True,
        container_ports={},
    )


class _Chooser:
    """Transforms from a pair to what its scope applies."""

    def __init__(self, model: Model, covering: View[HostKey, Covering], mesh: Mesh) -> None:
        self._model = model
        self._covering = covering
        self._mesh = mesh

    def variant(self, fetch: Fetch, pair: Pair, _sight: Sight) -> Mapping[Pair, Outcome[Variant]]:
        found = fetch.get(self._covering, pair.host) or Covering((), ())
        scope, place, secrets = pair.scope, 0, False
        policy = self._policy(fetch, pair, found.policies) if found.policies else None
        if policy is not None:
            place, body = next(
                (place, body)
                for place, (key, body) in enumerate(found.policies, 1)
                if key == policy
            )
            secrets = names_secrets(body) and may_use_secrets(body, scope)
        secrets = secrets or (found.credentials and scope.kind == "router")
        asked = found.asks[place]
        known = {**dict(scope.labels), **dict(scope.place)} if asked else {}
        client = tuple(sorted((k, v) for k, v in known.items() if k in asked))
        return {pair: Outcome(Variant(pair.host, policy, client, secrets, PEERS in scope.traits))}

    def _policy(
        self, fetch: Fetch, pair: Pair, policies: Sequence[tuple[PolicyKey, DestinationPolicy]]
    ) -> PolicyKey | None:
        return choose_policy(
            policies,
            service_namespace=pair.host.namespace,
            client_namespace=pair.scope.namespace,
            root_namespace=self._mesh.of(fetch).root_namespace,
            client_labels=dict(pair.scope.labels),
        )

    def routes(self, fetch: Fetch, pair: Pair, sight: Sight) -> Mapping[Way, Outcome[RouteVariant]]:
        """On each way out what that way imports. Gateways have routes of their own."""
        scope, host = pair
        if scope.kind != "sidecar":
            return {}
        found = fetch.get(self._covering, host)
        egress = egress_of(fetch, self._model, scope)
        chosen: dict[Way, Outcome[RouteVariant]] = {}
        for index in sight.egress:
            tables = applied(found.tables, (egress[index],), scope.namespace) if found else ()
            table = None
            for name in (host.host, found.alias_of) if found and tables else ():
                table = table or table_for(name, tables, scope.namespace)
            local = scope.namespace == host.namespace
            asks = table is not None and _asks_who(table)
            client = scope if asks or (found is not None and found.hashes) else None
            source = table.source if table else None
            chosen[Way(pair, index)] = Outcome(RouteVariant(host, source, local, client))
        return chosen


def _asks_who(table: RouteTable) -> bool:
    """Whether a table's routes depend on the client: by labels, namespace, or through the policy
    of a destination other than the table's own host."""
    matches = [match for rule in table.http for match in rule.matches]
    others = any(target.host not in table.hosts for rule in table.http for target in _targets(rule))
    return others or any(m.source_labels or m.source_namespace for m in matches)


def _targets(rule: HttpRule) -> Iterator[Target]:
    if isinstance(rule.action, Forward):
        yield from (weighted.target for weighted in rule.action.destinations)
    yield from (mirror.target for mirror in rule.mirrors)


def _hashes(policies: Iterable[DestinationPolicy], default: TrafficPolicy | None) -> bool:
    """Whether some policy balances by consistent hash, somewhere, or may replace the mesh's
    default that does."""
    levels = [level for policy in policies for level in policy.levels]
    is_default = bool(levels) and default is not None and _is_hash(default)
    return is_default or any(map(_is_hash, levels))


def _is_hash(level: TrafficPolicyBlocks) -> bool:
    return level.load_balancer is not None and level.load_balancer.consistent_hash is not None


def _credentials(default: TrafficPolicy | None) -> bool:
    return default is not None and default.tls is not None and bool(default.tls.credential_name)

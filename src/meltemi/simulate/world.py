"""A mesh made from objects alone: no cluster, no Envoy, no bytes. What a simulation asks."""

from collections.abc import Iterable, Mapping

import msgspec

from meltemi.api.kinds import KINDS
from meltemi.base.keys import ObjectKey, WorkloadKey
from meltemi.base.problems import Problem
from meltemi.base.resource import NodeInfo
from meltemi.compile import ir
from meltemi.compile.proxy_plan import planning
from meltemi.compile.settings import MESH, MeshSettings, settings_view
from meltemi.flow import Graph, Source
from meltemi.model.build import Domain, Model, build
from meltemi.model.endpoints import WORKLOAD_BY_ADDRESS
from meltemi.model.mesh import SCOPE_ANNOTATION
from meltemi.model.objects import Objects, objects
from meltemi.model.workload import Workload

Raw = Mapping[ObjectKey, bytes]


_LEARNED = {"ANNOTATIONS": {SCOPE_ANNOTATION: "full"}}
"""A proxy that learns services at their first use is asked about as if it had learned them: the
first request waits until it has."""


_SUPPOSED = "supposed"
"""The name of a sidecar that is not there."""


class UnknownWorkload(LookupError):
    """No pod answers to a name; the text says which are there."""


class World:
    """Objects, the model of them, and the plan of any proxy in it."""

    def __init__(
        self, raw: Raw, *, domain: Domain | None = None, settings: MeshSettings | None = None
    ) -> None:
        """`raw`: JSON by key; kinds the mesh does not read are left out."""
        domain = domain or Domain()
        self.graph = Graph()
        self.objects: Objects = objects(self.graph, domain.cluster, domain.root)
        self.model: Model = build(self.graph, self.objects, domain)
        self.domain = domain.cluster
        self.root = domain.root
        self._proxies: Source[str, NodeInfo] = self.graph.source("proxies")
        start: Source[str, MeshSettings] = self.graph.source("start settings")
        start.set(MESH, settings or MeshSettings())
        current = settings_view(self.graph, start, self.objects.mesh.config)
        self._planning = planning(self.graph, self.model, self._proxies, current)
        self._plans: dict[WorkloadKey, ir.ProxyPlan] = {}
        for key, body in raw.items():
            if key.kind in self.objects.raw:
                self.objects.raw[key.kind].set(key, body)
        self.graph.propagate()

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the objects, as far as the proxies asked about tell."""
        planned = (p for plan in self._plans.values() for p in plan.problems)
        return tuple(dict.fromkeys((*self.graph.problems(), *planned)))

    def workload(self, name: str, namespace: str = "default") -> Workload:
        """A pod by its name, or by the name of what owns it (`reviews-v1`).

        Raises UnknownWorkload.
        """
        here = [w for w in self.model.workloads.values() if w.key.namespace == namespace]
        by_name = [w for w in here if w.key.name == name] or [w for w in here if w.name == name]
        if by_name:
            return by_name[0]
        known = ", ".join(sorted(w.key.name for w in here)) or "none"
        raise UnknownWorkload(f"no pod {name} in namespace {namespace}; there are: {known}")

    def at(self, address: str) -> Workload | None:
        """The workload that has an address."""
        found = self.model.workloads.by(WORKLOAD_BY_ADDRESS, address)
        return found[0] if found else None

    def suppose_sidecar(self, namespace: str) -> None:
        """Plan for a sidecar without labels or services in a namespace: for its problems."""
        suffix = f"{namespace}.svc.{self.domain}"
        node = NodeInfo(
            id=f"sidecar~~{_SUPPOSED}.{namespace}~{suffix}",
            kind="sidecar",
            ip="",
            namespace=namespace,
            name=_SUPPOSED,
            domain=suffix,
            labels={},
            metadata=_LEARNED,
        )
        self._proxies.set(node.id, node)
        self.graph.propagate()
        plan = self._planning.plan_of(node.id)
        if plan is not None:
            self._plans[WorkloadKey(namespace, _SUPPOSED)] = plan

    def node(self, proxy: str) -> NodeInfo | None:
        """What the proxy `NAME.NAMESPACE` says of itself; None: nobody's."""
        name, _, namespace = proxy.rpartition(".")
        workload = self.model.workloads.get(WorkloadKey(namespace, name))
        return node_of(workload, self.domain) if workload is not None else None

    def sidecar_of(self, node: NodeInfo) -> ObjectKey | None:
        """The Sidecar object that says what a planned proxy sees; None: no object does."""
        scope = self._planning.views.scopes_of.get(node.id)
        return scope.sidecar if scope is not None and scope.sidecar.name else None

    def rules_on(self, proxy: str, clusters: Iterable[str]) -> set[ObjectKey]:
        """The DestinationRules in force for some clusters of a planned proxy."""
        name, _, namespace = proxy.rpartition(".")
        plan = self._plans.get(WorkloadKey(namespace, name))
        found = [plan.clusters[c] for c in clusters if plan is not None and c in plan.clusters]
        return {key for one in found for key in one.sources if key.kind == "DestinationRule"}

    def plan(self, workload: Workload) -> ir.ProxyPlan | None:
        """What the proxy of a workload is sent; None: it has no proxy."""
        if not (workload.in_mesh or workload.is_gateway):
            return None
        if workload.key not in self._plans:
            node = node_of(workload, self.domain)
            self._proxies.set(node.id, node)
            self.graph.propagate()
            plan = self._planning.plan_of(node.id)
            if plan is None:
                return None
            self._plans[workload.key] = plan
        return self._plans[workload.key]


def node_of(workload: Workload, domain: str) -> NodeInfo:
    """What the proxy of a workload would say of itself; its account is taken to be one that may
    read the Secrets of its namespace."""
    kind = "router" if workload.is_gateway else "sidecar"
    space, name = workload.key
    suffix = f"{space}.svc.{domain}"
    addresses = ",".join((workload.address, *workload.also))
    return NodeInfo(
        id=f"{kind}~{workload.address}~{name}.{space}~{suffix}",
        kind=kind,
        ip=workload.address,
        namespace=space,
        name=name,
        domain=suffix,
        labels=workload.labels,
        metadata={**_LEARNED, "INSTANCE_IPS": addresses},
        reads_secrets=True,
    )


def raw_objects(documents: Iterable[Mapping[str, object]]) -> dict[ObjectKey, bytes]:
    """Parsed objects as their raw bytes by key; a namespace that is not given is `default`."""
    found: dict[ObjectKey, bytes] = {}
    for document in documents:
        kind = str(document.get("kind", ""))
        given = document.get("metadata")
        meta = dict(given) if isinstance(given, Mapping) else {}
        if kind in KINDS and not KINDS[kind].namespaced:
            meta.pop("namespace", None)
        else:
            meta.setdefault("namespace", "default")
        key = ObjectKey(kind, str(meta.get("namespace", "")), str(meta.get("name", "")))
        found[key] = msgspec.json.encode({**document, "metadata": meta})
    return found

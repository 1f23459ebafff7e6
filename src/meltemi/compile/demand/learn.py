"""From the names that workloads have asked for to what their proxies import."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from meltemi.base.keys import HostKey, ObjectKey
from meltemi.base.problems import Outcome
from meltemi.base.resource import NodeInfo
from meltemi.compile.settings import MESH, Mesh
from meltemi.flow import Fetch, Graph, View
from meltemi.model.build import SERVICE_BY_ADDRESS, SERVICE_BY_HOST, SIDECAR_BY_NAMESPACE, Model
from meltemi.model.hosts import wildcards_over
from meltemi.model.mesh import ON_DEMAND, SCOPE_ANNOTATION
from meltemi.model.service import Resolution, Service
from meltemi.model.sidecar import Egress, Import, SidecarDef

KIND = "OnDemand"
"""The kind of a workload's key: (kind, namespace, workload)."""
_NOBODY: Mapping[str, str] = {SCOPE_ANNOTATION: "never a label"}


class Learning(NamedTuple):
    """What on-demand scope adds to the graph."""

    model: Model
    """The model whose Sidecars include the learned ones."""
    workloads: View[str, ObjectKey]
    """The key of each on-demand proxy's workload, by node."""
    ports: View[int, int]
    """Every port on which some service speaks HTTP."""


def learning(
    graph: Graph,
    model: Model,
    proxies: View[str, NodeInfo],
    mesh: Mesh,
    demands: View[ObjectKey, frozenset[str]],
) -> Learning:
    """Add what workloads learn; `demands` has the names they asked for."""
    workloads = graph.derive(
        "on-demand proxies",
        proxies,
        lambda fetch, key, node: _workload(fetch, model, key, node),
        reads=(model.mesh.scoping, model.mesh.whole),
    )
    keys = graph.distinct("on-demand workloads", workloads)
    eager = graph.derive("services in full", model.services, _in_full)
    always = graph.derive(
        "hosts in full",
        graph.constant(),
        lambda fetch, _k, _v: {MESH: Outcome(frozenset(fetch.all(eager)))},
        reads=(eager,),
    )

    def learned(
        fetch: Fetch, key: ObjectKey, _value: ObjectKey
    ) -> Mapping[ObjectKey, Outcome[SidecarDef]]:
        domain = mesh.of(fetch).domain
        hosts = set(fetch.get(always, MESH) or ())
        for name in fetch.get(demands, key) or ():
            hosts |= _hosts(fetch, model, name, key.namespace, domain)
        egress = Egress(tuple(Import("*", host) for host in sorted(hosts)))
        return {key: Outcome(SidecarDef(key, _NOBODY, ("", "", ""), (egress,), (), None, None))}

    made = graph.derive(
        "learned scopes",
        keys,
        learned,
        reads=(demands, always, model.services, mesh.fields),
        indexes=(SIDECAR_BY_NAMESPACE,),
    )
    sidecars = graph.union(
        "sidecars and learned scopes", (model.sidecars, made), indexes=(SIDECAR_BY_NAMESPACE,)
    )
    ports = graph.derive("HTTP ports", model.services, _http_ports)
    return Learning(
        model._replace(sidecars=sidecars), workloads, graph.distinct("ports of HTTP", ports)
    )


def _workload(
    fetch: Fetch, model: Model, key: str, node: NodeInfo
) -> Mapping[str, Outcome[ObjectKey]]:
    """The pod's annotation decides, else its namespace's, else the mesh's."""
    if node.kind != "sidecar":
        return {}
    annotations = node.metadata.get("ANNOTATIONS")
    own = annotations.get(SCOPE_ANNOTATION) if isinstance(annotations, dict) else None
    wish = own or fetch.get(model.mesh.scoping, node.namespace) or fetch.get(model.mesh.whole, MESH)
    if wish != ON_DEMAND:
        return {}
    name = str(node.metadata.get("WORKLOAD_NAME") or node.name)
    return {key: Outcome(ObjectKey(KIND, node.namespace, name))}


def is_learned(service: Service) -> bool:
    """Whether a first request can teach a service: only plain HTTP waits for its routes."""
    return service.resolution in (
        Resolution.ENDPOINTS,
        Resolution.ALIAS,
    ) and all(port.protocol.is_http for port in service.ports)


def _in_full(_fetch: Fetch, key: HostKey, service: Service) -> Mapping[HostKey, Outcome[str]]:
    return {} if is_learned(service) else {key: Outcome(service.host)}


def _http_ports(
    _fetch: Fetch, key: HostKey, service: Service
) -> Mapping[tuple[HostKey, int], Outcome[int]]:
    return {(key, p.number): Outcome(p.number) for p in service.ports if p.protocol.is_http}


def authority(name: str) -> tuple[str, str]:
    """The route configuration and the host, without its port, of a name such as `80/a.b:80`."""
    configuration, _, host = name.partition("/")
    bare, colon, port = host.rpartition(":")
    return configuration, (bare if colon and port.isdecimal() else host).lower()


def _hosts(fetch: Fetch, model: Model, name: str, namespace: str, domain: str) -> set[str]:
    """The hosts of the services that a name may mean to a client in `namespace`."""
    _, host = authority(name)
    found: set[str] = set()
    for candidate in _candidates(host, namespace, domain):
        found |= {s.host for s in fetch.by(model.services, SERVICE_BY_HOST, candidate)}
    return found | {s.host for s in fetch.by(model.services, SERVICE_BY_ADDRESS, host)}


def _candidates(host: str, namespace: str, domain: str) -> Iterator[str]:
    yield host
    dots = host.count(".")
    if dots == 0:
        yield f"{host}.{namespace}.svc.{domain}"
    elif dots == 1:
        yield f"{host}.svc.{domain}"
    elif host.endswith(".svc"):
        yield f"{host}.{domain}"
    yield from wildcards_over(host)

"""Why a request comes to nothing, in the words of the objects that make it so."""

from collections.abc import Sequence

from meltemi.base.keys import ServicePortKey
from meltemi.compile import ir, names
from meltemi.model.service import Protocol, Service
from meltemi.simulate.request import Connection, Speaks
from meltemi.simulate.resolving import service_of
from meltemi.simulate.trace import Because
from meltemi.simulate.world import World

_SHOWN = 5
_MESH_POLICY = "data.mesh.outboundTrafficPolicy"


def without_cluster(world: World, name: str) -> str:
    """Why no cluster has a name that a route leads to."""
    told = names.parse(name)
    if told is None:
        return f"there is no cluster {name}"
    service = service_of(world, told.host)
    if service is None:
        return f"no Service and no ServiceEntry is called {told.host}"
    if service.port(told.port) is None:
        ports = ", ".join(str(port.number) for port in service.ports)
        return f"{service.source} has no port {told.port}: it has {ports}"
    if told.subset:
        return f"no DestinationRule that applies to {told.host} defines the subset {told.subset}"
    return f"{service.source} is not seen from here"


def without_endpoints(world: World, cluster: ir.Cluster) -> str:
    """Why nobody is behind a cluster."""
    key = ServicePortKey(cluster.namespace, cluster.host, cluster.port)
    found = world.model.endpoints.get(key)
    every = found.endpoints if found is not None else ()
    ready = found.ready if found is not None else ()
    if not every:
        service = service_of(world, cluster.host)
        return f"{cluster.host} has no endpoint{_selector(service)}"
    if not ready:
        return f"none of the {len(every)} endpoints of {cluster.host} is ready"
    if cluster.subset:
        return f"none of the {len(ready)} endpoints of {cluster.host} is of subset {cluster.subset}"
    return f"no endpoint of {cluster.host} may be used from here"


def _selector(service: Service | None) -> str:
    if service is None or not service.selector:
        return ""
    wanted = ", ".join(f"{k}={v}" for k, v in sorted(service.selector.items()))
    return f": no pod of namespace {service.namespace} has the labels {wanted}"


def without_host(name: str, authority: str, hosts: Sequence[ir.VirtualHost]) -> str:
    """Why a route configuration has nothing for a name."""
    domains = list(dict.fromkeys(domain for host in hosts for domain in host.domains))
    text = f"no virtual host of {name} is for {authority}"
    if not domains:
        return f"{text}: no VirtualService gives this server a host"
    more = f" and {len(domains) - _SHOWN} more" if len(domains) > _SHOWN else ""
    return f"{text}: there are {', '.join(domains[:_SHOWN])}{more}"


def refused(world: World, plan: ir.ProxyPlan) -> tuple[str, tuple[Because, ...]]:
    """What keeps a proxy from going where the mesh knows nothing."""
    sidecar = world.sidecar_of(plan.node)
    found = world.objects.sidecars.get(sidecar) if sidecar is not None else None
    reason = "REGISTRY_ONLY: the mesh knows nothing there; a ServiceEntry would tell it"
    if sidecar is not None and found is not None and found.spec.outbound_traffic_policy is not None:
        return reason, (Because(*sidecar, "spec.outboundTrafficPolicy"),)
    return reason, (Because("ConfigMap", world.root, "istio", _MESH_POLICY),)


def mismatch(
    world: World, plan: ir.ProxyPlan, connection: Connection, clusters: Sequence[str]
) -> str:
    """Where a client and the declared protocol of a port do not speak alike; empty: they do."""
    protocols = {plan.clusters[c].protocol for c in clusters if c in plan.clusters}
    is_http = connection.speaks in (Speaks.HTTP1, Speaks.HTTP2)
    if is_http and Protocol.TLS in protocols:
        return (
            "the client sends plaintext HTTP to a port declared to speak TLS: speak https, or let "
            "the proxy originate TLS (DestinationRule trafficPolicy.tls SIMPLE) on an HTTP port"
        )
    if is_http and protocols and not any(p.is_http or p is Protocol.AUTO for p in protocols):
        return "the port is not declared to speak HTTP: requests pass as bytes, by no HTTP rule"
    if connection.speaks is Speaks.TLS and clusters and set(clusters) <= {names.PASSTHROUGH}:
        service = next(
            (s for s in world.model.services.values() if connection.address in s.addresses), None
        )
        port = service.port(connection.port) if service is not None else None
        if port is not None and port.protocol.is_http:
            return (
                f"port {port.number} is declared to speak {port.protocol.value}, and the client "
                "speaks TLS of its own: it passes by every rule; send plain HTTP, the proxies "
                "encrypt it"
            )
    return ""

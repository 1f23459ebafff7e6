"""Chains that lead to services whose hosts Envoy resolves itself (DYNAMIC_DNS) get what does it:
a filter that resolves the host of each request, or the SNI of each connection."""

from collections.abc import Iterable, Iterator, Mapping, Set

import msgspec

from meltemi.compile import ir, names
from meltemi.compile.plan.destinations import Resolver
from meltemi.model.service import Resolution

Routes = Mapping[str, tuple[ir.VirtualHost, ...]]


def dynamic_routes(routes: Routes, resolver: Resolver) -> set[str]:
    """The route configurations that lead to such a service."""
    return {name for name, hosts in routes.items() if any(_leads(h, resolver) for h in hosts)}


def with_dynamic_hosts(listener: ir.Listener, routes: Set[str], resolver: Resolver) -> ir.Listener:
    """A listener whose chains resolve what their destinations need; `routes` are the route
    configurations that lead to such a service."""
    chains = tuple(_chain(chain, routes, resolver) for chain in listener.chains)
    default = listener.default
    if default is not None:
        default = _chain(default, routes, resolver)
    return msgspec.structs.replace(listener, chains=chains, default=default)


def _leads(host: ir.VirtualHost, resolver: Resolver) -> bool:
    return any(_port(cluster, resolver) for route in host.routes for cluster in _to(route))


def _to(route: ir.Route) -> Iterator[str]:
    if isinstance(route.action, ir.Forward):
        yield from (weighted.cluster for weighted in route.action.clusters)


def _port(cluster: str, resolver: Resolver) -> int:
    """The port of a cluster of such a service; 0: it is of another."""
    parts = names.parse(cluster)
    service = resolver.service(parts.host) if parts is not None else None
    is_dynamic = service is not None and service.resolution is Resolution.DYNAMIC
    return parts.port if parts is not None and is_dynamic else 0


def _chain(chain: ir.FilterChain, routes: Set[str], resolver: Resolver) -> ir.FilterChain:
    network = chain.network
    match network:
        case ir.Http() if network.routes in routes:
            resolving: ir.Http | ir.Tcp = msgspec.structs.replace(network, dynamic_hosts=True)
        case ir.Tcp(forward=ir.L4Forward(clusters=clusters)):
            port = _first(_port(weighted.cluster, resolver) for weighted in clusters)
            resolving = msgspec.structs.replace(network, dynamic_port=port) if port else network
        case _:
            return chain
    return msgspec.structs.replace(chain, network=resolving) if resolving != network else chain


def _first(ports: Iterable[int]) -> int:
    return next(filter(None, ports), 0)

"""Gateways' routes to services whose hosts Envoy resolves from the request (DYNAMIC_DNS)."""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from meltemi.compile import ir, names
from meltemi.compile.plan.destinations import Resolver
from meltemi.model.service import Resolution

Routes = Mapping[str, tuple[ir.VirtualHost, ...]]


def with_dynamic_hosts(
    listeners: Iterable[ir.Listener], routes: Routes, resolver: Resolver
) -> tuple[ir.Listener, ...]:
    """The listeners, those whose routes lead to such a service with what resolves its hosts."""
    dynamic = {name for name, hosts in routes.items() if any(_leads(h, resolver) for h in hosts)}
    return tuple(_listener(listener, dynamic) if dynamic else listener for listener in listeners)


def _leads(host: ir.VirtualHost, resolver: Resolver) -> bool:
    return any(_is_dynamic(cluster, resolver) for route in host.routes for cluster in _to(route))


def _to(route: ir.Route) -> Iterator[str]:
    if isinstance(route.action, ir.Forward):
        yield from (weighted.cluster for weighted in route.action.clusters)


def _is_dynamic(cluster: str, resolver: Resolver) -> bool:
    parts = names.parse(cluster)
    service = resolver.service(parts.host) if parts is not None else None
    return service is not None and service.resolution is Resolution.DYNAMIC


def _listener(listener: ir.Listener, dynamic: set[str]) -> ir.Listener:
    default = listener.default
    return msgspec.structs.replace(
        listener,
        chains=tuple(_chain(chain, dynamic) for chain in listener.chains),
        default=_chain(default, dynamic) if default is not None else None,
    )


def _chain(chain: ir.FilterChain, dynamic: set[str]) -> ir.FilterChain:
    network = chain.network
    if not isinstance(network, ir.Http) or network.routes not in dynamic:
        return chain
    resolving = msgspec.structs.replace(network, dynamic_hosts=True)
    return msgspec.structs.replace(chain, network=resolving)

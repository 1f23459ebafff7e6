"""Virtual hosts: which names lead to a service, and which routes stand under them."""

from collections.abc import Sequence

from meltemi.compile import ir, names
from meltemi.model.hosts import candidates, is_visible
from meltemi.model.route import MESH, RouteTable
from meltemi.model.service import Service


def domains(service: Service, *, local: bool) -> tuple[str, ...]:
    """The authorities that mean a service; ports are ignored when they are compared.

    `local`: the client is in the service's own namespace and may use the bare name.
    """
    short = (service.name,) if local else ()
    return tuple(dict.fromkeys((service.host, *short, *service.aliases, *service.addresses)))


def virtual_host(
    service: Service, port: int, routes: Sequence[ir.Route], *, local: bool
) -> ir.VirtualHost:
    return ir.VirtualHost(
        name=names.virtual_host(service.host, port),
        domains=domains(service, local=local),
        routes=tuple(routes),
    )


def table_for(
    host: str, tables: Sequence[RouteTable], namespace: str, gateway: str = MESH
) -> RouteTable | None:
    """The table a client in `namespace` applies: the most specific host, then the oldest."""
    if not tables:
        return None
    visible = [t for t in tables if gateway in _gateways(t) and is_visible(t.export_to, namespace)]
    for name in candidates(host):
        fitting = [t for t in visible if name in t.hosts]
        if fitting:
            return min(fitting, key=lambda t: t.created)
    return None


def _gateways(table: RouteTable) -> frozenset[str]:
    """The gateways a table is for, those of single matches too."""
    named = [
        gateway
        for rules in (table.http, table.tls, table.tcp)
        for rule in rules
        for match in rule.matches
        for gateway in match.gateways
    ]
    return frozenset((*table.gateways, *named))

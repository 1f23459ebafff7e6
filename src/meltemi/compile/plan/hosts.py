"""Virtual hosts: which names lead to a service, and which routes stand under them."""

from collections.abc import Sequence

from meltemi.compile import ir, names
from meltemi.compile.settings import MeshSettings
from meltemi.model.route import DirectResponse, Prefix, Retry
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


def fallback_host(settings: MeshSettings) -> ir.VirtualHost:
    """Where requests for unknown hosts go: on to the address the client chose, or refused."""
    action: ir.Forward | DirectResponse = DirectResponse(502)
    name = names.BLOCK_ALL
    if settings.allow_any:
        name = names.ALLOW_ANY
        through = ir.WeightedCluster(names.PASSTHROUGH, 100)
        action = ir.Forward((through,), None, None, Retry(attempts=0))
    return ir.VirtualHost(name, ("*",), (ir.Route(name, ir.Match(Prefix("/")), action),))

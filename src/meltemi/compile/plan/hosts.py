"""Virtual hosts: which names lead to a service, and which routes stand under them."""

from collections.abc import Sequence

from meltemi.compile import ir, names
from meltemi.compile.plan.outside import Outside
from meltemi.model.route import DirectResponse, Prefix, Retry
from meltemi.model.service import Resolution, Service


def domains(service: Service, *, local: bool) -> tuple[str, ...]:
    """The authorities that mean a service; ports are ignored when they are compared.

    `local`: the client is in the service's own namespace and may use the bare name.
    """
    short = (service.name,) if local else ()
    absolute = (f"{service.host}.",) if not service.host.startswith("*") else ()
    found = [service.host, *absolute, *short, *service.aliases]
    if service.resolution is Resolution.HEADLESS:
        found += [f"*.{name}" for name in (service.host, *short, *service.aliases)]
    addresses = (f"[{a}]" if ":" in a else a for a in service.addresses if "/" not in a)
    return tuple(dict.fromkeys((*found, *addresses)))


def without_duplicates(hosts: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The domains of the virtual hosts of one configuration, all in lower case, in which Envoy
    takes each once.

    A host's first domain is its own name, which no other host takes from it; of the others the
    first host that wants them has them.
    """
    every = [domain for wanted in hosts for domain in wanted]
    if len(set(every)) == len(every):
        return list(hosts)
    owners: dict[str, int] = {}
    for i, wanted in enumerate(hosts):
        owners.setdefault(wanted[0], i)
    for i, wanted in enumerate(hosts):
        for domain in wanted[1:]:
            owners.setdefault(domain, i)
    return [tuple(d for d in wanted if owners[d] == i) for i, wanted in enumerate(hosts)]


def virtual_host(
    service: Service, port: int, routes: Sequence[ir.Route], *, local: bool
) -> ir.VirtualHost:
    return ir.VirtualHost(
        name=names.virtual_host(service.host, port),
        domains=domains(service, local=local),
        routes=tuple(routes),
    )


def fallback_host(outside: Outside) -> ir.VirtualHost:
    """Where requests for unknown hosts go: on to the address the client chose, to the one that
    their host has, or nowhere."""
    action: ir.Forward | DirectResponse = DirectResponse(502)
    name = names.BLOCK_ALL
    cluster = outside.requests or outside.cluster
    if cluster:
        name = names.ALLOW_ANY
        through = ir.WeightedCluster(cluster, 100)
        action = ir.Forward((through,), None, None, Retry(attempts=0))
    return ir.VirtualHost(name, ("*",), (ir.Route(name, ir.Match(Prefix("/")), action),))

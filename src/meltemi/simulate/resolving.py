"""Where a name leads, as a pod's resolver and the mesh's services answer it."""

import hashlib
import ipaddress
from collections.abc import Mapping

from meltemi.model.build import SERVICE_BY_HOST
from meltemi.model.service import Resolution, Service
from meltemi.simulate.trace import Because, Resolved
from meltemi.simulate.world import World

_DOTS = 5
"""`ndots` of a pod's resolv.conf: names with fewer dots try the search list first."""


def resolve(
    world: World, host: str, port: int, namespace: str, outside: Mapping[str, str] = {}
) -> Resolved:
    """The address a client in `namespace` connects to. `outside`: names the mesh does not know."""
    if is_address(host):
        return Resolved(host, host, port, "an address")
    for name in names(host, namespace, world.domain):
        service = service_of(world, name)
        if service is None:
            continue
        because = (Because(*service.source, "spec"),)
        if service.resolution is Resolution.ALIAS:
            onward = resolve(world, service.external_name, port, namespace, outside)
            reason = f"{service.source} is another name for {service.external_name}"
            return Resolved(host, onward.address, port, reason, (*because, *onward.because))
        single = [address for address in service.addresses if "/" not in address]
        if single:
            field = "spec.addresses" if service.declared else "spec.clusterIP"
            because = (Because(*service.source, field),)
            reason = f"{name} is the address of {service.source}"
            return Resolved(host, single[0], port, reason, because)
        if service.addresses:
            continue  # Ranges tell proxies what to take; no name server answers with one.
        address = _first_endpoint(world, service)
        if address:
            reason = f"{name} is headless: the address of one of its pods"
            return Resolved(host, address, port, reason, because)
    if host in outside:
        return Resolved(host, outside[host], port, "resolved outside the mesh")
    return Resolved(host, stand_in(host), port, "not a name of the mesh: an address stands for it")


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def names(host: str, namespace: str, domain: str) -> tuple[str, ...]:
    """The names a resolver tries, in order."""
    if host.endswith("."):
        return (host[:-1].lower(),)
    name = host.lower()
    searched = tuple(f"{name}.{s}" for s in (f"{namespace}.svc.{domain}", f"svc.{domain}", domain))
    return (*searched, name) if name.count(".") < _DOTS else (name, *searched)


def service_of(world: World, host: str) -> Service | None:
    found = world.model.services.by(SERVICE_BY_HOST, host)
    return found[0] if found else None


def address_of(host: str) -> str:
    """The address of a name that a proxy resolves by itself."""
    return host if is_address(host) else stand_in(host)


def stand_in(host: str) -> str:
    """An address of the benchmarking range 198.18.0.0/15, the same for the same name."""
    first, second, third = hashlib.blake2b(host.encode(), digest_size=3).digest()
    return f"198.{18 + first % 2}.{second}.{third or 1}"


def _first_endpoint(world: World, service: Service) -> str:
    for key, found in sorted(world.model.endpoints.items().items()):
        if (key.namespace, key.host) == (service.namespace, service.host) and found.ready:
            return found.ready[0].address
    return ""

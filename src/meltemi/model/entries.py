"""Services from ServiceEntries (mesh-semantics 1.1 and 1.5)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from meltemi.api import service_entry as api
from meltemi.base.keys import HostKey, ObjectKey
from meltemi.base.problems import Code, Outcome, Problem, Severity
from meltemi.flow import Index
from meltemi.model.addresses import canonical
from meltemi.model.hosts import export_list
from meltemi.model.protocols import protocol_of
from meltemi.model.service import Port, Protocol, Resolution, Service

_RESOLUTIONS = {
    "NONE": Resolution.ORIGINAL,
    "STATIC": Resolution.ENDPOINTS,
    "DNS": Resolution.DNS,
    "DNS_ROUND_ROBIN": Resolution.DNS_ONE,
    "DYNAMIC_DNS": Resolution.DYNAMIC,
}
EXTERNAL = "MESH_EXTERNAL"


class EntryHost(NamedTuple):
    """One host of one ServiceEntry."""

    entry: ObjectKey
    host: str

    @property
    def key(self) -> HostKey:
        return HostKey(self.entry.namespace, self.host)


def hosts_of_entry(entry: api.ServiceEntry) -> tuple[HostKey, ...]:
    namespace = entry.metadata.namespace
    return tuple(dict.fromkeys(HostKey(namespace, h.lower()) for h in entry.spec.hosts))


ENTRY_BY_HOST: Index[api.ServiceEntry] = Index("host", hosts_of_entry)


def service_from_entries(
    key: HostKey, entries: Sequence[api.ServiceEntry], allocated: tuple[str, ...], domain: str
) -> Outcome[Service]:
    """The service of a host. Of several entries in one namespace the oldest says what it is;
    those that agree with it add their ports and addresses, the others are reported."""
    ordered = sorted(entries, key=lambda e: e.age_order)
    first = ordered[0]
    agreeing = [e for e in ordered if _nature(e) == _nature(first)]
    problems = tuple(_disagrees(e, first, key.host) for e in ordered if e not in agreeing)
    ports: dict[int, Port] = {}
    for entry in agreeing:
        for port in _ports(entry.spec):
            ports.setdefault(port.number, port)
    declared = tuple(dict.fromkeys(canonical(a) for e in agreeing for a in e.spec.addresses))
    spec = first.spec
    name, aliases = _names(key, domain)
    selector = spec.workload_selector.labels if spec.workload_selector is not None else {}
    service = Service(
        key=key,
        source=first.key,
        name=name,
        host=key.host,
        aliases=aliases,
        addresses=declared or allocated,
        ports=tuple(ports.values()),
        resolution=_RESOLUTIONS[spec.resolution],
        selector=selector,
        export_to=export_list(spec.export_to, key.namespace),
        created=first.age_order,
        declared=True,
        external=spec.location == EXTERNAL,
        subject_alt_names=spec.subject_alt_names,
        allocated=not declared and bool(allocated),
    )
    return Outcome(service, problems)


def _nature(entry: api.ServiceEntry) -> tuple[object, ...]:
    spec = entry.spec
    selector = spec.workload_selector.labels if spec.workload_selector is not None else {}
    return (
        spec.resolution,
        spec.location,
        tuple(sorted(selector.items())),
        tuple(sorted(entry.metadata.labels.items())),
    )


def _disagrees(entry: api.ServiceEntry, first: api.ServiceEntry, host: str) -> Problem:
    return Problem(
        Code.HOST_CONFLICT,
        Severity.WARNING,
        entry.key,
        "spec.hosts",
        f"{first.key} is older and says what {host} is; entries of one host are joined only when "
        "their resolution, location, selector and labels agree: make them so, or remove the host",
    )


def _names(key: HostKey, domain: str) -> tuple[str, tuple[str, ...]]:
    """The short name, and the others clients may use: a host shaped like a Kubernetes Service's
    has the same."""
    suffix = f".svc.{domain}"
    parts = key.host.removesuffix(suffix).split(".") if key.host.endswith(suffix) else []
    if len(parts) != 2 or "*" in parts[0]:
        return key.host, ()
    name, namespace = parts
    return name, (f"{name}.{namespace}.svc", f"{name}.{namespace}")


def _ports(spec: api.ServiceEntrySpec) -> tuple[Port, ...]:
    ports = (
        Port(
            number=p.number,
            name=p.name,
            protocol=protocol_of(p.number, p.name, p.protocol or None, "TCP"),
            target=p.target_port or p.number,
        )
        for p in spec.ports
    )
    return tuple(port for port in ports if port.protocol is not Protocol.UDP)


def entry_hosts(entry: api.ServiceEntry) -> Mapping[EntryHost, Outcome[HostKey]]:
    """The services an entry takes part in."""
    return {EntryHost(entry.key, key.host): Outcome(key) for key in hosts_of_entry(entry)}

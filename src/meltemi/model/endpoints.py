"""Endpoints: EndpointSlices, ServiceEntries' own endpoints, and the workloads that selectors
choose, joined with what is known of the workload at each address."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from meltemi.api.core import EndpointSlice, SliceEndpoint
from meltemi.api.service_entry import ServiceEntry
from meltemi.api.workload_entry import WorkloadEntrySpec
from meltemi.base.identity import Identity
from meltemi.base.keys import HostKey, ObjectKey, ServicePortKey, WorkloadKey
from meltemi.base.problems import Outcome
from meltemi.flow import Fetch, Index, View
from meltemi.model.endpoint import Endpoint, EndpointSet
from meltemi.model.entries import ENTRY_BY_HOST
from meltemi.model.locality import NETWORK
from meltemi.model.objects import SLICE_BY_SERVICE
from meltemi.model.service import Port, Resolution, Service
from meltemi.model.tls import InboundTls, Mode
from meltemi.model.workload import Workload

WORKLOAD_BY_ADDRESS: Index[Workload] = Index("address", lambda w: (w.address, *w.also))
WORKLOAD_BY_NAMESPACE: Index[Workload] = Index("namespace", lambda w: (w.key.namespace,))
ENTRY_BY_NAMESPACE: Index[Workload] = Index(
    "entries of namespace", lambda w: (w.key.namespace,) if w.is_entry else ()
)

_Found = dict[tuple[str, int], Endpoint]
"""By address and port: an address is met once."""


class Sources(NamedTuple):
    """What endpoints are made of."""

    slices: View[ObjectKey, EndpointSlice]
    entries: View[ObjectKey, ServiceEntry]
    workloads: View[WorkloadKey, Workload]
    inbound_tls: View[WorkloadKey, InboundTls]


class EndpointJoin:
    """Finds the endpoints of one service at a time."""

    def __init__(self, sources: Sources, trust_domain: str) -> None:
        self._sources = sources
        self._trust_domain = trust_domain

    def endpoint_sets(
        self, fetch: Fetch, key: HostKey, service: Service
    ) -> Mapping[ServicePortKey, Outcome[EndpointSet]]:
        """One set for each port of the service, empty ones too: a cluster always has its set."""
        sets: dict[ServicePortKey, Outcome[EndpointSet]] = {}
        for port in service.ports:
            found: _Found = {}
            endpoints = (
                self._of_entry(fetch, service, port)
                if service.declared
                else self._of_service(fetch, service, port)
            )
            for endpoint in endpoints:
                if not _can_use(service, endpoint):
                    continue
                found.setdefault((endpoint.address, endpoint.port), endpoint)
            place = ServicePortKey(*key, port.number)
            ordered = tuple(found[where] for where in sorted(found))
            sets[place] = Outcome(EndpointSet(place, ordered))
        return sets

    def _of_service(self, fetch: Fetch, service: Service, port: Port) -> Iterator[Endpoint]:
        """A Kubernetes Service: its slices, and the WorkloadEntries its selector chooses."""
        where = (service.namespace, service.name)
        twice: dict[tuple[WorkloadKey, int], list[Endpoint]] = {}
        for part in fetch.by(self._sources.slices, SLICE_BY_SERVICE, where):
            number = _port_of(part, port)
            if number is None:
                continue
            for item in part.endpoints:
                for address in item.addresses[:1]:
                    workload = self._behind(fetch, item, address)
                    found = self._in_slice(fetch, workload, item, address, number)
                    if workload is not None and workload.also:
                        twice.setdefault((workload.key, number), []).append(found)
                    else:
                        yield found
        yield from (_one_of(endpoints) for endpoints in twice.values())
        if service.selector:
            workloads = fetch.by(self._sources.workloads, ENTRY_BY_NAMESPACE, service.namespace)
            for workload in workloads:
                if service.selector.items() <= workload.labels.items():
                    yield self._of_workload(
                        fetch, workload, workload.port_behind(port) or port.number
                    )

    def _of_entry(self, fetch: Fetch, service: Service, port: Port) -> Iterator[Endpoint]:
        """A ServiceEntry: its own endpoints, or what its selector chooses; a name to resolve
        that has no endpoints is its own."""
        if service.resolution in (Resolution.ORIGINAL, Resolution.DYNAMIC):
            return
        if service.selector:
            selected = fetch.by(self._sources.workloads, WORKLOAD_BY_NAMESPACE, service.namespace)
            for workload in selected:
                if service.selector.items() <= workload.labels.items():
                    number = workload.port_behind(port) or port.number
                    yield self._of_workload(fetch, workload, number, external=service.external)
            return
        own = False
        for entry in fetch.by(self._sources.entries, ENTRY_BY_HOST, service.key):
            for spec in entry.spec.endpoints:
                if spec.address or spec.network:
                    own = True
                    yield self._inline(fetch, service, spec, port)
        if not own and service.resolution.by_name:
            yield _bare(service.host, _number(port), "")

    def _in_slice(
        self,
        fetch: Fetch,
        workload: Workload | None,
        item: SliceEndpoint,
        address: str,
        port: int,
    ) -> Endpoint:
        locality = f"/{item.zone}" if item.zone else ""
        ready = item.conditions.ready is not False
        if workload is None:
            return _bare(address, port, locality, ready=ready, node=item.node_name or "")
        return self._of_workload(
            fetch, workload, port, address=address, ready=ready, locality=locality
        )

    def _of_workload(
        self,
        fetch: Fetch,
        workload: Workload,
        port: int,
        *,
        address: str = "",
        ready: bool | None = None,
        locality: str = "",
        external: bool = False,
    ) -> Endpoint:
        tls = fetch.get(self._sources.inbound_tls, workload.key)
        accepts = workload.in_mesh and (tls is None or tls.for_port(port) is not Mode.DISABLE)
        return Endpoint(
            address=address or workload.address,
            port=port,
            ready=workload.ready if ready is None else ready,
            labels=workload.labels,
            mtls=accepts and not external,
            identity=workload.identity,
            workload=workload.name,
            namespace=workload.key.namespace,
            app=workload.app,
            version=workload.version,
            canonical_service=workload.canonical_service,
            canonical_revision=workload.canonical_revision,
            locality=workload.locality or locality,
            weight=workload.weight,
            node=workload.node,
            network=workload.network,
        )

    def _inline(
        self, fetch: Fetch, service: Service, spec: WorkloadEntrySpec, port: Port
    ) -> Endpoint:
        """An endpoint that stands in the ServiceEntry itself."""
        number = 0 if spec.address.startswith("unix://") else spec.ports.get(port.name, 0)
        number = number or (0 if spec.address.startswith("unix://") else _number(port))
        mode = spec.labels.get("security.istio.io/tlsMode")
        takes = mode == "istio" if mode is not None else bool(spec.service_account)
        account = spec.service_account
        namespace = service.namespace
        return Endpoint(
            address=spec.address,
            port=number,
            ready=True,
            labels=spec.labels,
            mtls=takes and not service.external,
            identity=Identity(self._trust_domain, namespace, account) if account else None,
            workload=spec.labels.get("app", ""),
            namespace=namespace,
            app=spec.labels.get("app", ""),
            version=spec.labels.get("version", ""),
            canonical_service=spec.labels.get("app", ""),
            canonical_revision=spec.labels.get("version", ""),
            locality=spec.locality,
            weight=spec.weight or 1,
            network=spec.network or spec.labels.get(NETWORK, ""),
        )

    def _behind(self, fetch: Fetch, item: SliceEndpoint, address: str) -> Workload | None:
        ref = item.target_ref
        workloads = self._sources.workloads
        if ref is not None and ref.kind == "Pod":
            return fetch.get(workloads, WorkloadKey(ref.namespace, ref.name))
        found = fetch.by(workloads, WORKLOAD_BY_ADDRESS, address)
        return found[0] if found else None


def _can_use(service: Service, endpoint: Endpoint) -> bool:
    """Whether a service may have an endpoint: by a name only if it resolves names, by a network
    alone only if it need not."""
    if service.resolution.by_name:
        return bool(endpoint.address)
    return is_address(endpoint.address) or bool(endpoint.network and not endpoint.address)


def is_address(text: str) -> bool:
    """An IP address or a unix socket: what needs no resolving. A WorkloadEntry may be known by a
    name, which only services of resolution DNS can use."""
    if text.startswith("unix://"):
        return True
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _one_of(endpoints: Sequence[Endpoint]) -> Endpoint:
    """What slices of two families say of one port of one pod: an endpoint that is called over
    IPv4, and else over IPv6. It so has the weight of one."""
    ordered = sorted(endpoints, key=lambda e: ":" in e.address)
    also = tuple(dict.fromkeys(e.address for e in ordered[1:] if e.address != ordered[0].address))
    return msgspec.structs.replace(ordered[0], also=also)


def _bare(
    address: str, port: int, locality: str, *, ready: bool = True, node: str = ""
) -> Endpoint:
    """An address of which nothing more is known."""
    nothing = ("",) * 6
    return Endpoint(address, port, ready, {}, False, None, *nothing, locality=locality, node=node)


def _port_of(part: EndpointSlice, port: Port) -> int | None:
    """A slice's ports carry the Service port's name; a Service with one port may leave it out."""
    for candidate in part.ports:
        if (candidate.name or "") == port.name and candidate.protocol == "TCP":
            return candidate.port
    return None


def _number(port: Port) -> int:
    return port.target if isinstance(port.target, int) else port.number

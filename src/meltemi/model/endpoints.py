"""Endpoints from EndpointSlices, joined with the workloads behind their addresses."""

from collections.abc import Mapping

from meltemi.api.core import EndpointSlice, SliceEndpoint
from meltemi.base.keys import HostKey, ObjectKey, ServicePortKey, WorkloadKey
from meltemi.base.problems import Outcome
from meltemi.flow import Fetch, Index, View
from meltemi.model.endpoint import Endpoint, EndpointSet
from meltemi.model.objects import SLICE_BY_SERVICE
from meltemi.model.service import Port, Service
from meltemi.model.tls import InboundTls, Mode
from meltemi.model.workload import Workload


class EndpointJoin:
    """Reads slices, workloads and their TLS modes for one service at a time."""

    def __init__(
        self,
        slices: View[ObjectKey, EndpointSlice],
        workloads: View[WorkloadKey, Workload],
        by_address: Index[Workload],
        inbound_tls: View[WorkloadKey, InboundTls],
    ) -> None:
        self._slices = slices
        self._workloads = workloads
        self._by_address = by_address
        self._inbound_tls = inbound_tls

    def endpoint_sets(
        self, fetch: Fetch, _key: HostKey, service: Service
    ) -> Mapping[ServicePortKey, Outcome[EndpointSet]]:
        """One set for each port of the service, empty ones too: a cluster always has its set."""
        slices = fetch.by(self._slices, SLICE_BY_SERVICE, (service.namespace, service.name))
        sets: dict[ServicePortKey, Outcome[EndpointSet]] = {}
        for port in service.ports:
            found: dict[tuple[str, int], Endpoint] = {}
            for part in slices:
                number = _port_of(part, port)
                if number is None:
                    continue
                for item in part.endpoints:
                    for address in item.addresses[:1]:
                        found[address, number] = self._endpoint(fetch, item, address, number)
            key = ServicePortKey(service.namespace, service.host, port.number)
            ordered = tuple(found[place] for place in sorted(found))
            sets[key] = Outcome(EndpointSet(key, ordered))
        return sets

    def _endpoint(self, fetch: Fetch, item: SliceEndpoint, address: str, port: int) -> Endpoint:
        workload = self._workload(fetch, item, address)
        locality = f"/{item.zone}" if item.zone else ""
        ready = item.conditions.ready is not False
        if workload is None:
            return Endpoint(address, port, ready, {}, False, None, "", "", "", "", "", "", locality)
        tls = fetch.get(self._inbound_tls, workload.key)
        accepts = workload.in_mesh and (tls is None or tls.for_port(port) is not Mode.DISABLE)
        return Endpoint(
            address=address,
            port=port,
            ready=ready,
            labels=workload.labels,
            mtls=accepts,
            identity=workload.identity,
            workload=workload.name,
            namespace=workload.key.namespace,
            app=workload.app,
            version=workload.version,
            canonical_service=workload.canonical_service,
            canonical_revision=workload.canonical_revision,
            locality=workload.locality or locality,
        )

    def _workload(self, fetch: Fetch, item: SliceEndpoint, address: str) -> Workload | None:
        ref = item.target_ref
        if ref is not None and ref.kind == "Pod":
            return fetch.get(self._workloads, WorkloadKey(ref.namespace, ref.name))
        found = fetch.by(self._workloads, self._by_address, address)
        return found[0] if found else None


def _port_of(part: EndpointSlice, port: Port) -> int | None:
    """A slice's ports carry the Service port's name; a Service with one port may leave it out."""
    for candidate in part.ports:
        if (candidate.name or "") == port.name and candidate.protocol == "TCP":
            return candidate.port
    return None

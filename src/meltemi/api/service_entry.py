"""networking.istio.io: ServiceEntry, a service that Kubernetes does not know."""

from collections.abc import Mapping

from meltemi.api.meta import Api, Object
from meltemi.api.workload_entry import WorkloadEntrySpec


class ServicePort(Api, frozen=True):
    number: int = 0
    protocol: str = ""
    name: str = ""
    target_port: int = 0


class WorkloadSelector(Api, frozen=True):
    labels: Mapping[str, str] = {}


class ServiceEntrySpec(Api, frozen=True):
    hosts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    location: str = "MESH_EXTERNAL"
    resolution: str = "NONE"
    endpoints: tuple[WorkloadEntrySpec, ...] = ()
    workload_selector: WorkloadSelector | None = None
    export_to: tuple[str, ...] = ()
    subject_alt_names: tuple[str, ...] = ()


class EntryAddress(Api, frozen=True):
    """An address allocated for a host that has none."""

    value: str = ""
    host: str = ""


class ServiceEntryStatus(Api, frozen=True):
    addresses: tuple[EntryAddress, ...] = ()


class ServiceEntry(Object, frozen=True):
    spec: ServiceEntrySpec = ServiceEntrySpec()
    status: ServiceEntryStatus = ServiceEntryStatus()

"""networking.istio.io: WorkloadEntry and WorkloadGroup, workloads that are not pods."""

from collections.abc import Mapping

from meltemi.api.core import Condition
from meltemi.api.meta import Api, Object


class WorkloadEntrySpec(Api, frozen=True):
    """One instance; as part of a ServiceEntry or a WorkloadGroup too."""

    address: str = ""
    ports: Mapping[str, int] = {}
    """By the name of the service's port."""
    labels: Mapping[str, str] = {}
    network: str = ""
    locality: str = ""
    weight: int = 0
    service_account: str = ""


class WorkloadEntryStatus(Api, frozen=True):
    conditions: tuple[Condition, ...] = ()


class WorkloadEntry(Object, frozen=True):
    spec: WorkloadEntrySpec = WorkloadEntrySpec()
    status: WorkloadEntryStatus = WorkloadEntryStatus()


class GroupMetadata(Api, frozen=True):
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}


class HttpHeader(Api, frozen=True):
    name: str = ""
    value: str = ""


class HttpGet(Api, frozen=True):
    path: str = ""
    port: int = 0
    host: str = ""
    scheme: str = ""
    http_headers: tuple[HttpHeader, ...] = ()


class TcpSocket(Api, frozen=True):
    host: str = ""
    port: int = 0


class Exec(Api, frozen=True):
    command: tuple[str, ...] = ()


class GrpcCheck(Api, frozen=True):
    port: int = 0
    service: str = ""


class ReadinessProbe(Api, frozen=True):
    """Zero means unset, as in Istio's protobuf."""

    initial_delay_seconds: int = 0
    timeout_seconds: int = 0
    period_seconds: int = 0
    success_threshold: int = 0
    failure_threshold: int = 0
    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    exec: Exec | None = None
    grpc: GrpcCheck | None = None


class WorkloadGroupSpec(Api, frozen=True):
    metadata: GroupMetadata = GroupMetadata()
    template: WorkloadEntrySpec = WorkloadEntrySpec()
    probe: ReadinessProbe | None = None


class WorkloadGroup(Object, frozen=True):
    spec: WorkloadGroupSpec = WorkloadGroupSpec()

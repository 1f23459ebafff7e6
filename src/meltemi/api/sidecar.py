"""networking.istio.io: Sidecar, what a namespace's proxies serve and may reach."""

from meltemi.api.meta import Api, Object
from meltemi.api.networking import ConnectionPool, Destination, ServerTLSSettings
from meltemi.api.service_entry import WorkloadSelector


class SidecarPort(Api, frozen=True):
    number: int = 0
    protocol: str = ""
    name: str = ""
    target_port: int = 0


class IngressListener(Api, frozen=True):
    port: SidecarPort = SidecarPort()
    bind: str = ""
    capture_mode: str = "DEFAULT"
    default_endpoint: str = ""
    tls: ServerTLSSettings | None = None
    connection_pool: ConnectionPool | None = None


class EgressListener(Api, frozen=True):
    port: SidecarPort | None = None
    bind: str = ""
    capture_mode: str = "DEFAULT"
    hosts: tuple[str, ...] = ()


class OutboundTrafficPolicy(Api, frozen=True):
    mode: str | None = None
    """REGISTRY_ONLY (Istio's zero value) or ALLOW_ANY."""
    egress_proxy: Destination | None = None


class SidecarSpec(Api, frozen=True):
    workload_selector: WorkloadSelector | None = None
    ingress: tuple[IngressListener, ...] = ()
    egress: tuple[EgressListener, ...] = ()
    inbound_connection_pool: ConnectionPool | None = None
    outbound_traffic_policy: OutboundTrafficPolicy | None = None


class Sidecar(Object, frozen=True):
    spec: SidecarSpec = SidecarSpec()

"""Kubernetes' own kinds, as far as the mesh reads them."""

from collections.abc import Mapping

import msgspec

from meltemi.api.meta import Api, IntOrString, Object


class ServicePort(Api, frozen=True):
    name: str = ""
    port: int = 0
    target_port: IntOrString = 0
    protocol: str = "TCP"
    app_protocol: str | None = None
    node_port: int = 0


class ServiceSpec(Api, frozen=True):
    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] = msgspec.field(default=(), name="clusterIPs")
    selector: Mapping[str, str] = {}
    ports: tuple[ServicePort, ...] = ()
    external_name: str = ""
    external_ips: tuple[str, ...] = msgspec.field(default=(), name="externalIPs")
    publish_not_ready_addresses: bool = False
    traffic_distribution: str = ""


class LoadBalancerIngress(Api, frozen=True):
    ip: str = ""
    hostname: str = ""


class LoadBalancerStatus(Api, frozen=True):
    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Api, frozen=True):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(Object, frozen=True):
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class EndpointConditions(Api, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class TargetRef(Api, frozen=True):
    kind: str = ""
    name: str = ""
    namespace: str = ""


class SliceEndpoint(Api, frozen=True):
    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    target_ref: TargetRef | None = None
    node_name: str | None = None
    zone: str | None = None


class EndpointPort(Api, frozen=True):
    name: str | None = None
    port: int | None = None
    protocol: str = "TCP"
    app_protocol: str | None = None


class EndpointSlice(Object, frozen=True):
    """Its Service is the label `kubernetes.io/service-name`."""

    address_type: str = "IPv4"
    endpoints: tuple[SliceEndpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class ContainerPort(Api, frozen=True):
    name: str = ""
    container_port: int = 0
    protocol: str = "TCP"


class Container(Api, frozen=True):
    name: str = ""
    image: str = ""
    ports: tuple[ContainerPort, ...] = ()
    restart_policy: str | None = None


class PodSpec(Api, frozen=True):
    service_account_name: str = "default"
    node_name: str = ""
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    host_network: bool = False


class Condition(Api, frozen=True):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class PodAddress(Api, frozen=True):
    ip: str = ""


class PodStatus(Api, frozen=True):
    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: tuple[PodAddress, ...] = msgspec.field(default=(), name="podIPs")
    """The first is `pod_ip`."""
    conditions: tuple[Condition, ...] = ()


class Pod(Object, frozen=True):
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class Node(Object, frozen=True):
    """Its labels say where it stands."""


class Namespace(Object, frozen=True):
    pass


class ConfigMap(Object, frozen=True):
    data: Mapping[str, str] = {}


class Secret(Object, frozen=True):
    type: str = "Opaque"
    data: Mapping[str, str] = {}
    """Base64, as on the wire."""


class ServiceAccount(Object, frozen=True):
    pass

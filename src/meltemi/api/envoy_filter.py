"""networking.istio.io/v1alpha3 EnvoyFilter: patches to what the compiler writes for Envoy."""

from collections.abc import Mapping

from meltemi.api.meta import Api, Json, Object


class WorkloadSelector(Api, frozen=True):
    labels: Mapping[str, str] = {}


class PolicyTargetReference(Api, frozen=True):
    group: str = ""
    kind: str = ""
    name: str = ""
    namespace: str = ""


class ProxyMatch(Api, frozen=True):
    proxy_version: str = ""
    metadata: Mapping[str, str] = {}


class SubFilterMatch(Api, frozen=True):
    name: str = ""


class FilterMatch(Api, frozen=True):
    name: str = ""
    sub_filter: SubFilterMatch | None = None


class FilterChainMatch(Api, frozen=True):
    name: str = ""
    sni: str = ""
    transport_protocol: str = ""
    application_protocols: str = ""
    filter: FilterMatch | None = None
    destination_port: int = 0


class ListenerMatch(Api, frozen=True):
    port_number: int = 0
    port_name: str = ""
    filter_chain: FilterChainMatch | None = None
    listener_filter: str = ""
    name: str = ""


class RouteMatch(Api, frozen=True):
    name: str = ""
    action: str = "ANY"


class VirtualHostMatch(Api, frozen=True):
    name: str = ""
    domain_name: str = ""
    route: RouteMatch | None = None


class RouteConfigurationMatch(Api, frozen=True):
    port_number: int = 0
    port_name: str = ""
    gateway: str = ""
    vhost: VirtualHostMatch | None = None
    name: str = ""


class ClusterMatch(Api, frozen=True):
    port_number: int = 0
    service: str = ""
    subset: str = ""
    name: str = ""


class EnvoyConfigObjectMatch(Api, frozen=True):
    context: str = "ANY"
    proxy: ProxyMatch | None = None
    listener: ListenerMatch | None = None
    route_configuration: RouteConfigurationMatch | None = None
    cluster: ClusterMatch | None = None


class Patch(Api, frozen=True):
    operation: str = "INVALID"
    value: Mapping[str, Json] | None = None
    filter_class: str = "UNSPECIFIED"


class EnvoyConfigObjectPatch(Api, frozen=True):
    apply_to: str = "INVALID"
    match: EnvoyConfigObjectMatch = EnvoyConfigObjectMatch()
    patch: Patch = Patch()


class EnvoyFilterSpec(Api, frozen=True):
    workload_selector: WorkloadSelector | None = None
    target_refs: tuple[PolicyTargetReference, ...] = ()
    config_patches: tuple[EnvoyConfigObjectPatch, ...] = ()
    priority: int = 0


class EnvoyFilter(Object, frozen=True):
    spec: EnvoyFilterSpec = EnvoyFilterSpec()

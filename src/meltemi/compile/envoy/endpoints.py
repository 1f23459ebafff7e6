"""Endpoints of clusters."""

from typing import Any

from meltemi.compile import ir
from meltemi.compile.envoy.kit import Kit, set_address
from meltemi.compile.settings import MeshSettings
from meltemi.model.endpoint import Endpoint


def assignment(kit: Kit, plan: ir.Assignment, settings: MeshSettings) -> Any:
    """The endpoints of a cluster, a group for each locality and priority."""
    message = kit.new("envoy.config.endpoint.v3.ClusterLoadAssignment", cluster_name=plan.cluster)
    for group in plan.groups:
        target = message.endpoints.add(priority=group.priority)
        target.load_balancing_weight.value = group.weight
        if group.locality:
            region, zone, subzone = (*group.locality.split("/"), "", "")[:3]
            target.locality.region = region
            target.locality.zone = zone
            target.locality.sub_zone = subzone
        for endpoint in group.endpoints:
            _endpoint(target.lb_endpoints.add(), endpoint, settings)
    return message


def _endpoint(target: Any, endpoint: Endpoint, settings: MeshSettings) -> None:
    set_address(target.endpoint.address, endpoint.address, endpoint.port)
    for address in endpoint.also:
        further = target.endpoint.additional_addresses.add()
        set_address(further.address, address, endpoint.port)
    target.load_balancing_weight.value = endpoint.weight
    fields = target.metadata.filter_metadata
    if endpoint.mtls:
        fields["envoy.transport_socket_match"].fields["tlsMode"].string_value = "istio"
    if endpoint.workload:
        mesh = fields["mesh"].fields
        mesh["workload"].string_value = endpoint.workload
        mesh["namespace"].string_value = endpoint.namespace
        mesh["app"].string_value = endpoint.app
        mesh["version"].string_value = endpoint.version
        mesh["service"].string_value = endpoint.canonical_service
        mesh["revision"].string_value = endpoint.canonical_revision
        mesh["cluster"].string_value = settings.cluster
        mesh["principal"].string_value = (
            endpoint.identity.uri if endpoint.identity and endpoint.mtls else ""
        )

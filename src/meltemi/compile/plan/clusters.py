"""Clusters of one service under one destination policy."""

from collections.abc import Mapping

from meltemi.compile import ir, names
from meltemi.compile.settings import MeshSettings
from meltemi.model.endpoint import Endpoint
from meltemi.model.policy import Blocks, DestinationPolicy, SubsetPolicy
from meltemi.model.service import Port, Resolution, Service

_MODES = {
    "DISABLE": ir.Security.PLAIN,
    "ISTIO_MUTUAL": ir.Security.MUTUAL,
    "SIMPLE": ir.Security.ORIGINATE,
    "MUTUAL": ir.Security.ORIGINATE,
}


def clusters(
    service: Service,
    policy: DestinationPolicy | None,
    identities: Mapping[int, tuple[str, ...]],
    settings: MeshSettings,
) -> tuple[ir.Cluster, ...]:
    """One cluster for each port, and for each subset of it; none for an alias."""
    if service.resolution is Resolution.ALIAS:
        return ()
    subsets = ("", *(s.name for s in policy.subsets)) if policy else ("",)
    return tuple(
        _cluster(service, port, subset, policy, identities.get(port.number, ()), settings)
        for port in service.ports
        for subset in subsets
    )


def _cluster(
    service: Service,
    port: Port,
    subset: str,
    policy: DestinationPolicy | None,
    identities: tuple[str, ...],
    settings: MeshSettings,
) -> ir.Cluster:
    blocks = policy.blocks(port.number, subset) if policy else Blocks()
    blocks = blocks.over(settings.default_policy)
    tls = blocks.tls
    headless = service.resolution is Resolution.HEADLESS
    balancer = blocks.load_balancer
    original = headless or (balancer is not None and balancer.simple == "PASSTHROUGH")
    default = ir.Security.AUTO if settings.auto_mtls and not original else ir.Security.PLAIN
    own_names = tls.subject_alt_names if tls is not None else ()
    marker = names.sni(port.number, subset, service.host)
    if tls is not None and tls.sni:
        marker = tls.sni + names.MESH_SNI
    return ir.Cluster(
        name=names.outbound(port.number, subset, service.host),
        host=service.host,
        service=service.name,
        namespace=service.namespace,
        port=port.number,
        subset=subset,
        protocol=port.protocol,
        discovery=ir.Discovery.ORIGINAL if original else ir.Discovery.ENDPOINTS,
        security=_MODES.get(tls.mode, default) if tls is not None else default,
        tls=ir.Tls(
            sni=marker,
            identities=own_names or identities,
            prefix=f"spiffe://{settings.trust_domain}/ns/{service.namespace}/",
        ),
        blocks=blocks,
        sources=(service.source, *(policy.sources if policy else ())),
        stat_name=names.stat_name(
            settings.outbound_stat_name,
            host=service.host,
            port=port.number,
            port_name=port.name,
            subset=subset,
            target=str(port.target),
        ),
    )


def in_subset(endpoint: Endpoint, subset: SubsetPolicy | None) -> bool:
    """Whether an endpoint belongs to a subset; everything belongs to none."""
    return subset is None or subset.labels.items() <= endpoint.labels.items()

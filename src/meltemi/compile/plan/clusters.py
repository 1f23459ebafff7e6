"""Clusters of one service under one destination policy."""

from collections.abc import Mapping

import msgspec

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


_DISCOVERIES = {
    Resolution.HEADLESS: ir.Discovery.ORIGINAL,
    Resolution.ORIGINAL: ir.Discovery.ORIGINAL,
    Resolution.DNS: ir.Discovery.DNS,
    Resolution.DNS_ONE: ir.Discovery.DNS_ONE,
    Resolution.DYNAMIC: ir.Discovery.DYNAMIC,
}


class Behind(msgspec.Struct, frozen=True):
    """What a cluster needs to know of the endpoints of its port, which seldom changes."""

    identities: tuple[str, ...] = ()
    mutual: bool = False
    """There are endpoints, and all of them take mutual TLS."""
    named: tuple[Endpoint, ...] = ()
    """The endpoints themselves, where Envoy resolves their names."""


def clusters(
    service: Service,
    policy: DestinationPolicy | None,
    behind: Mapping[int, Behind],
    settings: MeshSettings,
) -> tuple[ir.Cluster, ...]:
    """One cluster for each port, and for each subset of it; none for an alias."""
    if service.resolution is Resolution.ALIAS:
        return ()
    subsets = ("", *(s.name for s in policy.subsets)) if policy else ("",)
    return tuple(
        _cluster(service, port, subset, policy, behind[port.number], settings)
        for port in service.ports
        for subset in subsets
    )


def _cluster(
    service: Service,
    port: Port,
    subset: str,
    policy: DestinationPolicy | None,
    behind: Behind,
    settings: MeshSettings,
) -> ir.Cluster:
    blocks = policy.blocks(port.number, subset) if policy else Blocks()
    subset_policy = policy.subset(subset) if policy and subset else None
    blocks = blocks.over(settings.default_policy)
    tls = blocks.tls
    discovery = _DISCOVERIES.get(service.resolution, ir.Discovery.ENDPOINTS)
    balancer = blocks.load_balancer
    if balancer is not None and balancer.simple == "PASSTHROUGH":
        discovery = ir.Discovery.ORIGINAL
    own_names = tls.subject_alt_names if tls is not None else ()
    if tls is not None and not own_names and service.subject_alt_names:
        own_names = service.subject_alt_names
        tls = msgspec.structs.replace(tls, subject_alt_names=own_names)
        blocks = msgspec.structs.replace(blocks, tls=tls)
    named = tuple(e for e in behind.named if in_subset(e, subset_policy))
    if discovery is ir.Discovery.DNS_ONE:
        named = named[:1]
        discovery = discovery if named else ir.Discovery.DNS
    default = _own_accord(service, discovery, behind, settings)
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
        discovery=discovery,
        security=_MODES.get(tls.mode, default) if tls is not None else default,
        tls=ir.Tls(
            sni=marker,
            identities=own_names or service.subject_alt_names or behind.identities,
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
        endpoints=named,
    )


def _own_accord(
    service: Service, discovery: ir.Discovery, behind: Behind, settings: MeshSettings
) -> ir.Security:
    """How a client speaks where no DestinationRule says it. Where the client chose the address,
    nothing tells endpoints apart: only if all of them take mutual TLS is it used."""
    if not settings.auto_mtls or service.external:
        return ir.Security.PLAIN
    match discovery:
        case ir.Discovery.ORIGINAL:
            return ir.Security.MUTUAL if behind.mutual else ir.Security.PLAIN
        case ir.Discovery.DYNAMIC:
            return ir.Security.PLAIN
    return ir.Security.AUTO


def in_subset(endpoint: Endpoint, subset: SubsetPolicy | None) -> bool:
    """Whether an endpoint belongs to a subset; everything belongs to none."""
    return subset is None or subset.labels.items() <= endpoint.labels.items()

"""Clusters of one service under one destination policy."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from meltemi.api.networking import ClientTLSSettings
from meltemi.compile import ir, names
from meltemi.compile.plan.locality import grouped, preference
from meltemi.compile.settings import MeshSettings
from meltemi.model.endpoint import Endpoint
from meltemi.model.policy import Blocks, DestinationPolicy, SubsetPolicy
from meltemi.model.service import Port, Resolution, Service

_PLAIN = ir.Security.PLAIN
_MODES = {
    "DISABLE": _PLAIN,
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
    *,
    client: Mapping[str, str],
    secrets: bool,
    peers: bool = False,
) -> tuple[ir.Cluster, ...]:
    """One cluster for each port, and for each subset of it; none for an alias. `secrets`: the
    clients may use the Secrets that the policy names; `peers`: they know their peers."""
    if service.resolution is Resolution.ALIAS:
        return ()
    maker = _Maker(service, policy, settings, client, secrets, peers)
    subsets = (None, *policy.subsets) if policy else (None,)
    return tuple(
        maker.cluster(port, subset, behind[port.number])
        for port in service.ports
        for subset in subsets
    )


def blocks_of(
    policy: DestinationPolicy | None, port: int, subset: SubsetPolicy | None, mesh: MeshSettings
) -> Blocks:
    """The blocks in force for one cluster."""
    own = policy.blocks(port, subset.name if subset else "") if policy else Blocks()
    return own.over(mesh.default_policy)


def is_original(blocks: Blocks) -> bool:
    """Whether connections go to the address the client chose, past any balancing."""
    return blocks.load_balancer is not None and blocks.load_balancer.simple == "PASSTHROUGH"


class _Maker(NamedTuple):
    service: Service
    policy: DestinationPolicy | None
    settings: MeshSettings
    client: Mapping[str, str]
    secrets: bool
    peers: bool

    def cluster(self, port: Port, subset: SubsetPolicy | None, behind: Behind) -> ir.Cluster:
        service, settings = self.service, self.settings
        blocks = _with_names(blocks_of(self.policy, port.number, subset, settings), service)
        named = tuple(e for e in behind.named if in_subset(e, subset))
        discovery = self._discovery(blocks, named)
        wanted = preference(blocks, service.distribution, settings)
        if discovery is ir.Discovery.DNS_ONE:
            # Envoy insists on exactly one endpoint, so there is nothing to prefer.
            named, wanted = named[:1], None
        label = subset.name if subset else ""
        return ir.Cluster(
            name=names.outbound(port.number, label, service.host),
            host=service.host,
            service=service.name,
            namespace=service.namespace,
            port=port.number,
            subset=label,
            protocol=port.protocol,
            discovery=discovery,
            security=self._security(blocks.tls, discovery, behind),
            tls=self._tls(blocks.tls, names.sni(port.number, label, service.host), behind),
            blocks=blocks,
            sources=(service.source, *(self.policy.sources if self.policy else ())),
            weighs_localities=bool(wanted and wanted.shares),
            zones=(wanted.least if wanted is not None else 0) if self.peers else None,
            credential=blocks.tls.credential_name if blocks.tls else "",
            stat_name=names.stat_name(
                settings.outbound_stat_name,
                host=service.host,
                port=port.number,
                port_name=port.name,
                subset=label,
                target=str(port.target),
            ),
            groups=grouped(named, wanted, self.client, settings.cluster),
        )

    def _discovery(self, blocks: Blocks, named: Sequence[Endpoint]) -> ir.Discovery:
        if is_original(blocks):
            return ir.Discovery.ORIGINAL
        found = _DISCOVERIES.get(self.service.resolution, ir.Discovery.ENDPOINTS)
        return ir.Discovery.DNS if found is ir.Discovery.DNS_ONE and not named else found

    def _security(
        self, tls: ClientTLSSettings | None, discovery: ir.Discovery, behind: Behind
    ) -> ir.Security:
        """Explicit settings turn automatic mutual TLS off. Secrets that a client may not use
        leave plaintext: a sidecar then sends to a gateway that may."""
        if tls is None:
            return _own_accord(self.service, discovery, behind, self.settings)
        return _MODES[tls.mode] if self.secrets or not tls.credential_name else _PLAIN

    def _tls(self, tls: ClientTLSSettings | None, marker: str, behind: Behind) -> ir.Tls:
        own = tls.subject_alt_names if tls is not None else ()
        return ir.Tls(
            sni=tls.sni + names.MESH_SNI if tls is not None and tls.sni else marker,
            identities=own or self.service.subject_alt_names or behind.identities,
            prefix=f"spiffe://{self.settings.trust_domain}/ns/{self.service.namespace}/",
        )


def _with_names(blocks: Blocks, service: Service) -> Blocks:
    """A ServiceEntry's own names stand where the policy expects none of the server."""
    tls = blocks.tls
    if tls is None or tls.subject_alt_names or not service.subject_alt_names:
        return blocks
    tls = msgspec.structs.replace(tls, subject_alt_names=service.subject_alt_names)
    return msgspec.structs.replace(blocks, tls=tls)


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

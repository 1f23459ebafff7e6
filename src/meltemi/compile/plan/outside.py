"""What becomes of traffic to what a proxy does not know: outboundTrafficPolicy."""

import msgspec

from meltemi.compile import ir, names
from meltemi.compile.plan.destinations import Place, Resolver
from meltemi.compile.settings import MeshSettings
from meltemi.model.sidecar import OutsidePolicy


class Outside(msgspec.Struct, frozen=True):
    cluster: str
    """Where it goes: `PassthroughCluster`, or an egress proxy's; empty: it is refused."""

    @property
    def tcp(self) -> ir.Tcp:
        if not self.cluster:
            return ir.REFUSE
        return ir.Tcp(self.cluster, ir.L4Forward((ir.WeightedCluster(self.cluster, 100),)))


def outside(policy: OutsidePolicy | None, settings: MeshSettings, resolver: Resolver) -> Outside:
    """By a Sidecar's policy, or else the mesh's."""
    if policy is None:
        return Outside(names.PASSTHROUGH if settings.allow_any else "")
    if not policy.allow:
        return Outside("")
    proxy = policy.through
    if proxy is None:
        return Outside(names.PASSTHROUGH)
    service = resolver.place(resolver.service(proxy.host))
    port = proxy.port or (service.ports[0].number if service and service.ports else 0)
    host = service.host if service is not None else proxy.host
    return Outside(Place(host, proxy.subset, port).cluster)

"""What becomes of traffic to what a proxy does not know: outboundTrafficPolicy."""

import msgspec

from meltemi.compile import ir, names
from meltemi.compile.plan.destinations import Place, Resolver
from meltemi.compile.settings import MeshSettings
from meltemi.model.policy import Blocks
from meltemi.model.service import Protocol
from meltemi.model.sidecar import OutsidePolicy


class Outside(msgspec.Struct, frozen=True):
    cluster: str
    """Where it goes: `PassthroughCluster`, or an egress proxy's; empty: it is refused."""
    requests: str = ""
    """Where HTTP requests go instead, whose hosts the proxy resolves; empty: as the rest."""

    @property
    def tcp(self) -> ir.Tcp:
        if not self.cluster:
            return ir.REFUSE
        return ir.Tcp(self.cluster, ir.L4Forward((ir.WeightedCluster(self.cluster, 100),)))


def outside(policy: OutsidePolicy | None, settings: MeshSettings, resolver: Resolver) -> Outside:
    """By a Sidecar's policy, or else the mesh's."""
    if policy is None:
        requests = names.DYNAMIC_OUTSIDE if settings.resolves_outside else ""
        return Outside(names.PASSTHROUGH if settings.allow_any else "", requests)
    if not policy.allow:
        return Outside("")
    proxy = policy.through
    if proxy is None:
        return Outside(names.PASSTHROUGH)
    service = resolver.place(resolver.service(proxy.host))
    port = proxy.port or (service.ports[0].number if service and service.ports else 0)
    host = service.host if service is not None else proxy.host
    return Outside(Place(host, proxy.subset, port).cluster)


def dynamic_cluster(settings: MeshSettings) -> ir.Cluster:
    """The cluster that resolves the hosts of requests for what no proxy knows."""
    tls = settings.outside_tls
    originates = tls is not None and tls.mode in ("SIMPLE", "MUTUAL")
    name = names.DYNAMIC_OUTSIDE
    return ir.Cluster(
        name=name,
        host=name,
        service=name,
        namespace="",
        port=0,
        subset="",
        protocol=Protocol.HTTP,
        discovery=ir.Discovery.DYNAMIC,
        security=ir.Security.ORIGINATE if originates else ir.Security.PLAIN,
        tls=ir.Tls("", (), ""),
        blocks=Blocks(tls=tls).over(settings.default_policy),
        sources=(),
    )

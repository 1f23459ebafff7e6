"""Wires the model's views into a graph."""

from typing import NamedTuple

from meltemi.base.keys import HostKey, ObjectKey, ServicePortKey, WorkloadKey
from meltemi.flow import Index, View
from meltemi.model.endpoint import EndpointSet
from meltemi.model.gateway import GatewayDef
from meltemi.model.policy import DestinationPolicy
from meltemi.model.route import RouteTable
from meltemi.model.service import Service
from meltemi.model.tls import InboundTls
from meltemi.model.workload import Workload

SERVICE_BY_HOST: Index[Service] = Index("host", lambda s: (s.host,))
SERVICE_BY_NAMESPACE: Index[Service] = Index("namespace", lambda s: (s.namespace,))
WORKLOAD_BY_ADDRESS: Index[Workload] = Index("address", lambda w: (w.address,))
WORKLOAD_BY_NAMESPACE: Index[Workload] = Index("namespace", lambda w: (w.key.namespace,))
TABLE_BY_HOST: Index[RouteTable] = Index("host", lambda t: t.hosts)
TABLE_BY_GATEWAY: Index[RouteTable] = Index("gateway", lambda t: t.gateways)
POLICY_BY_HOST: Index[DestinationPolicy] = Index("host", lambda p: (p.host,))


class Model(NamedTuple):
    """Every view of the model, for those who read it."""

    services: View[HostKey, Service]
    workloads: View[WorkloadKey, Workload]
    endpoints: View[ServicePortKey, EndpointSet]
    inbound_tls: View[WorkloadKey, InboundTls]
    tables: View[ObjectKey, RouteTable]
    policies: View[tuple[str, str, str], DestinationPolicy]
    """By (namespace, host, source name or "")."""
    gateways: View[ObjectKey, GatewayDef]

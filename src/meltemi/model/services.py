"""Services from Kubernetes Services."""

from meltemi.api import core
from meltemi.api.meta import Object
from meltemi.base.keys import HostKey, ObjectKey
from meltemi.model.addresses import canonical
from meltemi.model.hosts import export_list
from meltemi.model.protocols import protocol_of
from meltemi.model.service import Port, Protocol, Resolution, Service

_DISTRIBUTION = "networking.istio.io/traffic-distribution"
_EXPORT_TO = "networking.istio.io/exportTo"


def service_from_object(obj: core.Service, domain: str) -> Service:
    """One Kubernetes Service as the mesh sees it; UDP ports are left out."""
    meta, spec = obj.metadata, obj.spec
    host = f"{meta.name}.{meta.namespace}.svc.{domain}"
    given = spec.cluster_ips or (spec.cluster_ip,)
    addresses = tuple(canonical(a) for a in given if a not in ("", "None"))
    return Service(
        key=HostKey(meta.namespace, host),
        source=ObjectKey("Service", meta.namespace, meta.name),
        name=meta.name,
        host=host,
        aliases=(f"{meta.name}.{meta.namespace}.svc", f"{meta.name}.{meta.namespace}"),
        addresses=addresses,
        ports=_ports(spec),
        resolution=_resolution(spec),
        selector=spec.selector,
        export_to=_export_to(obj),
        created=obj.age_order,
        external_name=spec.external_name,
        distribution=meta.annotations.get(_DISTRIBUTION, "") or spec.traffic_distribution,
    )


def _ports(spec: core.ServiceSpec) -> tuple[Port, ...]:
    ports = (
        Port(
            number=p.port,
            name=p.name,
            protocol=protocol_of(p.port, p.name, p.app_protocol, p.protocol),
            target=p.target_port or p.port,
        )
        for p in spec.ports
    )
    return tuple(port for port in ports if port.protocol is not Protocol.UDP)


def _resolution(spec: core.ServiceSpec) -> Resolution:
    if spec.type == "ExternalName":
        return Resolution.ALIAS
    return Resolution.HEADLESS if spec.cluster_ip in ("", "None") else Resolution.ENDPOINTS


def _export_to(obj: Object) -> tuple[str, ...]:
    declared = obj.metadata.annotations.get(_EXPORT_TO, "")
    names = [part.strip() for part in declared.split(",") if part.strip()]
    return export_list(names, obj.metadata.namespace)

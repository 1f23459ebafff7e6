"""Sidecar definitions from Sidecar objects, and which of them is a proxy's."""

from collections.abc import Iterable, Mapping

from meltemi.api import sidecar as api
from meltemi.model.gateways import terminate
from meltemi.model.hosts import full_host
from meltemi.model.protocols import protocol_of
from meltemi.model.route import Target
from meltemi.model.service import Protocol
from meltemi.model.sidecar import (
    EVERYTHING,
    Egress,
    Import,
    Ingress,
    OutsidePolicy,
    SidecarDef,
)


def sidecar_from_object(obj: api.Sidecar, domain: str) -> SidecarDef:
    spec = obj.spec
    selector = spec.workload_selector
    return SidecarDef(
        source=obj.key,
        selector=selector.labels if selector is not None and selector.labels else None,
        created=obj.age_order,
        egress=tuple(_egress(e, f"spec.egress[{i}]", domain) for i, e in enumerate(spec.egress))
        or (EVERYTHING,),
        ingress=tuple(_ingress(e, f"spec.ingress[{i}]") for i, e in enumerate(spec.ingress)),
        pool=spec.inbound_connection_pool,
        outside=_outside(spec.outbound_traffic_policy, obj.metadata.namespace, domain),
    )


def choose_sidecar(
    own: Iterable[SidecarDef], root: Iterable[SidecarDef], labels: Mapping[str, str]
) -> SidecarDef | None:
    """One that selects the proxy, else the namespace's, else the root namespace's; of several
    the oldest."""
    mine = sorted(own, key=lambda s: s.created)
    for sidecar in mine:
        if sidecar.selector is not None and sidecar.selector.items() <= labels.items():
            return sidecar
    for sidecar in (*mine, *sorted(root, key=lambda s: s.created)):
        if sidecar.selector is None:
            return sidecar
    return None


def _egress(egress: api.EgressListener, path: str, domain: str) -> Egress:
    port = egress.port
    unix = egress.bind.startswith("unix://")
    return Egress(
        imports=tuple(
            found for found in (_import(text, domain) for text in egress.hosts) if found is not None
        ),
        port=port.number if port is not None else None,
        protocol=_protocol(port) if port is not None else Protocol.AUTO,
        bind=egress.bind or ("127.0.0.1" if egress.capture_mode == "NONE" else ""),
        captured=egress.capture_mode != "NONE" and not unix,
        path=path,
    )


def _import(text: str, domain: str) -> Import | None:
    """`~/...` imports nothing; `~ns/...` takes something away again."""
    namespace, _, host = text.partition("/")
    if namespace == "~":
        return None
    name = namespace.removeprefix("~")
    place = name if name not in ("*", ".") else ""
    known = full_host(host, place, domain) if place and "." not in host else host.lower()
    return Import(name, known, excludes=namespace.startswith("~"))


def _ingress(ingress: api.IngressListener, path: str) -> Ingress:
    return Ingress(
        port=ingress.port.number,
        protocol=_protocol(ingress.port),
        bind=ingress.bind,
        captured=ingress.capture_mode != "NONE",
        endpoint=ingress.default_endpoint,
        tls=terminate(ingress.tls) if ingress.tls is not None else None,
        pool=ingress.connection_pool,
        path=path,
    )


def _protocol(port: api.SidecarPort) -> Protocol:
    return protocol_of(port.number, port.name, port.protocol or None, "TCP")


def _outside(
    policy: api.OutboundTrafficPolicy | None, namespace: str, domain: str
) -> OutsidePolicy | None:
    """A policy without a mode is REGISTRY_ONLY: Istio's zero value."""
    if policy is None:
        return None
    proxy = policy.egress_proxy
    through = None
    if proxy is not None:
        through = Target(
            host=full_host(proxy.host, namespace, domain),
            subset=proxy.subset,
            port=proxy.port.number if proxy.port is not None else None,
            path="spec.outboundTrafficPolicy.egressProxy",
        )
    return OutsidePolicy((policy.mode or "REGISTRY_ONLY") != "REGISTRY_ONLY", through)

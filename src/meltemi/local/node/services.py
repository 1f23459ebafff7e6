"""Services and their endpoints, as names, virtual addresses and published ports need them."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.kube.informer import Event
from meltemi.local.families import IPV4, IPV6, family_of

_SERVICE_NAME = "kubernetes.io/service-name"


class Backend(msgspec.Struct, frozen=True):
    """One endpoint of a service."""

    ip: str
    hostname: str
    is_ready: bool
    is_serving: bool
    """Serving while it ends: used when nothing is ready."""
    ports: Mapping[str, int]
    """Port name to number."""


class Port(msgspec.Struct, frozen=True):
    name: str
    port: int
    protocol: str
    node_port: int = 0


class Virtual(msgspec.Struct, frozen=True, kw_only=True):
    """One Service with its endpoints."""

    namespace: str
    name: str
    uid: str = ""
    type: str = "ClusterIP"
    cluster_ip: str = ""
    """The first of its addresses, `None` of a headless one."""
    also: tuple[str, ...] = ()
    """Its address of the other family."""
    external_name: str = ""
    ports: tuple[Port, ...] = ()
    backends: tuple[Backend, ...] = ()
    publishes_not_ready: bool = False
    has_affinity: bool = False
    """A client comes to the same endpoint again."""
    balancer_class: str = ""
    external_ips: tuple[str, ...] = ()
    ingress: tuple[str, ...] = ()
    """Addresses in `status.loadBalancer`."""

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name

    @property
    def is_headless(self) -> bool:
        return self.cluster_ip in ("", "None") and not self.external_name

    @property
    def addresses(self) -> Sequence[str]:
        """Its virtual addresses."""
        return () if self.is_headless or self.external_name else (self.cluster_ip, *self.also)

    @property
    def ready(self) -> Sequence[Backend]:
        """Endpoints that take traffic: the ready ones, else those that serve while they end."""
        if self.publishes_not_ready:
            return self.backends
        ready = [b for b in self.backends if b.is_ready]
        return ready or [b for b in self.backends if b.is_serving]

    def targets(self, port: Port, address: str = "") -> Sequence[tuple[str, int]]:
        """(address, port) of the endpoints that take a port's traffic, sorted; of the family of
        one of the Service's addresses, the first if none is named."""
        is_six = ":" in (address or self.cluster_ip)
        found = {(b.ip, b.ports[port.name]) for b in self.ready if port.name in b.ports}
        return sorted(target for target in found if (":" in target[0]) == is_six)


class _Part(msgspec.Struct, frozen=True, rename="camel"):
    """Only what the node reads; a field that is null counts as absent (see `_decode`)."""


class _Meta(_Part, frozen=True):
    uid: str = ""
    labels: Mapping[str, str] = {}


class _ServicePort(_Part, frozen=True):
    port: int
    name: str = ""
    protocol: str = "TCP"
    node_port: int = 0


class _ServiceSpec(_Part, frozen=True):
    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] = msgspec.field(default=(), name="clusterIPs")
    external_name: str = ""
    ports: tuple[_ServicePort, ...] = ()
    publish_not_ready_addresses: bool = False
    session_affinity: str = "None"
    load_balancer_class: str = ""
    external_ips: tuple[str, ...] = msgspec.field(default=(), name="externalIPs")


class _Ingress(_Part, frozen=True):
    ip: str = ""


class _Balancer(_Part, frozen=True):
    ingress: tuple[_Ingress, ...] = ()


class _ServiceStatus(_Part, frozen=True):
    load_balancer: _Balancer = _Balancer()


class _Service(_Part, frozen=True):
    metadata: _Meta
    spec: _ServiceSpec = _ServiceSpec()
    status: _ServiceStatus = _ServiceStatus()


class _Conditions(_Part, frozen=True):
    ready: bool = True
    serving: bool = False


class _Endpoint(_Part, frozen=True):
    addresses: tuple[str, ...] = ()
    hostname: str = ""
    conditions: _Conditions = _Conditions()


class _EndpointPort(_Part, frozen=True):
    name: str = ""
    port: int = 0


class _Slice(_Part, frozen=True):
    metadata: _Meta
    address_type: str = "IPv4"
    endpoints: tuple[_Endpoint, ...] = ()
    ports: tuple[_EndpointPort, ...] = ()


class ServiceTable:
    """Follows Services and EndpointSlices."""

    def __init__(self) -> None:
        self._services: dict[tuple[str, str], _Service] = {}
        self._slices: dict[tuple[str, str], dict[str, tuple[Backend, ...]]] = {}
        self._owner: dict[ObjectKey, tuple[str, str]] = {}
        self.changed = asyncio.Event()
        """Replaced and set at each change; take it before looking, wait on it after."""
        self._in_force = asyncio.Event()

    def __iter__(self) -> Iterator[Virtual]:
        return (self._build(key) for key in sorted(self._services))

    def get(self, namespace: str, name: str) -> Virtual | None:
        key = (namespace, name)
        return self._build(key) if key in self._services else None

    def deliver(self, events: Sequence[Event]) -> None:
        """Take a batch from the informers of either kind."""
        for event in events:
            if event.key.kind == "Service":
                self._take_service(event)
            else:
                self._take_slice(event)
        self._in_force.clear()
        done, self.changed = self.changed, asyncio.Event()
        done.set()

    def in_force(self) -> None:
        """The kernel's rules are as the table is."""
        self._in_force.set()

    async def withdrawn(self, ips: Sequence[str], limit: float) -> None:
        """Return once no Service sends new connections to an address, or after `limit` seconds."""
        try:
            async with asyncio.timeout(limit):
                while any(b.ip in ips and b.is_ready for s in self for b in s.backends
                          if not s.publishes_not_ready):  # fmt: skip
                    await self.changed.wait()
                await self._in_force.wait()
        except TimeoutError:
            return

    def _take_service(self, event: Event) -> None:
        place = (event.key.namespace, event.key.name)
        if event.raw is None:
            self._services.pop(place, None)
        else:
            self._services[place] = _decode(event.raw, _Service)

    def _take_slice(self, event: Event) -> None:
        before = self._owner.pop(event.key, None)
        if before is not None:
            self._slices.get(before, {}).pop(event.key.name, None)
        if event.raw is None:
            return
        found = _decode(event.raw, _Slice)
        owner = (event.key.namespace, found.metadata.labels.get(_SERVICE_NAME, ""))
        if found.address_type in (IPV4, IPV6):
            self._owner[event.key] = owner
            self._slices.setdefault(owner, {})[event.key.name] = _backends(found)

    def _build(self, key: tuple[str, str]) -> Virtual:
        service = self._services[key]
        slices = self._slices.get(key, {})
        spec = service.spec
        is_external = spec.type == "ExternalName"
        return Virtual(
            namespace=key[0],
            name=key[1],
            uid=service.metadata.uid,
            type=spec.type,
            cluster_ip="" if is_external else _checked(spec.cluster_ip),
            also=() if is_external else tuple(filter(family_of, spec.cluster_ips[1:])),
            external_name=spec.external_name if is_external else "",
            ports=tuple(Port(p.name, p.port, p.protocol, p.node_port) for p in spec.ports),
            backends=tuple(b for name in sorted(slices) for b in slices[name]),
            publishes_not_ready=spec.publish_not_ready_addresses,
            has_affinity=spec.session_affinity == "ClientIP",
            balancer_class=spec.load_balancer_class,
            external_ips=spec.external_ips,
            ingress=tuple(i.ip for i in service.status.load_balancer.ingress if i.ip),
        )


def _decode(raw: bytes, kind: type[Any]) -> Any:
    return msgspec.convert(_without_nulls(msgspec.json.decode(raw)), kind)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _checked(cluster_ip: str) -> str:
    """Whatever is no address counts as none: it would stand in rules of the kernel."""
    return cluster_ip if cluster_ip == "None" or family_of(cluster_ip) else ""


def _backends(slice_: _Slice) -> tuple[Backend, ...]:
    ports = {p.name: p.port for p in slice_.ports if p.port}
    return tuple(
        Backend(
            ip=ip,
            hostname=endpoint.hostname,
            is_ready=endpoint.conditions.ready,
            is_serving=endpoint.conditions.serving,
            ports=ports,
        )
        for endpoint in slice_.endpoints
        for ip in endpoint.addresses
        if family_of(ip) == slice_.address_type
    )

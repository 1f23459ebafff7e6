"""Services and their endpoints, as names, virtual addresses and published ports need them."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from meltemi.api.core import EndpointSlice, Service
from meltemi.base.keys import ObjectKey
from meltemi.kube.informer import Event

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


class Virtual(msgspec.Struct, frozen=True):
    """One Service with its endpoints."""

    namespace: str
    name: str
    cluster_ip: str
    external_name: str
    ports: tuple[Port, ...]
    backends: tuple[Backend, ...]
    publishes_not_ready: bool

    @property
    def is_headless(self) -> bool:
        return self.cluster_ip in ("", "None") and not self.external_name

    @property
    def ready(self) -> Sequence[Backend]:
        """Endpoints that take traffic: the ready ones, else those that serve while they end."""
        if self.publishes_not_ready:
            return self.backends
        ready = [b for b in self.backends if b.is_ready]
        return ready or [b for b in self.backends if b.is_serving]


class _SliceEndpoint(msgspec.Struct, frozen=True):
    addresses: tuple[str, ...] = ()
    hostname: str | None = None


class _Slice(msgspec.Struct, frozen=True):
    """What `api.core.EndpointSlice` leaves out."""

    endpoints: tuple[_SliceEndpoint, ...] | None = ()


class ServiceTable:
    """Follows Services and EndpointSlices; calls back after each batch that changed something."""

    def __init__(self) -> None:
        self._services: dict[tuple[str, str], Service] = {}
        self._slices: dict[tuple[str, str], dict[str, tuple[Backend, ...]]] = {}
        self._owner: dict[ObjectKey, tuple[str, str]] = {}
        self.version = 0

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
        self.version += 1

    def _take_service(self, event: Event) -> None:
        place = (event.key.namespace, event.key.name)
        if event.raw is None:
            self._services.pop(place, None)
        else:
            self._services[place] = msgspec.json.decode(event.raw, type=Service)

    def _take_slice(self, event: Event) -> None:
        before = self._owner.pop(event.key, None)
        if before is not None:
            self._slices.get(before, {}).pop(event.key.name, None)
        if event.raw is None:
            return
        found = msgspec.json.decode(event.raw, type=EndpointSlice)
        names = msgspec.json.decode(event.raw, type=_Slice)
        owner = (event.key.namespace, found.metadata.labels.get(_SERVICE_NAME, ""))
        if found.address_type == "IPv4":
            self._owner[event.key] = owner
            backends = _backends(found, [e.hostname or "" for e in names.endpoints or ()])
            self._slices.setdefault(owner, {})[event.key.name] = backends

    def _build(self, key: tuple[str, str]) -> Virtual:
        service = self._services[key]
        slices = self._slices.get(key, {})
        spec = service.spec
        return Virtual(
            namespace=key[0],
            name=key[1],
            cluster_ip=spec.cluster_ip if spec.type != "ExternalName" else "",
            external_name=spec.external_name if spec.type == "ExternalName" else "",
            ports=tuple(Port(p.name, p.port, p.protocol) for p in spec.ports),
            backends=tuple(b for name in sorted(slices) for b in slices[name]),
            publishes_not_ready=spec.publish_not_ready_addresses,
        )


def _backends(slice_: EndpointSlice, hostnames: Sequence[str]) -> tuple[Backend, ...]:
    ports = {p.name or "": p.port for p in slice_.ports if p.port is not None}
    return tuple(
        Backend(
            ip=ip,
            hostname=hostname,
            is_ready=endpoint.conditions.ready is not False,
            is_serving=bool(endpoint.conditions.serving),
            ports=ports,
        )
        for endpoint, hostname in zip(slice_.endpoints, hostnames, strict=True)
        for ip in endpoint.addresses
    )

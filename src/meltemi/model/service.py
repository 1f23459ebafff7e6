"""Services: a host name, its addresses and ports, and where its instances are found."""

import enum
from collections.abc import Mapping

import msgspec

from meltemi.base.keys import HostKey, ObjectKey


class Protocol(enum.Enum):
    """What a port speaks, by appProtocol, then by port name, then by well-known number."""

    HTTP = "http"
    HTTP2 = "http2"
    GRPC = "grpc"
    GRPC_WEB = "grpc-web"
    TCP = "tcp"
    TLS = "tls"
    """Opaque TLS, routed by SNI (`https` and `tls` ports)."""
    MONGO = "mongo"
    REDIS = "redis"
    MYSQL = "mysql"
    UDP = "udp"
    AUTO = "auto"
    """Not declared: sniffed."""

    @property
    def is_http(self) -> bool:
        return self in (Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB)

    @property
    def is_http2(self) -> bool:
        return self in (Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB)


class Resolution(enum.Enum):
    ENDPOINTS = "endpoints"
    """A ClusterIP service: Envoy balances over its endpoints."""
    HEADLESS = "headless"
    """No ClusterIP: traffic goes to the address the client chose."""
    ALIAS = "alias"
    """ExternalName: another host's name."""
    ORIGINAL = "original"
    """Not resolved: traffic goes to the address the client chose (ServiceEntry NONE)."""
    DNS = "dns"
    """Envoy resolves the endpoints' names and balances over all they mean."""
    DNS_ONE = "dns one"
    """Envoy resolves one name, and uses one of its addresses for each connection."""
    DYNAMIC = "dynamic"
    """Envoy resolves the name in each request or SNI: for wildcard hosts."""

    @property
    def by_name(self) -> bool:
        return self in (Resolution.DNS, Resolution.DNS_ONE)


class Port(msgspec.Struct, frozen=True):
    number: int
    name: str
    protocol: Protocol
    target: int | str
    """The workload's port: a number, or the name of a container port."""


class Service(msgspec.Struct, frozen=True):
    key: HostKey
    source: ObjectKey
    name: str
    """The short name: `reviews`."""
    host: str
    """`reviews.default.svc.cluster.local`."""
    aliases: tuple[str, ...]
    """Other names clients may use: `reviews.default.svc`, `reviews.default`, and, only for
    clients in the same namespace, `short_name`."""
    addresses: tuple[str, ...]
    """Virtual IPs; empty when headless."""
    ports: tuple[Port, ...]
    resolution: Resolution
    selector: Mapping[str, str]
    export_to: tuple[str, ...]
    """`*`, `.`, `~` or namespaces; never empty."""
    created: tuple[str, str, str]
    external_name: str = ""
    distribution: str = ""
    """`PreferClose`, `PreferSameZone`, `PreferSameNode`; empty: anywhere."""
    declared: bool = False
    """A ServiceEntry says it, not Kubernetes."""
    external: bool = False
    """Outside the mesh: never in mutual TLS of the mesh's own accord."""
    subject_alt_names: tuple[str, ...] = ()
    """Whom a client of TLS may meet there; empty: as the policy says."""
    allocated: bool = False
    """The addresses are the mesh's own, which only its DNS gives out."""

    @property
    def precedence(self) -> tuple[bool, tuple[str, str, str]]:
        """Of several services with one host: Kubernetes' own first, then the oldest."""
        return (self.declared, self.created)

    @property
    def namespace(self) -> str:
        return self.key.namespace

    def port(self, number: int) -> Port | None:
        return next((p for p in self.ports if p.number == number), None)

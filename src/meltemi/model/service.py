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
        return self in (Protocol.HTTP2, Protocol.GRPC)


class Resolution(enum.Enum):
    ENDPOINTS = "endpoints"
    """A ClusterIP service: Envoy balances over its endpoints."""
    HEADLESS = "headless"
    """No ClusterIP: traffic goes to the address the client chose."""
    ALIAS = "alias"
    """ExternalName: another host's name."""


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

    @property
    def namespace(self) -> str:
        return self.key.namespace

    def port(self, number: int) -> Port | None:
        return next((p for p in self.ports if p.number == number), None)

"""Gateways: which ports a gateway proxy opens, and for which hosts."""

from collections.abc import Mapping

import msgspec

from meltemi.api.networking import ServerTLSSettings
from meltemi.base.keys import ObjectKey


class ServerHost(msgspec.Struct, frozen=True):
    """One entry of `hosts`: which namespaces' routes may bind, and the host they bind to."""

    namespace: str
    """`*`: any; otherwise a namespace (`.` is already resolved)."""
    host: str


class Server(msgspec.Struct, frozen=True):
    port: int
    """The Service's port number; the compiler translates to the target port."""
    port_name: str
    protocol: str
    """Upper case: HTTP, HTTPS, HTTP2, GRPC, TCP, TLS, MONGO."""
    hosts: tuple[ServerHost, ...]
    bind: str
    tls: ServerTLSSettings | None
    path: str
    """`spec.servers[0]`."""


class GatewayDef(msgspec.Struct, frozen=True):
    source: ObjectKey
    selector: Mapping[str, str]
    servers: tuple[Server, ...]
    created: tuple[str, str, str]

    @property
    def name(self) -> str:
        """How routes refer to it: `namespace/name`."""
        return f"{self.source.namespace}/{self.source.name}"

"""Gateways: which ports a gateway proxy opens, for which hosts, and how it treats TLS."""

import enum
from collections.abc import Mapping

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.model.hosts import matches_host
from meltemi.model.service import Protocol


class ServerHost(msgspec.Struct, frozen=True):
    """One entry of `hosts`: which namespaces' routes may bind, and the host they bind to."""

    namespace: str
    """`*`: any; otherwise a namespace (`.` is already resolved)."""
    host: str

    def admits(self, host: str, namespace: str) -> bool:
        """Whether a table of a namespace may bind a host that the entry covers whole."""
        return self.namespace in ("*", namespace) and matches_host(self.host, host)


class ClientCheck(enum.Enum):
    """What a server that ends TLS asks of its clients."""

    NONE = "SIMPLE"
    REQUIRED = "MUTUAL"
    OPTIONAL = "OPTIONAL_MUTUAL"
    MESH = "ISTIO_MUTUAL"
    """A certificate of the mesh; the server shows its own of the mesh, too."""


class Terminate(msgspec.Struct, frozen=True, tag="terminate"):
    """The gateway ends TLS."""

    check: ClientCheck
    credentials: tuple[str, ...] = ()
    """Secrets in the namespace of the gateway's pod."""
    authority: str = ""
    """The Secret with the clients' CA; empty: the credential's own."""
    files: tuple[tuple[str, str], ...] = ()
    """(certificate chain, key), as paths in the gateway's pod; instead of `credentials`."""
    authority_file: str = ""
    revoked_file: str = ""
    """Path of a certificate revocation list."""
    subject_alt_names: tuple[str, ...] = ()
    spki: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()
    min_version: str = ""
    """`TLSV1_2` and so on; empty: the default."""
    max_version: str = ""
    ciphers: tuple[str, ...] = ()

    @property
    def names_secrets(self) -> bool:
        return bool(self.credentials or self.authority)

    @property
    def asks(self) -> bool:
        """Whether clients are checked against an authority of the gateway's own."""
        return self.check in (ClientCheck.REQUIRED, ClientCheck.OPTIONAL)


class Passthrough(msgspec.Struct, frozen=True, tag="passthrough"):
    """TLS goes on as it is, to where `tls` rules send its SNI."""


class AutoPassthrough(msgspec.Struct, frozen=True, tag="auto-passthrough"):
    """TLS of the mesh goes on to the service its SNI names (east-west)."""


Tls = Terminate | Passthrough | AutoPassthrough


class Server(msgspec.Struct, frozen=True):
    port: int
    """The Service's port number; the compiler translates to the target port."""
    port_name: str
    protocol: Protocol
    """What is spoken inside TLS, if the server ends TLS."""
    hosts: tuple[ServerHost, ...]
    bind: str
    tls: Tls | None
    https_redirect: bool
    path: str
    """`spec.servers[0]`."""


class GatewayDef(msgspec.Struct, frozen=True):
    """What one object asks of the gateway proxies with certain labels."""

    name: str
    """How route tables refer to it: `namespace/name`, or `INGRESS`."""
    source: ObjectKey
    selector: Mapping[str, str]
    servers: tuple[Server, ...]
    created: tuple[str, str, str]


INGRESS = "kubernetes-ingress"
"""The one gateway of all Ingress objects; no name of Istio's grammar is like it."""

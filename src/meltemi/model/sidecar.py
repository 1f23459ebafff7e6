"""Sidecars: what the proxies they select serve and may reach (mesh-semantics 1.6)."""

from collections.abc import Mapping

import msgspec

from meltemi.api.networking import ConnectionPool
from meltemi.base.keys import HostKey, ObjectKey
from meltemi.model.gateway import Terminate
from meltemi.model.hosts import hosts_overlap, matches_host
from meltemi.model.route import Target
from meltemi.model.service import Protocol

OWN = "."


class Import(msgspec.Struct, frozen=True):
    """One entry of `hosts`: services and routes of a namespace, by host."""

    namespace: str
    """`*`: any; `.`: the proxy's own."""
    host: str
    excludes: bool = False

    def _names(self, namespace: str, own: str) -> bool:
        return self.namespace == "*" or namespace == (
            own if self.namespace == OWN else self.namespace
        )

    def takes(self, key: HostKey, own: str) -> bool:
        return self._names(key.namespace, own) and matches_host(self.host, key.host)

    def overlaps(self, key: HostKey, own: str) -> bool:
        return self._names(key.namespace, own) and hosts_overlap(self.host, key.host)


class Egress(msgspec.Struct, frozen=True):
    """One way out: a port of its own, or all the others."""

    imports: tuple[Import, ...]
    port: int | None = None
    """None: every port that no other way out claims; 0: a unix socket."""
    protocol: Protocol = Protocol.AUTO
    bind: str = ""
    captured: bool = True
    """Otherwise the application connects to the listener itself."""
    path: str = ""

    def sees(self, key: HostKey, own: str) -> bool:
        """Whether a service is imported into a proxy of the namespace `own`."""
        return any(i.takes(key, own) for i in self.imports if not i.excludes) and not any(
            i.takes(key, own) for i in self.imports if i.excludes
        )

    def applies(self, namespace: str, hosts: tuple[str, ...], own: str) -> bool:
        """Whether a route table of a namespace, with these hosts, is imported."""
        return any(
            i.overlaps(HostKey(namespace, host), own)
            for i in self.imports
            if not i.excludes
            for host in hosts
        )


EVERYTHING = Egress((Import("*", "*"),))


class Ingress(msgspec.Struct, frozen=True):
    """One way in, instead of those that Services declare."""

    port: int
    protocol: Protocol
    bind: str
    captured: bool
    endpoint: str
    """`127.0.0.1:8080`, `0.0.0.0:8080`, `unix:///path`; empty: the port itself."""
    tls: Terminate | None
    """For clients outside of the mesh."""
    pool: ConnectionPool | None
    path: str


class OutsidePolicy(msgspec.Struct, frozen=True):
    """What becomes of traffic to hosts the proxy does not know."""

    allow: bool
    through: Target | None = None
    """The service that takes it; None: it goes where it wants to."""


class SidecarDef(msgspec.Struct, frozen=True):
    source: ObjectKey
    selector: Mapping[str, str] | None
    """None: the whole namespace."""
    created: tuple[str, str, str]
    egress: tuple[Egress, ...]
    ingress: tuple[Ingress, ...]
    pool: ConnectionPool | None
    """For connections to the application, where `ingress` says none."""
    outside: OutsidePolicy | None
    """None: as the mesh says."""

    @property
    def names_secrets(self) -> bool:
        """Whether some way in ends TLS with the certificates of a Secret."""
        return any(way.tls is not None and way.tls.names_secrets for way in self.ingress)

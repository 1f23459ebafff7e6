"""What a node says of a pod whose Envoy it is about to start, and what it gets back."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from meltemi.base.redacted import Redacted

CERTIFICATE = "default"
ROOTS = "ROOTCA"
"""The names of the workload's secrets, in SDS and in compiled configuration."""

UNIX_PREFIX = "unix:"
LONGEST_SOCKET_PATH = 107
"""Bytes of a unix socket's path on Linux."""


class Target(NamedTuple):
    """The control plane's port for proxies that prove who they are."""

    host: str
    port: int


class ProxySpec(msgspec.Struct, frozen=True, kw_only=True):
    """One proxy: the pod it serves, the container's environment, and where its files go."""

    kind: str
    """`sidecar` or `router`: the second argument of the istio-proxy container."""
    namespace: str
    name: str
    uid: str
    ip: str
    """The first of the pod's addresses."""
    node_name: str
    service_account: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    workload: str
    """The owning Deployment's name, or the pod's."""
    env: Mapping[str, str]
    """The container's environment, expanded."""
    directory: str
    """Private to this proxy; its owner is the user Envoy runs as."""
    xds_target: str
    """`unix:PATH` or `host:port`."""
    token: Redacted
    """The projected `istio-token`, audience istio-ca."""
    socket_mark: int | None = None
    """Set on all upstream sockets, where capture rules know Envoy by a mark, not by its user."""
    trust_domain: str = "cluster.local"
    also: tuple[str, ...] = ()
    """The pod's further addresses, of the other family."""

    @property
    def has_ipv6(self) -> bool:
        return any(":" in address for address in (self.ip, *self.also))

    @property
    def bootstrap_path(self) -> str:
        return f"{self.directory}/bootstrap.json"

    @property
    def sds_path(self) -> str:
        return f"{self.directory}/sds.sock"

    @property
    def agent_path(self) -> str:
        return f"{self.directory}/agent.sock"

    @property
    def admin_path(self) -> str:
        return f"{self.directory}/admin.sock"

    def app_path(self, port: int) -> str:
        """Where Envoy listens for the agent's calls to a port of the app."""
        return f"{self.directory}/app-{port}.sock"


class Launch(msgspec.Struct, frozen=True):
    """How to start Envoy."""

    argv: tuple[str, ...]
    env: Mapping[str, str]

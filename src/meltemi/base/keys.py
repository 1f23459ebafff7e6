"""Typed names of things. Keys are tuples, never joined strings."""

from typing import NamedTuple, NewType

Revision = NewType("Revision", int)
"""One counter for the whole object store; grows with every write."""


class ObjectKey(NamedTuple):
    """Names one object of the Kubernetes API; `kind` is a name of `api.kinds.KINDS`."""

    kind: str
    namespace: str
    """Empty for cluster-scoped kinds."""
    name: str

    def __str__(self) -> str:
        place = f".{self.namespace}" if self.namespace else ""
        return f"{self.kind}/{self.name}{place}"


class WorkloadKey(NamedTuple):
    """Names one workload instance: a pod (a WorkloadEntry later)."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.name}.{self.namespace}"


class HostKey(NamedTuple):
    """Names one service of the mesh: the namespace that defines it and its full host name."""

    namespace: str
    host: str


class ServicePortKey(NamedTuple):
    """One port of one service."""

    namespace: str
    host: str
    port: int

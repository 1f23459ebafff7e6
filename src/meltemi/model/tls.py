"""What a workload accepts: PeerAuthentication, resolved (mesh-semantics 1.10)."""

import enum
from collections.abc import Mapping

import msgspec

from meltemi.base.keys import ObjectKey, WorkloadKey


class Mode(enum.Enum):
    STRICT = "STRICT"
    PERMISSIVE = "PERMISSIVE"
    DISABLE = "DISABLE"


class InboundTls(msgspec.Struct, frozen=True):
    """The effective modes of one workload."""

    key: WorkloadKey
    mode: Mode
    ports: Mapping[int, Mode]
    """Overrides by workload port."""
    source: ObjectKey | None
    """The policy that decided `mode`; None: the default."""

    def for_port(self, port: int) -> Mode:
        return self.ports.get(port, self.mode)

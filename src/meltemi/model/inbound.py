"""What a workload accepts, from PeerAuthentications (mesh-semantics 1.10)."""

from collections.abc import Iterable, Mapping, Sequence

from meltemi.api.security import MutualTLS, PeerAuthentication
from meltemi.base.keys import ObjectKey
from meltemi.model.tls import InboundTls, Mode
from meltemi.model.workload import Workload


def inbound_tls(
    workload: Workload,
    own: Sequence[PeerAuthentication],
    root: Sequence[PeerAuthentication],
) -> InboundTls:
    """Port over workload over namespace over mesh; UNSET inherits; the oldest of a level decides.

    `own` are the policies of the workload's namespace, `root` those of the root namespace. A
    selector in the root namespace selects there only: it never makes a policy mesh-wide.
    """
    wide = [_oldest(p for p in level if not _selector(p)) for level in (root, own)]
    chosen = _oldest(
        p for p in own if _selector(p) and _selector(p).items() <= workload.labels.items()
    )
    mode, source = Mode.PERMISSIVE, None
    for policy in (*wide, chosen):
        declared = _mode(policy.spec.mtls) if policy else None
        if policy is not None and declared is not None:
            mode, source = (
                declared,
                ObjectKey("PeerAuthentication", policy.metadata.namespace, policy.metadata.name),
            )
    ports = chosen.spec.port_level_mtls if chosen else {}
    return InboundTls(
        key=workload.key,
        mode=mode,
        ports={port: _mode(tls) or mode for port, tls in ports.items()},
        source=source,
    )


def _selector(policy: PeerAuthentication) -> Mapping[str, str]:
    return policy.spec.selector.match_labels if policy.spec.selector else {}


def _oldest(policies: Iterable[PeerAuthentication]) -> PeerAuthentication | None:
    return min(policies, key=lambda p: p.age_order, default=None)


def _mode(tls: MutualTLS | None) -> Mode | None:
    if tls is None or tls.mode == "UNSET":
        return None
    return Mode(tls.mode)

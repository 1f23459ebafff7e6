"""What holds for the whole mesh."""

import msgspec


class MeshSettings(msgspec.Struct, frozen=True):
    """MeshConfig, as far as the compiler reads it."""

    domain: str = "cluster.local"
    trust_domain: str = "cluster.local"
    root_namespace: str = "istio-system"
    cluster: str = "Kubernetes"
    allow_any: bool = True
    """outboundTrafficPolicy ALLOW_ANY; otherwise unknown hosts are refused."""
    access_log: bool = False
    connect_timeout: float = 10.0
    """Seconds."""
    detection_timeout: float = 5.0
    """Seconds the inspectors wait for a client to speak before its bytes count as plain TCP."""

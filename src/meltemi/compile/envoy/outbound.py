"""The clusters that every proxy has."""

from typing import Any

from meltemi.compile import names
from meltemi.compile.envoy.filters import Json
from meltemi.compile.envoy.kit import Kit
from meltemi.compile.settings import MeshSettings

_CLUSTER = "envoy.config.cluster.v3.Cluster"


def common_clusters(kit: Kit, settings: MeshSettings) -> list[Any]:
    """Clusters that every sidecar has: pass through, refuse, and inbound pass through."""
    timeout = f"{settings.connect_timeout:g}s"
    limits = {"thresholds": [{name: 2**32 - 1 for name in _LIMITS}]}
    downstream = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "use_downstream_protocol_config": {
            "http_protocol_options": {},
            "http2_protocol_options": {},
        },
    }
    options = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": downstream}
    through: Json = {
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": timeout,
        "circuit_breakers": limits,
        "typed_extension_protocol_options": options,
    }
    unknown = {"filter_metadata": {"mesh": {"host": names.PASSTHROUGH, "name": names.PASSTHROUGH}}}
    refused = {"filter_metadata": {"mesh": {"host": names.BLACK_HOLE, "name": names.BLACK_HOLE}}}
    return [
        kit.from_dict(_CLUSTER, {"name": names.PASSTHROUGH, "metadata": unknown, **through}),
        kit.from_dict(
            _CLUSTER,
            {
                "name": names.BLACK_HOLE,
                "type": "STATIC",
                "connect_timeout": timeout,
                "metadata": refused,
            },
        ),
    ]


_LIMITS = ("max_connections", "max_pending_requests", "max_requests", "max_retries")

"""What holds for the whole mesh, as the compiler reads it."""

import datetime
import enum
from collections.abc import Mapping
from typing import cast

import msgspec

from meltemi.api.mesh_config import CONFIG_MAP, MeshConfig, TLSConfig
from meltemi.api.networking import (
    ClientTLSSettings,
    HTTPRetry,
    LocalityLoadBalancer,
    TcpKeepalive,
    TrafficPolicy,
    ZoneAwareLoadBalancer,
)
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Outcome, Problem, Severity
from meltemi.flow import Fetch, Graph, View

MESH = "mesh"
"""The one key of views that hold one value for the mesh."""


class Paths(enum.Enum):
    """How request paths are made equal before anything looks at them."""

    NONE = "NONE"
    BASE = "BASE"
    MERGE_SLASHES = "MERGE_SLASHES"
    DECODE_AND_MERGE_SLASHES = "DECODE_AND_MERGE_SLASHES"


class AccessLog(msgspec.Struct, frozen=True):
    path: str
    format: str = ""
    """Empty: Istio's default."""
    is_json: bool = False


class MeshSettings(msgspec.Struct, frozen=True):
    """MeshConfig and what the control plane was started with."""

    domain: str = "cluster.local"
    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    """Other trust domains whose certificates are taken."""
    root_namespace: str = "istio-system"
    cluster: str = "Kubernetes"
    allow_any: bool = True
    """outboundTrafficPolicy ALLOW_ANY; otherwise unknown hosts are refused."""
    resolves_outside: bool = False
    """outboundTrafficPolicy ALLOW_ANY_DYNAMIC_DNS: requests to unknown hosts go where their names
    lead, not to the address the client chose."""
    outside_tls: ClientTLSSettings | None = None
    """How such requests are secured; None: not at all."""
    local_inbound: bool = False
    """inboundTrafficPolicy LOCALHOST: applications listen on 127.0.0.1."""
    auto_mtls: bool = True
    """Mutual TLS to endpoints that take it, unless a DestinationRule says otherwise."""
    access_log: AccessLog | None = None
    connect_timeout: float = 10.0
    """Seconds."""
    keepalive: TcpKeepalive | None = None
    detection_timeout: float = 5.0
    """Seconds the inspectors wait for a client to speak before its bytes count as plain TCP.
    Istio's default is to wait for ever, which hangs protocols whose server speaks first."""
    dns_refresh: float = 60.0
    """Seconds."""
    h2_upgrade: bool = False
    inbound_stat_name: str = ""
    outbound_stat_name: str = ""
    """Patterns with %SERVICE%, %SERVICE_FQDN%, %SERVICE_PORT% and the like."""
    paths: Paths = Paths.BASE
    default_retry: HTTPRetry | None = None
    default_policy: TrafficPolicy | None = None
    locality: LocalityLoadBalancer | None = None
    zones: ZoneAwareLoadBalancer | None = None
    mesh_tls: TLSConfig = TLSConfig()
    tls_defaults: TLSConfig = TLSConfig()
    ingress_class: str = "istio"
    ingress_service: str = "istio-ingressgateway"
    ingress_mode: str = "STRICT"
    ingress_selector: str = ""


def settings_from_config(config: MeshConfig | None, base: MeshSettings) -> MeshSettings:
    """The settings of a mesh; `base` is what it was started with, which no object changes."""
    if config is None:
        return base
    path = config.access_log_file
    log = AccessLog(path, config.access_log_format, config.access_log_encoding == "JSON")
    normalization = config.path_normalization.normalization
    return msgspec.structs.replace(
        base,
        trust_domain_aliases=config.trust_domain_aliases,
        allow_any=config.outbound_traffic_policy.mode != "REGISTRY_ONLY",
        resolves_outside=config.outbound_traffic_policy.mode == "ALLOW_ANY_DYNAMIC_DNS",
        outside_tls=config.outbound_traffic_policy.tls,
        local_inbound=config.inbound_traffic_policy.mode == "LOCALHOST",
        auto_mtls=config.enable_auto_mtls,
        access_log=log if path else None,
        connect_timeout=_seconds(config.connect_timeout, base.connect_timeout),
        keepalive=config.tcp_keepalive,
        detection_timeout=_seconds(config.protocol_detection_timeout, base.detection_timeout),
        dns_refresh=_seconds(config.dns_refresh_rate, base.dns_refresh),
        h2_upgrade=config.h2_upgrade_policy == "UPGRADE",
        inbound_stat_name=config.inbound_cluster_stat_name,
        outbound_stat_name=config.outbound_cluster_stat_name,
        paths=Paths.BASE if normalization == "DEFAULT" else Paths(normalization),
        default_retry=config.default_http_retry_policy,
        default_policy=config.default_traffic_policy,
        locality=config.locality_lb_setting,
        zones=config.zone_aware_lb_setting,
        mesh_tls=config.mesh_mtls,
        tls_defaults=config.tls_defaults,
        ingress_class=config.ingress_class,
        ingress_service=config.ingress_service,
        ingress_mode=config.ingress_controller_mode,
        ingress_selector=config.ingress_selector,
    )


def settings_view(
    graph: Graph, base: View[str, MeshSettings], config: View[str, MeshConfig]
) -> View[str, MeshSettings]:
    """The settings in force, as `base` and the ConfigMap change."""
    return graph.derive(
        "mesh settings",
        base,
        lambda fetch, key, start: {key: _checked(fetch.get(config, key), start)},
        reads=(config,),
    )


def _checked(config: MeshConfig | None, base: MeshSettings) -> Outcome[MeshSettings]:
    settings = settings_from_config(config, base)
    if config is None or config.trust_domain in ("", base.trust_domain):
        return Outcome(settings)
    problem = Problem(
        Code.BAD_VALUE,
        Severity.WARNING,
        ObjectKey("ConfigMap", base.root_namespace, CONFIG_MAP),
        "data.mesh.trustDomain",
        f"the trust domain is {base.trust_domain!r}, fixed when the mesh starts; "
        f"{config.trust_domain!r} is ignored: name it in trustDomainAliases to accept its "
        "certificates",
    )
    return Outcome(settings, (problem,))


def _seconds(span: datetime.timedelta | None, default: float) -> float:
    """Zero means unset, as everywhere in Istio's durations."""
    return span.total_seconds() if span else default


class Mesh:
    """The settings in the graph, each field under a key of its own.

    Reading a field is what makes a transform depend on it, so a changed access log leaves
    clusters alone, and nobody lists who reads what.
    """

    def __init__(self, graph: Graph, settings: View[str, MeshSettings]) -> None:
        self.settings = settings
        self.fields: View[str, object] = graph.derive("mesh fields", settings, _fields)

    @property
    def now(self) -> MeshSettings:
        return self.settings.get(MESH) or MeshSettings()

    def of(self, fetch: Fetch) -> MeshSettings:
        """The settings as one transform reads them."""
        return cast(MeshSettings, _Tracked(fetch, self.fields))


class _Optional(msgspec.Struct, frozen=True):
    """Views hold no None."""

    value: object


class _Tracked:
    """Has the fields of MeshSettings; each is fetched when it is read."""

    __slots__ = ("_fetch", "_fields")

    def __init__(self, fetch: Fetch, fields: View[str, object]) -> None:
        self._fetch = fetch
        self._fields = fields

    def __getattr__(self, name: str) -> object:
        found = self._fetch.get(self._fields, name)
        if isinstance(found, _Optional):
            return found.value
        return getattr(_DEFAULTS, name)


_DEFAULTS = MeshSettings()


def _fields(_fetch: Fetch, _key: str, settings: MeshSettings) -> Mapping[str, Outcome[object]]:
    return {
        name: Outcome(_Optional(getattr(settings, name))) for name in MeshSettings.__struct_fields__
    }

"""MeshConfig: the mesh's own settings, from key `mesh` of the ConfigMap `istio` (Istio's shape).

It is YAML inside a ConfigMap, so no API server has checked it: reading it answers problems that
name the field. Fields that nothing reads yet are listed here and reported, never dropped in
silence.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import yaml

from meltemi.api.decode import convert
from meltemi.api.meta import Api, Duration, Json
from meltemi.api.networking import (
    ClientTLSSettings,
    HTTPRetry,
    LocalityLoadBalancer,
    TcpKeepalive,
    TrafficPolicy,
    ZoneAwareLoadBalancer,
)
from meltemi.api.validate.destination_rule import client_tls
from meltemi.api.validate.load_balancer import zone_aware
from meltemi.api.validate.words import Advice
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Outcome, Problem, Severity

CONFIG_MAP = "istio"
DATA_KEY = "mesh"
_LONGEST = 256 * 1024


class OutboundTrafficPolicy(Api, frozen=True):
    mode: str = "ALLOW_ANY"
    tls: ClientTLSSettings | None = None
    """How requests to hosts that the proxy resolves are secured (ALLOW_ANY_DYNAMIC_DNS)."""


class InboundTrafficPolicy(Api, frozen=True):
    mode: str = "PASSTHROUGH"


class PathNormalization(Api, frozen=True):
    normalization: str = "DEFAULT"


class TLSConfig(Api, frozen=True):
    min_protocol_version: str = "TLS_AUTO"
    ecdh_curves: tuple[str, ...] = ()
    cipher_suites: tuple[str, ...] = ()


class ServiceScope(Api, frozen=True):
    cluster_local: bool = False


class ServiceSettings(Api, frozen=True):
    settings: ServiceScope = ServiceScope()
    hosts: tuple[str, ...] = ()


class LabelExpression(Api, frozen=True):
    key: str = ""
    operator: str = ""
    values: tuple[str, ...] = ()


class DiscoverySelector(Api, frozen=True):
    """Which namespaces belong to the mesh: all labels and all expressions hold."""

    match_labels: Mapping[str, str] = {}
    match_expressions: tuple[LabelExpression, ...] = ()

    def selects(self, labels: Mapping[str, str]) -> bool:
        return self.match_labels.items() <= labels.items() and all(
            _holds(e, labels) for e in self.match_expressions
        )


def _holds(expression: LabelExpression, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression.key)
    match expression.operator:
        case "In":
            return value in expression.values
        case "NotIn":
            return value not in expression.values
        case "Exists":
            return value is not None
        case _:
            return value is None


class MeshConfig(Api, frozen=True):
    """The fields that mean something here; `NOT_READ` lists Istio's others."""

    connect_timeout: Duration | None = None
    tcp_keepalive: TcpKeepalive | None = None
    default_config: Mapping[str, Json] = {}
    """A proxy's settings, merged under those of ProxyConfig objects and annotations."""
    outbound_traffic_policy: OutboundTrafficPolicy = OutboundTrafficPolicy()
    inbound_traffic_policy: InboundTrafficPolicy = InboundTrafficPolicy()
    enable_auto_mtls: bool = True
    trust_domain: str = ""
    trust_domain_aliases: tuple[str, ...] = ()
    default_service_export_to: tuple[str, ...] = ()
    default_virtual_service_export_to: tuple[str, ...] = ()
    default_destination_rule_export_to: tuple[str, ...] = ()
    root_namespace: str = ""
    locality_lb_setting: LocalityLoadBalancer | None = None
    zone_aware_lb_setting: ZoneAwareLoadBalancer | None = None
    dns_refresh_rate: Duration | None = None
    h2_upgrade_policy: str = "DO_NOT_UPGRADE"
    inbound_cluster_stat_name: str = ""
    outbound_cluster_stat_name: str = ""
    enable_prometheus_merge: bool | None = None
    service_settings: tuple[ServiceSettings, ...] = ()
    discovery_selectors: tuple[DiscoverySelector, ...] = ()
    path_normalization: PathNormalization = PathNormalization()
    default_http_retry_policy: HTTPRetry | None = None
    default_traffic_policy: TrafficPolicy | None = None
    mesh_mtls: TLSConfig = msgspec.field(default=TLSConfig(), name="meshMTLS")
    tls_defaults: TLSConfig = TLSConfig()
    ingress_class: str = "istio"
    ingress_service: str = "istio-ingressgateway"
    ingress_controller_mode: str = "STRICT"
    ingress_selector: str = ""
    access_log_file: str = ""
    access_log_format: str = ""
    access_log_encoding: str = "TEXT"
    protocol_detection_timeout: Duration | None = None


NOT_READ: Mapping[str, str] = {
    "proxyListenPort": "the port is always 15001",
    "proxyInboundListenPort": "the port is always 15006",
    "proxyHttpPort": "there is no explicit HTTP proxy port",
    "configSources": "objects come from the Kubernetes API alone",
    "caCertificates": "roots come from this mesh's own authority",
    "certificates": "DNS certificates are not made",
    "ca": "the authority is this mesh's own",
    "verifyCertificateAtClient": "certificates are always verified",
    "enableTracing": "tracing is not configured from here yet",
    "enableEnvoyAccessLogService": "access logs go to a file or to standard output",
    "disableEnvoyListenerLog": "listener logs are not written",
    "extensionProviders": "providers are not used yet",
    "defaultProviders": "providers are not used yet",
    "serviceScopeConfigs": "it is for ambient meshes of several clusters",
}
"""Istio's other fields, each with why it changes nothing."""

_WORDS: Mapping[str, tuple[str, ...]] = {
    "outboundTrafficPolicy.mode": ("ALLOW_ANY", "REGISTRY_ONLY", "ALLOW_ANY_DYNAMIC_DNS"),
    "inboundTrafficPolicy.mode": ("PASSTHROUGH", "LOCALHOST"),
    "h2UpgradePolicy": ("DO_NOT_UPGRADE", "UPGRADE"),
    "pathNormalization.normalization": (
        "DEFAULT",
        "NONE",
        "BASE",
        "MERGE_SLASHES",
        "DECODE_AND_MERGE_SLASHES",
    ),
    "accessLogEncoding": ("TEXT", "JSON"),
    "ingressControllerMode": ("OFF", "DEFAULT", "STRICT"),
    "meshMTLS.minProtocolVersion": ("TLS_AUTO", "TLSV1_2", "TLSV1_3"),
    "tlsDefaults.minProtocolVersion": ("TLS_AUTO", "TLSV1_2", "TLSV1_3"),
}


def mesh_config(text: str, about: ObjectKey) -> Outcome[MeshConfig]:
    """Read the YAML of a ConfigMap. No value where the last good one must stay."""
    data, reason = _loaded(text)
    if reason:
        return _refused(about, "", reason)
    outcome = convert(MeshConfig, data, about, _PATH)
    if outcome.value is None:
        return outcome
    wrong = [_bad(about, path, message) for path, message in _findings(outcome.value)]
    if wrong:
        return Outcome(None, tuple(wrong))
    useless = [
        Problem(Code.NOT_SUPPORTED, Severity.INFO, about, f"{_PATH}.{path}", message)
        for path, message in _useless(outcome.value)
    ]
    return Outcome(outcome.value, (*_unread(data, about), *useless))


_PATH = f"data.{DATA_KEY}"


def _loaded(text: str) -> tuple[dict[str, Any], str]:
    """The mapping, or why there is none. Aliases could unfold without end, so there are none."""
    if len(text) > _LONGEST:
        return {}, f"longer than {_LONGEST // 1024} KiB"
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            return {}, "YAML aliases are not read here: write the value out"
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return {}, f"not YAML: {' '.join(str(error).split())}"
    if data is None:
        return {}, ""
    if not isinstance(data, dict):
        return {}, "expected a mapping of settings"
    if data.get("ingressControllerMode") is False:
        data["ingressControllerMode"] = "OFF"  # Which YAML reads as a boolean.
    return data, ""


def _findings(config: MeshConfig) -> Iterator[tuple[str, str]]:
    plain = msgspec.to_builtins(config, enc_hook=str)
    for path, allowed in _WORDS.items():
        value: Any = plain
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None and value not in allowed:
            yield path, f"{value!r} is none of {', '.join(allowed)}"
    if config.access_log_encoding == "JSON" and config.access_log_format:
        try:
            parsed = msgspec.json.decode(config.access_log_format)
        except (msgspec.DecodeError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            yield "accessLogFormat", "must be a JSON object where accessLogEncoding is JSON"
    for i, selector in enumerate(config.discovery_selectors):
        for j, expression in enumerate(selector.match_expressions):
            if expression.operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
                path = f"discoverySelectors[{i}].matchExpressions[{j}].operator"
                yield path, f"{expression.operator!r} is none of In, NotIn, Exists, DoesNotExist"
    yield from _outside(config.outbound_traffic_policy)
    if config.zone_aware_lb_setting is not None:
        found = zone_aware(config.zone_aware_lb_setting, "zoneAwareLbSetting")
        yield from (finding for finding in found if not isinstance(finding, Advice))
    for name, span in (
        ("connectTimeout", config.connect_timeout),
        ("dnsRefreshRate", config.dns_refresh_rate),
    ):
        if span is not None and span.total_seconds() < 0.001:
            yield name, "must be 1ms or more"


def _outside(policy: OutboundTrafficPolicy) -> Iterator[tuple[str, str]]:
    """The TLS of what proxies resolve themselves: to servers that are not the mesh's."""
    tls, path = policy.tls, "outboundTrafficPolicy.tls"
    if tls is None:
        return
    yield from (found for found in client_tls(tls, path) if not isinstance(found, Advice))
    if tls.mode == "ISTIO_MUTUAL":
        yield f"{path}.mode", "unknown hosts are not of the mesh: use SIMPLE, MUTUAL or DISABLE"
    if tls.credential_name:
        yield f"{path}.credentialName", "it is for every sidecar: name files instead"


def _useless(config: MeshConfig) -> Iterator[tuple[str, str]]:
    """What is read elsewhere and means nothing as it stands here."""
    policy = config.outbound_traffic_policy
    if policy.tls is not None and policy.mode != "ALLOW_ANY_DYNAMIC_DNS":
        yield "outboundTrafficPolicy.tls", "it is for the mode ALLOW_ANY_DYNAMIC_DNS alone"
    if config.service_settings:
        yield "serviceSettings", "in a mesh of one cluster every service is local to it"
    if config.default_traffic_policy and config.default_traffic_policy.port_level_settings:
        path = "defaultTrafficPolicy.portLevelSettings"
        yield path, "the mesh's default has no ports: set it in a DestinationRule"


def _unread(data: Mapping[str, Any], about: ObjectKey) -> Iterator[Problem]:
    known = {field.encode_name for field in msgspec.structs.fields(MeshConfig)}
    for name in sorted(map(str, data)):
        head, *rest = name.split("_")
        wire = head + "".join(part[:1].upper() + part[1:] for part in rest)
        if wire in NOT_READ:
            message = f"this field changes nothing: {NOT_READ[wire]}"
            yield Problem(Code.NOT_SUPPORTED, Severity.INFO, about, f"{_PATH}.{wire}", message)
        elif wire not in known:
            message = "MeshConfig has no such field; it is ignored"
            yield Problem(Code.UNKNOWN_FIELD, Severity.WARNING, about, f"{_PATH}.{name}", message)


def _bad(about: ObjectKey, path: str, message: str) -> Problem:
    return Problem(Code.BAD_VALUE, Severity.ERROR, about, f"{_PATH}.{path}", message)


def _refused(about: ObjectKey, path: str, reason: str) -> Outcome[MeshConfig]:
    where = f"{_PATH}.{path}" if path else _PATH
    problem = Problem(Code.WRONG_TYPE, Severity.ERROR, about, where, reason)
    return Outcome(None, (problem,))

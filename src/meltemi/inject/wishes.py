"""What the mesh and a pod's annotations ask of its proxy, read once and checked.

Annotations: mesh-semantics 1.17 and https://istio.io/latest/docs/reference/config/annotations/
"""

import argparse
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from meltemi.api import names
from meltemi.api.meta import Json
from meltemi.api.proxy_config import merged
from meltemi.inject.rules import interfaces, networks, ports

JsonObject = dict[str, Json]
T = TypeVar("T")

_TRAFFIC = "traffic.sidecar.istio.io/"
_SIDECAR = "sidecar.istio.io/"
_READINESS = "readiness.status.sidecar.istio.io/"
_CONFIG = "proxy.istio.io/config"
_YES = ("true", "y", "yes", "on", "1")
_NO = ("false", "n", "no", "off", "0")


class Refused(ValueError):
    """The pod asks for a proxy that cannot be given; the text names the field."""


class InjectConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the mesh says about its proxies; pods may say otherwise."""

    image: str = "docker.io/meltemi/proxyv2:1"
    root_namespace: str = "istio-system"
    cluster: str = "Kubernetes"
    domain: str = "cluster.local"
    trust_domain: str = "cluster.local"
    revision: str = "default"
    token_seconds: int = 43200
    """Lifetime of the token that proves the pod to the authority."""
    drain_seconds: int = 5
    proxy: Mapping[str, Json] = {}
    """The proxy's settings as the mesh and ProxyConfig objects have them."""
    bootstrap: str = ""
    """Patches to Envoy's bootstrap, a JSON list; empty: none."""
    included_ranges: str = "*"
    """Destinations whose traffic is captured: `*`, or address ranges."""
    excluded_ranges: str = ""
    holds_application: bool = False
    """Applications start after the proxy."""
    is_native: bool = False
    """The proxy is an init container that never ends, which Kubernetes 1.29 and later keeps."""
    rewrites_probes: bool = True
    merges_metrics: bool = True

    @property
    def discovery(self) -> str:
        """Where proxies find the control plane."""
        return f"istiod.{self.root_namespace}.svc:15012"


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What one pod's proxy shall be."""

    is_gateway: bool
    is_native: bool
    holds_application: bool
    rewrites_probes: bool
    merges_metrics: bool
    capture: tuple[str, ...]
    """Arguments of istio-init."""
    image: str
    log_level: str
    readiness: JsonObject
    resources: JsonObject
    config: Mapping[str, Json]
    """The mesh's proxy settings under those of the pod's annotation."""


def yes_or_no(text: str) -> bool | None:
    """None for a word that is neither."""
    word = text.strip().lower()
    return True if word in _YES else False if word in _NO else None


def wishes(annotations: Mapping[str, str], config: InjectConfig) -> Wishes:
    """Raises Refused."""
    said = _Annotations(annotations)
    mode = said.get(f"{_SIDECAR}interceptionMode", "REDIRECT")
    if mode != "REDIRECT":
        raise Refused(
            f"annotation {_SIDECAR}interceptionMode: {mode!r} is not supported; leave it out"
        )
    drain = {"terminationDrainDuration": f"{config.drain_seconds}s"}
    proxy = merged(merged(drain, config.proxy), said.mapping(_CONFIG))
    holds = proxy.get("holdApplicationUntilProxyStarts", config.holds_application)
    if not isinstance(holds, bool):
        raise Refused(
            f"annotation {_CONFIG}: holdApplicationUntilProxyStarts: {holds!r} is neither true "
            "nor false"
        )
    if not isinstance(proxy.get("proxyMetadata") or {}, dict):
        raise Refused(f"annotation {_CONFIG}: proxyMetadata is not a mapping")
    return Wishes(
        is_gateway=_is_gateway(said),
        is_native=said.flag(f"{_SIDECAR}nativeSidecar", config.is_native),
        holds_application=holds,
        rewrites_probes=said.flag(f"{_SIDECAR}rewriteAppHTTPProbers", config.rewrites_probes),
        merges_metrics=said.flag("prometheus.istio.io/merge-metrics", config.merges_metrics),
        capture=_capture(said, config, captures_names=_captures_names(proxy)),
        image=said.get(f"{_SIDECAR}proxyImage", _image(config.image, proxy)),
        log_level=said.get(f"{_SIDECAR}logLevel", "warning"),
        readiness={
            "initialDelaySeconds": said.number(f"{_READINESS}initialDelaySeconds", 0),
            "periodSeconds": said.number(f"{_READINESS}periodSeconds", 15),
            "timeoutSeconds": 3,
            "failureThreshold": said.number(f"{_READINESS}failureThreshold", 4),
        },
        resources=_resources(said),
        config=proxy,
    )


def _image(image: str, proxy: Mapping[str, Json]) -> str:
    """The proxy's image in the type that is asked for: `debug`, `distroless`."""
    wanted = proxy.get("image")
    kind = wanted.get("imageType", "") if isinstance(wanted, dict) else ""
    return image if kind in ("", "default") else f"{image}-{kind}"


class _Annotations:
    """Reads annotations; each failure names the one it is about."""

    def __init__(self, annotations: Mapping[str, str]) -> None:
        self._all = annotations

    def get(self, name: str, default: str = "") -> str:
        return str(self._all.get(name, default))

    def has(self, name: str) -> bool:
        return name in self._all

    def flag(self, name: str, default: bool) -> bool:
        text = self.get(name)
        found = yes_or_no(text) if text else default
        if found is None:
            raise Refused(f"annotation {name}: {text!r} is neither true nor false")
        return found

    def number(self, name: str, default: int) -> int:
        text = self.get(name, str(default))
        if not text.isascii() or not text.isdecimal():
            raise Refused(f"annotation {name}: {text!r} is not a whole number")
        return int(text)

    def checked(self, name: str, read: Callable[[str], T], *, all_is_allowed: bool = False) -> str:
        """The text, once `read` has found nothing wrong with it."""
        text = self.get(name).strip()
        if text == "*" and all_is_allowed:
            return text
        try:
            read(text)
        except argparse.ArgumentTypeError as error:
            raise Refused(f"annotation {name}: {error}") from error
        return text

    def mapping(self, name: str) -> JsonObject:
        """YAML, which JSON is a part of."""
        import yaml

        try:
            found = yaml.safe_load(self.get(name) or "{}")
        except yaml.YAMLError as error:
            raise Refused(f"annotation {name} is not YAML: {error}") from error
        if not isinstance(found, dict):
            raise Refused(f"annotation {name} is not a mapping")
        try:
            plain: JsonObject = msgspec.to_builtins(found, str_keys=True)
        except (TypeError, ValueError) as error:
            raise Refused(f"annotation {name}: {error}") from error
        return plain


def _is_gateway(said: _Annotations) -> bool:
    templates = [t.strip() for t in said.get(names.TEMPLATES_ANNOTATION, "sidecar").split(",")]
    unknown = [t for t in templates if t not in ("sidecar", "gateway")]
    if unknown:
        raise Refused(
            f"annotation {names.TEMPLATES_ANNOTATION}: {unknown[0]!r} is no template; there are "
            "sidecar and gateway"
        )
    return "gateway" in templates


def _captures_names(proxy: Mapping[str, object]) -> bool:
    """Whether the pod's questions for names go to the proxy, as Istio's metadata says."""
    metadata = proxy.get("proxyMetadata")
    asked = metadata.get("ISTIO_META_DNS_CAPTURE", "") if isinstance(metadata, dict) else ""
    return str(asked).lower() == "true"


def _capture(said: _Annotations, config: InjectConfig, *, captures_names: bool) -> tuple[str, ...]:
    """The arguments of istio-iptables, as Istio writes them."""

    def of(name: str, read: Callable[[str], object], default: str, *, all_ok: bool = False) -> str:
        whole = _TRAFFIC + name
        if not said.has(whole):
            return default
        return said.checked(whole, read, all_is_allowed=all_ok)

    never = f"{names.ENVOY_METRICS_PORT},{names.HEALTH_PORT},{names.METRICS_PORT}"
    excluded = of("excludeInboundPorts", ports, "")
    args = [
        *("-p", str(names.OUTBOUND_PORT)),
        *("-z", str(names.INBOUND_PORT)),
        *("-u", str(names.PROXY_USER)),
        *("-m", "REDIRECT"),
        *("-i", of("includeOutboundIPRanges", networks, config.included_ranges, all_ok=True)),
        *("-x", of("excludeOutboundIPRanges", networks, config.excluded_ranges)),
        *("-b", of("includeInboundPorts", ports, "*", all_ok=True)),
        *("-d", f"{never},{excluded}" if excluded else never),
    ]
    more: tuple[tuple[str, str, Callable[[str], object]], ...] = (
        ("-q", "includeOutboundPorts", ports),
        ("-o", "excludeOutboundPorts", ports),
        ("-c", "excludeInterfaces", interfaces),
        ("-k", "kubevirtInterfaces", interfaces),
    )
    for flag, name, read in more:
        value = of(name, read, "")
        if value:
            args += [flag, value]
    if captures_names:
        args.append("--redirect-dns")
    return tuple(args)


def _resources(said: _Annotations) -> JsonObject:
    """The pod's own, all or none: a request must not meet a default limit below it."""
    wanted: JsonObject = {}
    for field, suffix in (("requests", ""), ("limits", "Limit")):
        values = {
            name.lower(): said.get(f"{_SIDECAR}proxy{name}{suffix}")
            for name in ("CPU", "Memory")
            if said.has(f"{_SIDECAR}proxy{name}{suffix}")
        }
        if values:
            wanted[field] = values
    return wanted or {
        "requests": {"cpu": "100m", "memory": "128Mi"},
        "limits": {"cpu": "2000m", "memory": "1024Mi"},
    }

"""Which of Envoy's statistics exist, how they are tagged, and how long idle ones stay.

An inclusion list is the biggest saving after scoping (envoy-data-plane.md, section 7): the names
are Istio's, plus `istio`, the scope of our own access logger. Pods add to it by annotation.
"""

from meltemi.proxy.node import JsonObject
from meltemi.proxy.spec import ProxySpec

_PREFIXES = (
    "reporter=",
    "cluster_manager",
    "listener_manager",
    "server",
    "cluster.xds-grpc",
    "istio",
    "component",
    "control_plane",
    "overload",
    "tls_inspector",
)
_SUFFIXES = ("ssl.handshake", "ssl.connection_error", "rbac.allowed", "rbac.denied")
"""Few counters, and each answers a question: is it mutual TLS, and who was refused."""

_ADDRESS = r"((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))"
_TAGS = (
    ("cluster_name", r"^cluster\.((.+?(\..+?\.svc\.cluster\.local)?)\.)"),
    ("tcp_prefix", r"^tcp\.((.*?)\.)\w+?$"),
    ("response_code", r"_rq(_(\d{3}))$"),
    ("response_code_class", r"_rq(_(\dxx))$"),
    ("http_conn_manager_listener_prefix", rf"^listener(?=\.).*?\.http\.({_ADDRESS}\.)"),
    ("http_conn_manager_prefix", rf"^http\.({_ADDRESS}\.)"),
    ("listener_address", rf"^listener\.({_ADDRESS}\.)"),
)

FLUSH_SECONDS = 10
_EVICTION_SECONDS = 600


def stats_config(spec: ProxySpec) -> JsonObject:
    """`stats_config` of the bootstrap, with the pod's `sidecar.istio.io/statsInclusion*`."""
    patterns: list[JsonObject] = [{"prefix": p} for p in _with(spec, "Prefixes", _PREFIXES)]
    patterns += [{"suffix": s} for s in _with(spec, "Suffixes", _SUFFIXES)]
    patterns += [{"safe_regex": {"regex": r}} for r in _with(spec, "Regexps", ())]
    return {
        "use_all_default_tags": False,
        "stats_tags": [{"tag_name": name, "regex": regex} for name, regex in _TAGS],
        "stats_matcher": {"inclusion_list": {"patterns": patterns}},
    }


def eviction_seconds(spec: ProxySpec) -> int:
    """How often unused series are dropped; Envoy wants a multiple of the flush interval."""
    asked = spec.annotations.get("sidecar.istio.io/statsEvictionInterval", "")
    text = asked.removesuffix("s")
    seconds = int(text) if text.isdecimal() and asked.endswith("s") else _EVICTION_SECONDS
    return max(1, -(-seconds // FLUSH_SECONDS)) * FLUSH_SECONDS


def _with(spec: ProxySpec, what: str, built_in: tuple[str, ...]) -> list[str]:
    more = spec.annotations.get(f"sidecar.istio.io/statsInclusion{what}", "")
    return [*built_in, *(part.strip() for part in more.split(",") if part.strip())]

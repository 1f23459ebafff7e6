"""What stands around the rules: the mesh's settings, what is outside, what proxies may see."""

from collections.abc import Callable

import yaml
from hypothesis import strategies as st

from .words import EXPORTS, Json, made, optional, some


@st.composite
def peer_authentication(draw: st.DrawFn, name: str) -> Json:
    """For the mesh, a namespace or some workloads; strictness shows where a sidecar is real."""
    modes = some(("DISABLE", "PERMISSIVE", "STRICT", "UNSET"))
    spec: Json = {"mtls": {"mode": draw(modes)}}
    namespace = draw(some(("default", "default", "far", "istio-system")))
    app = draw(some(("", "reviews", "db", "odd", "ratings"))) if namespace == "default" else ""
    if app:
        spec["selector"] = {"matchLabels": {"app": app}}
        if draw(st.booleans()):
            port = {"reviews": 9080, "db": 5432, "odd": 7000, "ratings": 9080}[app]
            spec["portLevelMtls"] = {str(port): {"mode": draw(modes)}}
    return made("PeerAuthentication", name, namespace, spec)


_HTTP = {"number": 80, "name": "http", "protocol": "HTTP"}
_ENTRIES: tuple[Json, ...] = (
    {"hosts": ["api.example.com"], "ports": [_HTTP]},
    {"hosts": ["api.example.com", "*.outside.com"], "ports": [_HTTP]},
    {"hosts": ["api.example.com"], "ports": [{**_HTTP, "targetPort": 8080}]},
    {
        "hosts": ["*.outside.com", "*.wild.com"],
        "ports": [_HTTP, {"number": 443, "name": "tls", "protocol": "TLS"}],
    },
    {"hosts": ["secure.example.com"], "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}]},
    {
        "hosts": ["secure.example.com", "*.wild.com"],
        "ports": [{"number": 443, "name": "https", "protocol": "HTTPS"}, _HTTP],
    },
    {
        "hosts": ["bytes.example.com"],
        "ports": [{"number": 9000, "name": "tcp", "protocol": "TCP"}],
    },
    {"hosts": ["stock.far.svc.cluster.local"], "ports": [{**_HTTP, "number": 9080}]},
    {"hosts": ["reviews.mesh"], "ports": [{**_HTTP, "number": 9080}]},
)
_ADDRESSES = ("192.0.2.1", "192.0.2.2", "192.0.2.0/28")


@st.composite
def service_entry(draw: st.DrawFn, name: str) -> Json:
    """Hosts outside or inside, of every resolution, with endpoints of their own or selected."""
    spec: Json = {**draw(some(_ENTRIES))}
    is_wild = any(host.startswith("*") for host in spec["hosts"])
    is_only_wild = all(host.startswith("*") for host in spec["hosts"])
    possible = (
        ("STATIC", "NONE", *(("DYNAMIC_DNS",) if is_only_wild else ()))
        if is_wild
        else ("STATIC", "NONE", "DNS", "DNS_ROUND_ROBIN")
    )
    resolution = spec["resolution"] = draw(some(possible))
    spec["location"] = draw(some(("MESH_EXTERNAL", "MESH_INTERNAL")))
    if resolution != "DYNAMIC_DNS" and draw(st.integers(0, 2)) == 0:
        spec["addresses"] = [draw(some(_ADDRESSES[:2] if resolution != "NONE" else _ADDRESSES))]
    if resolution == "STATIC":
        spec |= draw(some(_STATIC))
    elif resolution.startswith("DNS") and draw(st.booleans()):
        backends = [{"address": "one.example.net"}, {"address": "two.example.net", "weight": 3}]
        spec["endpoints"] = backends[: 1 if resolution == "DNS_ROUND_ROBIN" else 2]
    if draw(st.integers(0, 3)) == 0:
        spec["exportTo"] = list(draw(some(EXPORTS)))
    return made("ServiceEntry", name, draw(some(("default", "default", "far"))), spec)


_STATIC: tuple[Json, ...] = (
    {"endpoints": [{"address": "192.0.2.10"}, {"address": "192.0.2.11", "weight": 3}]},
    {
        "endpoints": [
            {"address": "192.0.2.10", "labels": {"version": "v1"}, "locality": "r1/z1/a"},
            {"address": "192.0.2.12", "labels": {"version": "v2"}, "ports": {"http": 8081}},
        ]
    },
    {"workloadSelector": {"labels": {"app": "reviews"}}},
    {"workloadSelector": {"labels": {"app": "vm"}}},
)


def workload_entry(name: str) -> st.SearchStrategy[Json]:
    """A machine that ServiceEntries and Services may select."""
    return st.builds(
        lambda app, more: made(
            "WorkloadEntry",
            name,
            "default",
            {"address": "192.0.2.20", "labels": {"app": app, "version": "v2"}, **more},
        ),
        some(("vm", "reviews")),
        some(({}, {"serviceAccount": "reviews"}, {"ports": {"http": 8082}, "weight": 2})),
    )


_EGRESS_HOSTS = (
    ["./*"],
    ["*/*"],
    ["./*", "istio-system/*"],
    ["./reviews.default.svc.cluster.local", "far/*"],
    ["*/*", "~far/*"],
    ["*/*.example.com", "./*"],
    ["~/*"],
    ["default/ratings.default.svc.cluster.local", "default/db.default.svc.cluster.local"],
)
_EGRESS = st.lists(
    st.builds(
        lambda hosts, port: {"hosts": hosts, **({"port": port} if port else {})},
        some(_EGRESS_HOSTS),
        some(
            (
                None,
                None,
                {"number": 9080, "protocol": "HTTP", "name": "http"},
                {"number": 5432, "protocol": "TCP", "name": "tcp"},
                {"number": 443, "protocol": "TLS", "name": "tls"},
            )
        ),
    ),
    min_size=1,
    max_size=2,
    unique_by=lambda one: one.get("port", {}).get("number"),
).map(lambda found: sorted(found, key=lambda one: "port" not in one))
_OUTBOUND = some(
    (
        {"mode": "REGISTRY_ONLY"},
        {"mode": "ALLOW_ANY"},
        {
            "mode": "ALLOW_ANY",
            "egressProxy": {"host": "ratings.default.svc.cluster.local", "port": {"number": 9080}},
        },
    )
)


@st.composite
def sidecar(draw: st.DrawFn, name: str) -> Json:
    spec: Json = {"egress": draw(_EGRESS)}
    if draw(st.booleans()):
        spec["outboundTrafficPolicy"] = draw(_OUTBOUND)
    namespace = draw(some(("default", "default", "default", "far", "istio-system")))
    if namespace == "default" and draw(st.booleans()):
        labels = draw(some(({"app": "client"}, {"version": "v1"}, {"app": "reviews"})))
        spec["workloadSelector"] = {"labels": labels}
        if draw(st.integers(0, 2)) == 0 and labels == {"app": "reviews"}:
            spec["ingress"] = [
                {
                    "port": {"number": 9080, "protocol": "HTTP", "name": "http"},
                    "defaultEndpoint": draw(some(("127.0.0.1:9999", "0.0.0.0:9080"))),
                }
            ]
    return made("Sidecar", name, namespace, spec)


_MESH = optional(
    {
        "outboundTrafficPolicy": some(({"mode": "REGISTRY_ONLY"}, {"mode": "ALLOW_ANY"})),
        "pathNormalization": some(
            tuple(
                {"normalization": word}
                for word in ("NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES")
            )
        ),
        "enableAutoMtls": st.just(False),
        "defaultServiceExportTo": some((["."], ["*"])),
        "defaultVirtualServiceExportTo": some((["."], ["*"])),
        "defaultDestinationRuleExportTo": some((["."], ["*"])),
        "h2UpgradePolicy": st.just("UPGRADE"),
        "localityLbSetting": some(
            (
                {"enabled": False},
                {"distribute": [{"from": "r1/z1/*", "to": {"r1/z2/*": 50, "r2/*": 50}}]},
            )
        ),
        "defaultTrafficPolicy": some(
            ({"outlierDetection": {"consecutive5xxErrors": 4}}, {"tls": {"mode": "DISABLE"}})
        ),
        "defaultHttpRetryPolicy": st.just({"attempts": 0}),
    }
)


def mesh_config() -> st.SearchStrategy[Json]:
    written: Callable[[Json], Json] = lambda settings: {  # noqa: E731
        "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": yaml.safe_dump(settings)},
    }
    return _MESH.map(written)


_HTTPS = {"number": 443, "name": "https", "protocol": "HTTPS"}
_SERVERS: tuple[Json, ...] = (
    {"port": _HTTPS, "tls": {"mode": "SIMPLE", "credentialName": "shop"}},
    {"port": _HTTPS, "tls": {"mode": "SIMPLE", "credentialName": "lost"}},
    {"port": {**_HTTPS, "protocol": "TLS"}, "tls": {"mode": "PASSTHROUGH"}},
    {"port": {**_HTTPS, "protocol": "TLS"}, "tls": {"mode": "AUTO_PASSTHROUGH"}},
    {"port": {**_HTTPS, "protocol": "TLS"}, "tls": {"mode": "SIMPLE", "credentialName": "shop"}},
    {"port": {"number": 31400, "name": "tcp", "protocol": "TCP"}},
    {"port": {"number": 8000, "name": "http-two", "protocol": "HTTP"}},
    {"port": {"number": 80, "name": "http-more", "protocol": "HTTP"}},
    {
        "port": {"number": 80, "name": "http-more", "protocol": "HTTP"},
        "tls": {"httpsRedirect": True},
    },
)
_SERVER_HOSTS = (
    ["*"],
    ["*/*"],
    ["shop.example.com"],
    ["*.example.com"],
    ["default/*"],
    ["far/*"],
    ["./shop.example.com"],
    ["pass.example.com", "shop.example.com"],
)


@st.composite
def gateway(draw: st.DrawFn, name: str, namespace: str) -> Json:
    """Servers of every protocol; the first is plain HTTP on port 80."""
    first: Json = {
        "port": {"number": 80, "name": "http", "protocol": "HTTP"},
        "hosts": draw(some((["*"], *_SERVER_HOSTS))),
    }
    if draw(st.integers(0, 9)) == 0:
        first["tls"] = {"httpsRedirect": True}
    others = draw(st.lists(some(_SERVERS), max_size=3))
    servers = [first] + [{**server, "hosts": draw(some(_SERVER_HOSTS))} for server in others]
    return made("Gateway", name, namespace, {"selector": {"istio": "gate"}, "servers": servers})

"""VirtualServices, delegates, routes of bytes and of TLS, and DestinationRules."""

from hypothesis import strategies as st

from .http import RULE, delegating
from .words import EXPORTS, Json, made, optional, some

_MESH_HOSTS = (
    *("reviews.default.svc.cluster.local",) * 4,
    "reviews",
    "ratings.default.svc.cluster.local",
    "odd",
    "bare",
    "quiet.default.svc.cluster.local",
    "*.default.svc.cluster.local",
    "stock.far.svc.cluster.local",
    "shop.example.com",
    "*.example.com",
    "api.example.com",
    "*.outside.com",
)
GATEWAYS = ("istio-system/gate", "default/front")
_BOUND = (
    (), (), (), ("mesh", "istio-system/gate"), ("istio-system/gate",), ("mesh", *GATEWAYS),
    GATEWAYS,
)  # fmt: skip


@st.composite
def virtual_service(draw: st.DrawFn, name: str, leaf: str = "", *, main: bool = False) -> Json:
    """`leaf`: the name of a delegate that one of its rules may hand requests to. `main`: it is for
    the host that most requests ask for."""
    gateways = draw(some(_BOUND))
    only_gateways = bool(gateways) and "mesh" not in gateways
    possible = (*_MESH_HOSTS, "*") if only_gateways else _MESH_HOSTS
    hosts = draw(st.lists(some(possible), min_size=1, max_size=2, unique=True))
    namespace = draw(some(("default", "default", "far", "istio-system")))
    rules = draw(st.lists(RULE, min_size=1, max_size=4))
    if leaf and draw(st.booleans()):
        place = {"name": leaf, "namespace": "default"} if draw(st.booleans()) else {"name": leaf}
        rules.insert(draw(st.integers(0, len(rules))), draw(delegating(place)))
    spec: Json = {"hosts": hosts, "http": rules}
    if main:
        spec["hosts"] = ["reviews.default.svc.cluster.local"]
        return made("VirtualService", name, "default", spec)
    if gateways:
        spec["gateways"] = list(gateways)
    if draw(st.integers(0, 6)) == 0:
        spec["exportTo"] = list(draw(some(EXPORTS)))
    return made("VirtualService", name, namespace, spec)


@st.composite
def delegate(draw: st.DrawFn, name: str) -> Json:
    """Rules without hosts of their own."""
    spec: Json = {"http": draw(st.lists(RULE, min_size=1, max_size=3))}
    if draw(st.integers(0, 4)) == 0:
        spec["exportTo"] = list(draw(some(EXPORTS)))
    return made("VirtualService", name, draw(some(("default", "default", "far"))), spec)


_BALANCERS = (
    {"simple": "ROUND_ROBIN"},
    {"simple": "RANDOM"},
    {"simple": "PASSTHROUGH"},
    {"consistentHash": {"httpHeaderName": "x-a"}},
    {"consistentHash": {"useSourceIp": True}},
    {"consistentHash": {"httpQueryParameterName": "q"}},
    {"consistentHash": {"httpHeaderName": "x-a", "maglev": {}}},
    {"localityLbSetting": {"enabled": False}},
    {"localityLbSetting": {"distribute": [{"from": "r1/*", "to": {"r1/*": 80, "r2/*": 20}}]}},
    {"localityLbSetting": {"failover": [{"from": "r1", "to": "r2"}]}},
    {"localityLbSetting": {"failoverPriority": ["version", "topology.istio.io/network"]}},
)
_TLS = (
    {"mode": "DISABLE"},
    {"mode": "ISTIO_MUTUAL"},
    {"mode": "ISTIO_MUTUAL", "sni": "named.example.com"},
    {"mode": "SIMPLE", "sni": "there.example.com", "insecureSkipVerify": True},
    {"mode": "SIMPLE", "insecureSkipVerify": True},
)
_BLOCKS = {
    "loadBalancer": some(_BALANCERS),
    "tls": some(_TLS),
    "connectionPool": some(
        (
            {"http": {"maxRequestsPerConnection": 1}},
            {"http": {"h2UpgradePolicy": "UPGRADE"}},
            {"http": {"useClientProtocol": True}, "tcp": {"connectTimeout": "5s"}},
        )
    ),
    "outlierDetection": st.just({"consecutive5xxErrors": 3}),
}
_TRAFFIC = optional(
    {
        **_BLOCKS,
        "portLevelSettings": st.lists(
            st.builds(
                lambda port, blocks: {"port": {"number": port}, **blocks},
                some((9080, 8000, 5432, 7000, 80)),
                optional({**_BLOCKS}),
            ),
            min_size=1,
            max_size=2,
            unique_by=lambda one: one["port"]["number"],
        ),
    }
)
_LABELS = ({"version": "v1"}, {"version": "v2"}, {"version": "v9"}, {}, {"app": "reviews"})


@st.composite
def destination_rule(draw: st.DrawFn, name: str, *, main: bool = False) -> Json:
    names = draw(st.lists(some(("v1", "v2", "v9")), max_size=3, unique=True))
    subsets = [
        {"name": v, "labels": draw(some(({"version": v}, {"version": v}, *_LABELS)))}
        | ({"trafficPolicy": draw(_TRAFFIC)} if draw(st.booleans()) else {})
        for v in names
    ]
    hosts = (
        "reviews", "reviews", "ratings", "stock.far.svc.cluster.local", "odd", "db", "quiet",
        "api.example.com", "*.default.svc.cluster.local", "*.local", "*.outside.com",
        "secure.example.com",
    )  # fmt: skip
    host = "reviews" if main else draw(some(hosts))
    spec: Json = {"host": host, "subsets": subsets}
    if draw(st.integers(0, 2)):
        spec["trafficPolicy"] = draw(_TRAFFIC)
    if draw(st.integers(0, 5)) == 0:
        spec["exportTo"] = list(draw(some(EXPORTS)))
    if draw(st.integers(0, 7)) == 0:
        spec["workloadSelector"] = {"matchLabels": {"version": "v1"}}
    spaces = ("default",) if main else ("default", "default", "far", "istio-system")
    namespace = draw(some(spaces))
    return made("DestinationRule", name, namespace, spec)


_PORTS = {"db": 5432, "odd": 7000, "safe": 8443, "ratings": 9080, "quiet": 6379, "reviews": 9080}
_TARGETS = st.lists(
    st.builds(
        lambda host, subset, weight: {
            "destination": {
                "host": host,
                **({"subset": subset} if subset else {}),
                "port": {"number": _PORTS[host]},
            },
            "weight": weight,
        },
        some(tuple(_PORTS)),
        some(("", "", "v1", "v2")),
        some((50, 50, 1, 100, 0)),
    ),
    min_size=1,
    max_size=3,
).filter(lambda targets: any(t["weight"] for t in targets))
_L4_MATCH = optional(
    {
        "port": some((5432, 7000, 8443, 6379, 443, 31400)),
        "sourceLabels": st.just({"version": "v1"}),
        "destinationSubnets": some(
            (["10.43.0.0/16"], ["10.43.0.4/32"], ["192.0.2.0/24"], ["10.44.0.0/16"])
        ),
        "sourceNamespace": some(("default", "far")),
        "gateways": some((["mesh"], ["istio-system/gate"])),
    }
)
_SNI = (
    ["safe.default.svc.cluster.local"],
    ["*.default.svc.cluster.local"],
    ["pass.example.com"],
    ["*.example.com"],
    ["secure.example.com"],
    ["*.wild.com", "pass.example.com"],
)


@st.composite
def l4_service(draw: st.DrawFn, name: str) -> Json:
    """Routes of bytes, or of TLS by its SNI."""
    spec: Json = {}
    gateways = draw(some(((), (), ("istio-system/gate",), ("mesh", "istio-system/gate"))))
    if draw(st.booleans()):
        rules = draw(
            st.lists(
                st.builds(
                    lambda match, sni, route: {
                        "match": [{**match, "sniHosts": sni}],
                        "route": route,
                    },
                    _L4_MATCH,
                    some(_SNI),
                    _TARGETS,
                ),
                min_size=1,
                max_size=2,
            )
        )
        spec["hosts"] = sorted({host for rule in rules for host in rule["match"][0]["sniHosts"]})
        spec["tls"] = rules
    else:
        hosts = ("db", "odd", "quiet", "bytes.example.com", "reviews")
        spec["hosts"] = ["*"] if gateways == ("istio-system/gate",) else [draw(some(hosts))]
        spec["tcp"] = draw(
            st.lists(
                st.builds(
                    lambda match, route: {**({"match": [match]} if match else {}), "route": route},
                    _L4_MATCH,
                    _TARGETS,
                ),
                min_size=1,
                max_size=2,
            )
        )
    if gateways:
        spec["gateways"] = list(gateways)
    if draw(st.integers(0, 6)) == 0:
        spec["exportTo"] = list(draw(some(EXPORTS)))
    return made("VirtualService", name, draw(some(("default", "default", "far"))), spec)

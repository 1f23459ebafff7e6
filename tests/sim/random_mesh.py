"""Random rules over a small shop, and random requests that have a fair chance to meet them.

Everything comes from short lists, so that rules overlap, requests match often, and what hypothesis
shrinks stays readable.
"""

from typing import Any, NamedTuple

from hypothesis import strategies as st

from meltemi.simulate.ask import Question

from .given import Given

Json = dict[str, Any]

PODS: Json = {
    "client": {"version": "v1"},
    "other": {"app": "client", "version": "v2"},
    "reviews-v1": {"app": "reviews", "version": "v1"},
    "reviews-v2": {"app": "reviews", "version": "v2"},
    "reviews-v3": {"app": "reviews", "version": "v3", "sidecar": False},
    "ratings-v1": {"app": "ratings", "version": "v1"},
    "odd-0": {"app": "odd", "version": "v1"},
    "db-0": {"app": "db", "version": "v1"},
    "db-1": {"app": "db", "version": "v2"},
    "safe-0": {"app": "safe"},
    "web.far": {"app": "client"},
    "stock-0.far": {"app": "stock", "version": "v1"},
    "stock-1.far": {"app": "stock", "version": "v2"},
    "gate.istio-system": {"app": "gate", "gateway": True, "labels": {"istio": "gate"}},
}
SERVICES: Json = {
    "reviews": {"ports": {"http": 9080, "http-more": "8000 > 9080"}},
    "ratings": {"ports": {"http": 9080}},
    "odd": {"ports": {"web": 7000}},
    "db": {"ports": {"tcp": 5432}},
    "empty": {"ports": {"http": 9080}},
    "safe": {"ports": {"tls": 8443}},
    "bare": {"ports": {"http": 9080}, "headless": True, "selector": {"app": "ratings"}},
    "alias": {"ports": {"http": 9080}, "external": "ratings.default.svc.cluster.local"},
    "stock.far": {"ports": {"http": 9080, "grpc": 9090}},
    "gate.istio-system": {"ports": {"http": "80 > 8080"}},
}
ORIGINS = ("client", "other", "web.far", "gateway/gate.istio-system")
_PATHS = ("/", "/a", "/a/b", "/ab", "/A", "/a/", "/c/d/e", "/x.html", "/a/1", "/a/22")
_REGEXES = ("/a.*", "/[ac]/.*", ".*", "/a/[0-9]+", ".*\\.html", "/(a|c)(/.*)?")
_VALUES = ("one", "two", "on", "one,two", "")
_NAMES = ("x-a", "x-b", "end-user")
_HOSTS = ("reviews", "ratings", "odd", "empty", "stock.far.svc.cluster.local", "db")
_SUBSETS = ("", "", "v1", "v2", "v9")


def _some(values: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


def _optional(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Json]:
    """One or two of the fields, seldom none."""
    names = tuple(fields)
    one = [st.fixed_dictionaries({name: fields[name]}) for name in names]
    two = [
        st.fixed_dictionaries({first: fields[first], second: fields[second]})
        for i, first in enumerate(names)
        for second in names[i + 1 :]
    ]
    return st.one_of(*one, st.one_of(*two), st.just({})) if two else st.one_of(*one)


def _matcher(values: tuple[str, ...], regexes: tuple[str, ...]) -> st.SearchStrategy[Json]:
    filled = tuple(v for v in values if v)
    return st.one_of(
        st.builds(lambda v: {"exact": v}, _some(filled)),
        st.builds(lambda v: {"prefix": v}, _some(filled)),
        st.builds(lambda v: {"regex": v}, _some(regexes)),
    )


_HEADER_MATCH = st.one_of(_matcher(_VALUES, ("on.*", ".+", "one|two", "*")), st.just({}))
_WITHOUT_MATCH = _matcher(_VALUES, ("on.*", ".+", "*"))
_MATCH = _optional(
    {
        "uri": _matcher(_PATHS, _REGEXES),
        "method": _matcher(("GET", "POST"), ("G.*",)),
        "authority": _matcher(("reviews", "reviews:9080", "shop.example.com"), ("rev.*", ".*com")),
        "headers": st.dictionaries(_some(_NAMES), _HEADER_MATCH, min_size=1, max_size=2),
        "withoutHeaders": st.dictionaries(_some(_NAMES), _WITHOUT_MATCH, min_size=1, max_size=1),
        "queryParams": st.dictionaries(
            _some(("q", "r")), _matcher(_VALUES, ("on.*", ".+")), min_size=1, max_size=2
        ),
        "port": _some((9080, 8000, 80)),
        "sourceLabels": st.just({"version": "v1"}),
        "sourceNamespace": _some(("default", "far")),
        "scheme": st.just({"exact": "http"}),
        "gateways": _some((["mesh"], ["istio-system/gate"])),
    }
)
_CASELESS = st.builds(lambda m, c: {**m, "ignoreUriCase": c}, _MATCH, st.booleans())
_DESTINATION = st.builds(
    lambda host, subset, port: {
        "host": host,
        **({"subset": subset} if subset else {}),
        **({"port": {"number": port}} if port else {}),
    },
    _some(_HOSTS),
    _some(_SUBSETS),
    _some((0, 0, 0, 9080, 8000)),
)
_OPERATIONS = _optional(
    {
        "set": st.dictionaries(_some((*_NAMES, "x-new")), _some(("one", "new")), min_size=1),
        "add": st.dictionaries(_some((*_NAMES, "x-new")), _some(("more",)), min_size=1),
        "remove": st.lists(_some(_NAMES), min_size=1, max_size=2, unique=True),
    }
)
_HEADERS = _optional({"request": _OPERATIONS, "response": _OPERATIONS})
_HOST_SET = st.just({"request": {"set": {"host": "set.example.com"}}})
_REWRITE = st.one_of(
    st.builds(lambda u: {"uri": u}, _some(("/", "/new", "/new/"))),
    st.builds(lambda a: {"authority": a}, _some(("else.example.com", "reviews:1"))),
    st.builds(
        lambda pair: {"uriRegexRewrite": {"match": pair[0], "rewrite": pair[1]}},
        _some((("/a/([0-9]+)", r"/n/\1"), ("/", "-"), ("b", r"<\0>"))),
    ),
)


@st.composite
def _forwards(draw: st.DrawFn) -> Json:
    """A rule that sends requests on."""
    destinations = draw(st.lists(_DESTINATION, min_size=1, max_size=3))
    weights = draw(st.lists(_some((0, 1, 50, 100)), min_size=3, max_size=3))
    if len(destinations) > 1 and not any(weights[: len(destinations)]):
        weights = [1, 1, 1]
    rule: Json = {
        "route": [
            {"destination": d, **({"weight": w} if len(destinations) > 1 else {})}
            for d, w in zip(destinations, weights, strict=False)
        ]
    }
    if draw(st.integers(0, 3)) == 0:
        rule["route"][0]["headers"] = draw(_HEADERS)
    rule |= draw(
        _optional(
            {
                "rewrite": _REWRITE,
                "headers": st.one_of(_HEADERS, _HOST_SET),
                "timeout": st.just("9s"),
                "retries": st.just({"attempts": 1, "perTryTimeout": "3s"}),
                "fault": st.builds(
                    lambda status, percent: {
                        "abort": {"httpStatus": status, "percentage": {"value": percent}}
                    },
                    _some((418, 503)),
                    _some((100, 0)),
                ),
                "mirror": st.just({"host": "ratings"}),
                "corsPolicy": st.just(
                    {
                        "allowOrigins": [{"exact": "http://good.example.com"}],
                        "allowMethods": ["GET"],
                    }
                ),
            }
        )
    )
    return rule


_REDIRECT = _optional(
    {
        "uri": _some(("/to", "/to?with=query")),
        "authority": _some(("to.example.com",)),
        "port": _some((8443,)),
        "scheme": _some(("https",)),
        "redirectCode": _some((301, 302, 307, 308)),
    }
).map(lambda r: {"redirect": r or {"uri": "/to"}})
_DIRECT = st.just({"directResponse": {"status": 418, "body": {"string": "teapot"}}})
_ACTION = st.one_of(_forwards(), _forwards(), _forwards(), _REDIRECT, _DIRECT)
_RULE = st.builds(
    lambda matches, action, name: {
        **({"match": matches} if matches else {}),
        **({"name": name} if name else {}),
        **action,
    },
    st.one_of(
        st.lists(_CASELESS, min_size=1, max_size=1),
        st.lists(_CASELESS, min_size=1, max_size=3),
        st.just([]),
    ),
    _ACTION,
    _some(("", "", "named")),
)


def _object(kind: str, name: str, namespace: str, spec: Json) -> Json:
    return {"kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


_MESH_HOSTS = (
    "reviews",
    "ratings.default.svc.cluster.local",
    "odd",
    "*.default.svc.cluster.local",
    "stock.far.svc.cluster.local",
    "shop.example.com",
    "*.example.com",
)
_BOUND = ((), (), ("mesh", "istio-system/gate"), ("istio-system/gate",))


@st.composite
def _virtual_service(draw: st.DrawFn, name: str) -> Json:
    gateways = draw(_some(_BOUND))
    possible = (*_MESH_HOSTS, "*") if gateways == ("istio-system/gate",) else _MESH_HOSTS
    hosts = draw(st.lists(_some(possible), min_size=1, max_size=2, unique=True))
    spec: Json = {"hosts": hosts, "http": draw(st.lists(_RULE, min_size=1, max_size=4))}
    if gateways:
        spec["gateways"] = list(gateways)
    if draw(st.integers(0, 5)) == 0:
        spec["exportTo"] = draw(_some((["."], ["far"], ["*"])))
    return _object("VirtualService", name, draw(_some(("default", "default", "far"))), spec)


_TRAFFIC = _optional(
    {
        "loadBalancer": st.deferred(lambda: _some(_BALANCERS)),
        "tls": _some(({"mode": "DISABLE"}, {"mode": "ISTIO_MUTUAL"})),
        "connectionPool": st.just({"http": {"maxRequestsPerConnection": 1}}),
        "portLevelSettings": st.just([{"port": {"number": 9080}, "tls": {"mode": "DISABLE"}}]),
        "outlierDetection": st.just({"consecutive5xxErrors": 3}),
    }
)
_BALANCERS = (
    {"simple": "ROUND_ROBIN"},
    {"simple": "RANDOM"},
    {"consistentHash": {"httpHeaderName": "x-a"}},
    {"consistentHash": {"useSourceIp": True}},
    {"consistentHash": {"httpQueryParameterName": "q"}},
)


@st.composite
def _destination_rule(draw: st.DrawFn, name: str) -> Json:
    versions = draw(st.lists(_some(("v1", "v2")), max_size=2, unique=True))
    spec: Json = {
        "host": draw(_some(("reviews", "ratings", "stock.far.svc.cluster.local", "odd", "db"))),
        "subsets": [
            {"name": v, "labels": {"version": v}}
            | ({"trafficPolicy": draw(_TRAFFIC)} if draw(st.integers(0, 3)) == 0 else {})
            for v in versions
        ],
    }
    if draw(st.booleans()):
        spec["trafficPolicy"] = draw(_TRAFFIC)
    namespace = draw(_some(("default", "default", "far", "istio-system")))
    return _object("DestinationRule", name, namespace, spec)


_L4_MATCH = _optional(
    {
        "port": _some((5432, 7000, 8443)),
        "sourceLabels": st.just({"version": "v1"}),
        "destinationSubnets": _some((["10.43.0.0/16"], ["10.43.0.4/32"], ["192.0.2.0/24"])),
        "sourceNamespace": _some(("default", "far")),
    }
)


@st.composite
def _l4_service(draw: st.DrawFn, name: str) -> Json:
    """Routes of bytes, or of TLS by its SNI."""
    host = draw(_some(("db", "odd", "safe", "db")))
    targets = draw(st.lists(_some(("db", "odd", "safe", "ratings")), min_size=1, max_size=2))
    route = [
        {
            "destination": {
                "host": t,
                "subset": draw(_some(("", "", "v1"))),
                "port": {"number": p},
            },
            "weight": 50,
        }
        for t in targets
        for p in [{"db": 5432, "odd": 7000, "safe": 8443, "ratings": 9080}[t]]
    ]
    match = draw(_L4_MATCH)
    if host == "safe":
        sni = draw(_some((["safe.default.svc.cluster.local"], ["*.default.svc.cluster.local"])))
        rule = {"tls": [{"match": [{**match, "sniHosts": sni}], "route": route}]}
        return _object("VirtualService", name, "default", {"hosts": sni, **rule})
    rule = {"tcp": [{"match": [match] if match else [], "route": route}]}
    return _object("VirtualService", name, "default", {"hosts": [host], **rule})


@st.composite
def _peer_authentication(draw: st.DrawFn, name: str) -> Json:
    """Endpoints that are off mutual TLS; nobody refuses here, so STRICT would say nothing."""
    spec: Json = {"mtls": {"mode": draw(_some(("DISABLE", "PERMISSIVE")))}}
    app = draw(_some(("", "reviews", "db")))
    if app:
        spec["selector"] = {"matchLabels": {"app": app}}
        if draw(st.booleans()):
            spec["portLevelMtls"] = {"9080": {"mode": draw(_some(("DISABLE", "PERMISSIVE")))}}
    return _object("PeerAuthentication", name, "default", spec)


@st.composite
def _service_entry(draw: st.DrawFn, name: str) -> Json:
    """Hosts outside, with addresses and endpoints of their own, or none."""
    resolution = draw(_some(("STATIC", "NONE")))
    spec: Json = {
        "hosts": draw(_some((["api.example.com"], ["api.example.com", "*.outside.com"]))),
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        "location": draw(_some(("MESH_EXTERNAL", "MESH_INTERNAL"))),
        "resolution": resolution,
    }
    if resolution == "STATIC":
        spec["endpoints"] = [{"address": "192.0.2.10"}, {"address": "192.0.2.11", "weight": 3}]
        if draw(st.booleans()):
            spec["addresses"] = ["192.0.2.1"]
    return _object("ServiceEntry", name, "default", spec)


@st.composite
def _gateway(draw: st.DrawFn) -> Json:
    server: Json = {
        "port": {"number": 80, "name": "http", "protocol": "HTTP"},
        "hosts": draw(_some((["*"], ["*/*"], ["shop.example.com"], ["default/*"], ["far/*"]))),
    }
    if draw(st.integers(0, 9)) == 0:
        server["tls"] = {"httpsRedirect": True}
    spec = {"selector": {"istio": "gate"}, "servers": [server]}
    return _object("Gateway", "gate", "istio-system", spec)


_TARGETS = (
    "http://reviews:9080", "http://reviews:8000", "http://reviews.default:9080",
    "http://reviews.default.svc.cluster.local:9080", "http://ratings:9080", "http://odd:7000",
    "http://empty:9080", "http://stock.far:9080", "http://stock.far.svc.cluster.local:9090",
    "http://unknown.example.com:9080", "http://api.example.com", "tcp://db:5432",
    "tcp://odd:7000", "tls://odd:7000", "http://db:5432", "tcp://reviews:9080",
    "https://reviews:9080", "http://10.43.0.1:9080", "http://10.44.0.3:9080",
    "tls://safe:8443", "tls://safe.default.svc.cluster.local:8443", "http://bare:9080",
    "http://alias:9080", "http://x.outside.com", "tcp://db.default:5432",
)  # fmt: skip
_AUTHORITIES = (
    "", "", "", "shop.example.com", "REVIEWS", "ratings", "reviews:9080", "reviews:1",
    "ratings.default.svc.cluster.local:80", "10.43.0.2", "deep.shop.example.com", "example.com",
    "stock.far", "stock", "unknown",
)  # fmt: skip
_ODD_PATHS = (
    "/a?q=one", "/a?q=one&q=two&r=on", "/?q", "/a?q=", "/x/../a", "//a", "/a//b", "/a/./b", "/%61",
    "/a%2Fb", "/a/b?x=/../y", "/a/..", "/c\\d", "/a;v=1", "/a%20b", "/a/b/", "/%7Ea", "/..",
)  # fmt: skip
_AT_GATEWAY = ("http://shop.example.com", "http://x.shop.example.com", "http://any")


@st.composite
def _question(draw: st.DrawFn, origin: str) -> Question:
    target = draw(_some(_AT_GATEWAY if origin.startswith("gateway/") else _TARGETS))
    path = draw(_some((*_PATHS, *_PATHS, *_ODD_PATHS)))
    headers = draw(st.lists(st.tuples(_some(_NAMES), _some(_VALUES)), max_size=3))
    authority = draw(_some(_AUTHORITIES))
    if authority:
        headers.append(("host", authority))
    method = draw(_some(("GET", "GET", "POST", "OPTIONS")))
    if method == "OPTIONS":
        headers += [
            ("origin", draw(_some(("http://good.example.com", "http://bad.example.com")))),
            ("access-control-request-method", "GET"),
        ]
    url = target + (path if target.startswith("http:") else "")
    return Question(url=url, origin=origin, method=method, headers=tuple(headers))


class RandomMesh(NamedTuple):
    documents: list[Json]
    questions: list[Question]


_PLAIN_GATEWAY: Json = {
    "selector": {"istio": "gate"},
    "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}],
}


@st.composite
def meshes(draw: st.DrawFn, questions: int = 60) -> RandomMesh:
    """Rules, and so many questions from a few origins."""
    rules = [draw(_virtual_service(f"vs-{i}")) for i in range(draw(st.integers(1, 4)))]
    rules += [draw(_destination_rule(f"dr-{i}")) for i in range(draw(st.integers(0, 3)))]
    if draw(st.booleans()):
        rules.append(draw(_l4_service("l4")))
    if draw(st.integers(0, 2)) == 0:
        rules.append(draw(_peer_authentication("pa")))
    if draw(st.booleans()):
        rules.append(draw(_service_entry("se")))
    if draw(st.integers(0, 2)):
        rules.append(draw(_gateway()))
    else:
        rules.append(_object("Gateway", "gate", "istio-system", _PLAIN_GATEWAY))
    given = Given()
    given.add({"pods": PODS, "services": SERVICES, "objects": rules})
    origins = draw(st.lists(_some(ORIGINS), min_size=1, max_size=3, unique=True))
    asked = [draw(_question(origins[i % len(origins)])) for i in range(questions)]
    return RandomMesh(given.documents(), asked)

"""Rules of HTTP routes: conditions, actions, and what they change."""

from typing import Any

from hypothesis import strategies as st

from .words import NAMES, PATHS, VALUES, Json, optional, some

_REGEXES = ("/a.*", "/[ac]/.*", ".*", "/a/[0-9]+", ".*\\.html", "/(a|c)(/.*)?")
_HOSTS = (
    "reviews", "reviews", "ratings", "odd", "empty", "stock.far.svc.cluster.local", "db", "quiet",
    "bare", "api.example.com", "hidden.far.svc.cluster.local",
)  # fmt: skip
_SUBSETS = ("", "", "v1", "v2", "v9")


def _matcher(values: tuple[str, ...], regexes: tuple[str, ...]) -> st.SearchStrategy[Json]:
    filled = tuple(v for v in values if v)
    return st.one_of(
        st.builds(lambda v: {"exact": v}, some(filled)),
        st.builds(lambda v: {"prefix": v}, some(filled)),
        st.builds(lambda v: {"regex": v}, some(regexes)),
    )


_HEADER_MATCH = st.one_of(_matcher(VALUES, ("on.*", ".+", "one|two", "*")), st.just({}))
_WITHOUT_MATCH = _matcher(VALUES, ("on.*", ".+", "*"))
MATCH = optional(
    {
        "uri": _matcher(PATHS, _REGEXES),
        "method": _matcher(("GET", "POST"), ("G.*",)),
        "authority": _matcher(("reviews", "reviews:9080", "shop.example.com"), ("rev.*", ".*com")),
        "headers": st.dictionaries(some(NAMES), _HEADER_MATCH, min_size=1, max_size=2),
        "withoutHeaders": st.dictionaries(some(NAMES), _WITHOUT_MATCH, min_size=1, max_size=1),
        "queryParams": st.dictionaries(
            some(("q", "r")), _matcher(VALUES, ("on.*", ".+")), min_size=1, max_size=2
        ),
        "port": some((9080, 8000, 80, 443)),
        "sourceLabels": st.just({"version": "v1"}),
        "sourceNamespace": some(("default", "far")),
        "scheme": some(({"exact": "http"}, {"exact": "https"})),
        "gateways": some((["mesh"], ["istio-system/gate"], ["mesh", "istio-system/gate"])),
    }
)
_CASELESS = st.builds(lambda m, c: {**m, "ignoreUriCase": c}, MATCH, st.booleans())
DESTINATION = st.builds(
    lambda host, subset, port: {
        "host": host,
        **({"subset": subset} if subset else {}),
        **({"port": {"number": port}} if port else {}),
    },
    some(_HOSTS),
    some(_SUBSETS),
    some((0, 0, 0, 9080, 8000, 80)),
)
_OPERATIONS = optional(
    {
        "set": st.dictionaries(some((*NAMES, "x-new")), some(("one", "new")), min_size=1),
        "add": st.dictionaries(some((*NAMES, "x-new")), some(("more",)), min_size=1),
        "remove": st.lists(some(NAMES), min_size=1, max_size=2, unique=True),
    }
)
_HEADERS = optional({"request": _OPERATIONS, "response": _OPERATIONS})
_HOST_SET = st.just({"request": {"set": {"host": "set.example.com"}}})
_REWRITE = st.one_of(
    st.builds(lambda u: {"uri": u}, some(("/", "/new", "/new/"))),
    st.builds(lambda a: {"authority": a}, some(("else.example.com", "reviews:1"))),
    st.builds(
        lambda u, a: {"uri": u, "authority": a}, some(("/new", "/")), some(("else.example.com",))
    ),
    st.builds(
        lambda pair: {"uriRegexRewrite": {"match": pair[0], "rewrite": pair[1]}},
        some((("/a/([0-9]+)", r"/n/\1"), ("/", "-"), ("b", r"<\0>"))),
    ),
)
_FAULT = st.builds(
    lambda abort, percent: {"abort": {**abort, "percentage": {"value": percent}}},
    some(({"httpStatus": 418}, {"httpStatus": 503}, {"grpcStatus": "UNAVAILABLE"})),
    some((100, 0, 50)),
)
_MIRRORS = st.lists(
    st.builds(
        lambda host, percent: {
            "destination": {"host": host, "port": {"number": 9080}},
            **({"percentage": {"value": percent}} if percent is not None else {}),
        },
        some(("ratings", "stock.far.svc.cluster.local", "quiet")),
        some((100, 0, 50, None)),
    ),
    min_size=1,
    max_size=2,
)
_CORS = st.builds(
    lambda origins, more: {"allowOrigins": origins, **more},
    some(
        ([{"exact": "http://good.example.com"}], [{"regex": ".*good.*"}], [{"prefix": "http://"}])
    ),
    some(
        (
            {"allowMethods": ["GET"]},
            {"allowMethods": ["GET", "POST"], "maxAge": "60s", "allowCredentials": True},
            {"allowHeaders": ["x-a"], "unmatchedPreflights": "IGNORE"},
        )
    ),
)


@st.composite
def forwards(draw: st.DrawFn) -> Json:
    """A rule that sends requests on."""
    destinations = draw(st.lists(DESTINATION, min_size=1, max_size=3))
    weights = draw(st.lists(some((0, 1, 50, 100)), min_size=3, max_size=3))
    if len(destinations) > 1 and not any(weights[: len(destinations)]):
        weights = [1, 1, 1]
    targets: list[Json] = [
        {"destination": d, **({"weight": w} if len(destinations) > 1 else {})}
        for d, w in zip(destinations, weights, strict=False)
    ]
    for target in targets:
        if draw(st.integers(0, 3)) == 0:
            target["headers"] = draw(st.one_of(_HEADERS, _HOST_SET))
    fields: dict[str, st.SearchStrategy[Any]] = {
        "rewrite": _REWRITE,
        "headers": st.one_of(_HEADERS, _HOST_SET),
        "timeout": st.just("9s"),
        "retries": st.just({"attempts": 1, "perTryTimeout": "3s"}),
        "fault": _FAULT,
        "mirror": st.just({"host": "ratings"}),
        "mirrors": _MIRRORS,
        "corsPolicy": _CORS,
    }
    return {"route": targets, **draw(optional(fields)), **draw(optional(fields))}


_REDIRECT = optional(
    {
        "uri": some(("/to", "/to?with=query", "%PREFIX()%/to")),
        "authority": some(("to.example.com",)),
        "port": some((8443,)),
        "derivePort": some(("FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT")),
        "scheme": some(("https",)),
        "redirectCode": some((301, 302, 307, 308)),
    }
).map(lambda r: {"redirect": r if r.keys() - {"derivePort"} else {**r, "uri": "/to"}})
_DIRECT = st.builds(
    lambda headers: {
        "directResponse": {"status": 418, "body": {"string": "teapot"}},
        **({"headers": headers} if headers else {}),
    },
    st.one_of(st.just({}), _HEADERS),
)
_ACTION = st.one_of(forwards(), forwards(), forwards(), _REDIRECT, _DIRECT)
_CONDITIONS = st.one_of(
    st.lists(_CASELESS, min_size=1, max_size=1),
    st.lists(_CASELESS, min_size=1, max_size=3),
    st.lists(st.builds(lambda uri: {"uri": uri}, some(({"prefix": "/"}, {"prefix": "/a"})))),
    st.just([]),
)


def _rule(matches: list[Json], action: Json, name: str) -> Json:
    return {
        **({"match": matches} if matches else {}),
        **({"name": name} if name else {}),
        **action,
    }


RULE = st.builds(_rule, _CONDITIONS, _ACTION, some(("", "", "named")))


def delegating(leaf: Json) -> st.SearchStrategy[Json]:
    """A rule that hands requests to another VirtualService."""
    return st.builds(
        _rule,
        _CONDITIONS,
        st.builds(
            lambda more: {"delegate": leaf, **more},
            optional({"timeout": st.just("8s"), "headers": _HEADERS, "rewrite": _REWRITE}),
        ),
        some(("", "root")),
    )

"""The short lists everything random is made of, and the shop that rules are about."""

from typing import Any

from hypothesis import strategies as st

Json = dict[str, Any]

_NEAR, _NEXT, _AWAY = "r1.z1.a", "r1.z2.a", "r2.z9.a"


def _at(locality: str, **more: Any) -> Json:
    return {**more, "labels": {"istio-locality": locality}}


PODS: Json = {
    "client": _at(_NEAR, version="v1"),
    "other": _at(_AWAY, app="client", version="v2"),
    "reviews-v1": _at(_NEAR, app="reviews", version="v1"),
    "reviews-v2": _at(_NEXT, app="reviews", version="v2"),
    "reviews-v3": _at(_AWAY, app="reviews", version="v3", sidecar=False),
    "ratings-v1": {"app": "ratings", "version": "v1"},
    "odd-0": {"app": "odd", "version": "v1"},
    "db-0": _at(_AWAY, app="db", version="v1"),
    "db-1": _at(_NEAR, app="db", version="v2"),
    "safe-0": {"app": "safe"},
    "web.far": {"app": "client"},
    "stock-0.far": _at(_NEAR, app="stock", version="v1"),
    "stock-1.far": _at(_AWAY, app="stock", version="v2"),
    "gate.istio-system": {"app": "gate", "gateway": True, "labels": {"istio": "gate"}},
    "quiet-0": {"app": "quiet", "version": "v1"},
    "quiet-1": {"app": "quiet", "version": "v2", "sidecar": False},
    "naked": {"app": "client", "sidecar": False},
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
    "gate.istio-system": {
        "ports": {"http": "80 > 8080", "https": "443 > 8443", "tcp": 31400, "http-two": 8000}
    },
    "quiet": {"ports": {"tcp": 6379, "http": 9080}, "headless": True},
    "hidden.far": {
        "ports": {"http": 9080, "tcp": 5433},
        "selector": {"app": "stock"},
        "exportTo": ".",
    },
}
SECRETS: Json = {"shop.istio-system": ["shop.example.com"]}
SERVED = ("", "", "reviews-v1", "ratings-v1", "odd-0", "db-0", "stock-0.far")
"""Pods with a real sidecar, one a mesh; the others are played by the echo server."""
ORIGINS = ("client", "client", "other", "web.far", "gateway/gate.istio-system", "client", "naked")

PATHS = ("/", "/a", "/a/b", "/ab", "/A", "/a/", "/c/d/e", "/x.html", "/a/1", "/a/22")
VALUES = ("one", "two", "on", "one,two", "")
NAMES = ("x-a", "x-b", "end-user")
EXPORTS = ((".",), ("far",), ("*",), ("istio-system", "default"), ("~",))


def some(values: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


def optional(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Json]:
    """One or two of the fields, seldom none."""
    names = tuple(fields)
    one = [st.fixed_dictionaries({name: fields[name]}) for name in names]
    two = [
        st.fixed_dictionaries({first: fields[first], second: fields[second]})
        for i, first in enumerate(names)
        for second in names[i + 1 :]
    ]
    return st.one_of(*one, st.one_of(*two), st.just({})) if two else st.one_of(*one)


def made(kind: str, name: str, namespace: str, spec: Json) -> Json:
    return {"kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}

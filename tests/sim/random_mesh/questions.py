"""What is asked: names and addresses that rules speak of, and some that they don't."""

from random import Random

from meltemi.simulate.ask import Question

from .words import NAMES, PATHS, VALUES

_TARGETS = (
    *("http://reviews:9080",) * 10, *("http://ratings:9080",) * 3, "http://reviews:8000",
    "http://reviews.default:9080", "http://reviews.default.svc.cluster.local:9080",
    "http://ratings:9080", "http://odd:7000", "http://empty:9080", "http://stock.far:9080",
    "http://stock.far.svc.cluster.local:9090", "http://unknown.example.com:9080",
    "http://api.example.com", "http://api.example.com", "tcp://db:5432", "tcp://odd:7000",
    "tls://odd:7000", "http://db:5432", "tcp://reviews:9080", "https://reviews:9080",
    "http://10.43.0.1:9080", "http://10.44.0.3:9080", "tls://safe:8443",
    "tls://safe.default.svc.cluster.local:8443", "http://bare:9080", "http://alias:9080",
    "http://x.outside.com", "tcp://db.default:5432", "http://quiet:9080", "tcp://quiet:6379",
    "http://hidden.far:9080", "tcp://hidden.far:5433", "tls://secure.example.com",
    "https://secure.example.com", "tls://a.wild.com", "http://secure.example.com",
    "tcp://bytes.example.com:9000", "http://192.0.2.1", "http://192.0.2.2:9080",
    "tcp://192.0.2.10:9000", "http://10.43.0.2:8000", "tcp://10.44.0.8:5432",
    "tcp://10.43.0.4:9999", "http://10.44.0.16:9080", "tcp://203.0.113.7:443",
    "http://203.0.113.7:9080", "http://reviews.mesh:9080", "tcp://10.44.0.3:1234",
)  # fmt: skip
_AUTHORITIES = (
    *("",) * 24, "shop.example.com", "REVIEWS", "ratings", "reviews:9080", "reviews:1",
    "ratings.default.svc.cluster.local:80", "10.43.0.2", "deep.shop.example.com", "example.com",
    "stock.far", "stock", "unknown", "api.example.com", "b.outside.com",
)  # fmt: skip
_ODD_PATHS = (
    "/a?q=one", "/a?q=one&q=two&r=on", "/?q", "/a?q=", "/x/../a", "//a", "/a//b", "/a/./b", "/%61",
    "/a%2Fb", "/a/b?x=/../y", "/a/..", "/c\\d", "/a;v=1", "/a%20b", "/a/b/", "/%7Ea", "/..",
)  # fmt: skip
_AT_GATEWAY = (
    "http://shop.example.com", "http://shop.example.com", "http://x.shop.example.com",
    "http://any", "http://shop.example.com:8000", "https://shop.example.com",
    "https://x.example.com", "tls://pass.example.com:443", "tls://shop.example.com",
    "tcp://any:31400", "http://shop.example.com:443", "tls://safe.default.svc.cluster.local:443",
    "tls://outbound_.9080_._.reviews.default.svc.cluster.local:443",
)  # fmt: skip
_SNIS = ("", "", "", "shop.example.com", "x.example.com", "pass.example.com", "none.example.org")


def question(rng: Random, origin: str) -> Question:
    """One of many for a mesh: it comes from a generator of its own, because hypothesis has only
    so much chance to spend on an example, and the objects need all of it."""
    at_gateway = origin.startswith("gateway/")
    target = rng.choice(_AT_GATEWAY if at_gateway else _TARGETS)
    scheme = target.partition(":")[0]
    path = rng.choice((*PATHS, *PATHS, *_ODD_PATHS))
    headers = [(rng.choice(NAMES), rng.choice(VALUES)) for _ in range(rng.choice((0, 0, 1, 2, 3)))]
    authority = rng.choice(_AUTHORITIES)
    if authority:
        headers.append(("host", authority))
    method = rng.choice(("GET", "GET", "POST", "OPTIONS"))
    if method == "OPTIONS":
        headers += [
            ("origin", rng.choice(("http://good.example.com", "http://bad.example.com"))),
            ("access-control-request-method", "GET"),
        ]
    return Question(
        url=target + (path if scheme.startswith("http") else ""),
        origin=origin,
        method=method,
        headers=tuple(headers),
        sni=rng.choice(_SNIS) if scheme in ("https", "tls") else "",
        alpn=("http/1.1",) if scheme == "https" else (),
    )

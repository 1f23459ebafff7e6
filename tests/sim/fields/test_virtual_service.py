"""Fields of VirtualService that the simulator does not model, on a real Envoy."""

import asyncio
import json
import time
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey

from meltemi.simulate.request import Request

from ..real.client import Answer
from .conftest import REAL
from .peers import hang_up
from .stage import Http2Answer, Stage, http2

pytestmark = REAL

_CORS = """
objects:
- kind: VirtualService
  metadata: {name: reviews}
  spec:
    hosts: [reviews]
    http:
    - match: [{uri: {prefix: /exact}}]
      route: [{destination: {host: reviews}}]
      corsPolicy:
        allowOrigins: [{exact: "https://a.example"}]
        allowMethods: [GET, PUT]
        allowHeaders: [x-one, x-two]
        exposeHeaders: [x-three, x-four]
        maxAge: 26h
        allowCredentials: true
    - match: [{uri: {prefix: /prefix}}]
      route: [{destination: {host: reviews}}]
      corsPolicy: {allowOrigins: [{prefix: "https://a."}], allowCredentials: false}
    - match: [{uri: {prefix: /regex}}]
      route: [{destination: {host: reviews}}]
      corsPolicy: {allowOrigins: [{regex: "https://[a-c]\\\\.example"}]}
    - match: [{uri: {prefix: /any}}]
      route: [{destination: {host: reviews}}]
      corsPolicy: {allowOrigins: [{exact: "*"}]}
    - match: [{uri: {prefix: /old}}]
      route: [{destination: {host: reviews}}]
      corsPolicy: {allowOrigin: ["https://a.example"]}
    - match: [{uri: {prefix: /ignore}}]
      route: [{destination: {host: reviews}}]
      corsPolicy: {allowOrigins: [{exact: "https://a.example"}], unmatchedPreflights: IGNORE}
    - match: [{uri: {prefix: /forward}}]
      route: [{destination: {host: reviews}}]
      corsPolicy: {allowOrigins: [{exact: "https://a.example"}], unmatchedPreflights: FORWARD}
"""
_ORIGIN = "access-control-allow-origin"


async def test_cross_origin_requests(stage: Stage) -> None:
    await stage.use(_CORS)

    async def preflight(path: str, origin: str = "https://a.example") -> Answer:
        asked = {"origin": origin, "access_control_request_method": "PUT"}
        return await stage.get(f"reviews:9080/{path}", "OPTIONS", **asked)

    async def plain(path: str, origin: str = "https://a.example") -> Answer:
        return await stage.get(f"reviews:9080/{path}", origin=origin)

    full = await preflight("exact")
    assert (full.status, full.header("x-from-app")) == (200, None), "the proxy answers"
    assert full.header(_ORIGIN) == "https://a.example"
    assert full.header("access-control-allow-methods") == "GET,PUT"
    assert full.header("access-control-allow-headers") == "x-one,x-two"
    assert full.header("access-control-max-age") == str(26 * 3600)
    assert full.header("access-control-allow-credentials") == "true"

    simple = await plain("exact")
    assert simple.header("x-from-app"), "the application answers"
    assert simple.header(_ORIGIN) == "https://a.example"
    assert simple.header("access-control-allow-credentials") == "true"
    assert simple.header("access-control-expose-headers") == "x-three,x-four"
    stranger = await plain("exact", "https://b.example")
    assert stranger.header("x-from-app")
    assert stranger.header(_ORIGIN) is None

    for path, allowed, refused in (
        ("prefix", "https://a.anything", "https://b.anything"),
        ("regex", "https://c.example", "https://d.example"),
        ("regex", "https://a.example", "https://a.example.org"),
        ("any", "https://whoever.example", ""),
        ("old", "https://a.example", "https://a.example.org"),
    ):
        answer = await plain(path, allowed)
        assert answer.header(_ORIGIN) in (allowed, "*"), path
        assert answer.header("access-control-allow-credentials") is None, path
        if refused:
            assert (await plain(path, refused)).header(_ORIGIN) is None, path

    ignored = await preflight("ignore", "https://b.example")
    assert (ignored.status, ignored.header("x-from-app")) == (200, None)
    assert ignored.header(_ORIGIN) is None
    for path in ("forward", "exact"):
        assert (await preflight(path, "https://b.example")).header("x-from-app"), path


_PLACES = """
pods:
  client: {labels: {istio-locality: r1.z1.s1}}
  reviews-v1: {app: reviews, version: v1, labels: {istio-locality: r1.z1.s1}}
  reviews-v2: {app: reviews, version: v2, labels: {istio-locality: r2.z1.s1}}
  reviews-v3: {app: reviews, version: v3, labels: {istio-locality: r3.z1.s1}}
objects:
- kind: DestinationRule
  metadata: {name: reviews}
  spec: {host: reviews, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 1000}}}
- kind: VirtualService
  metadata: {name: reviews}
  spec:
    hosts: [reviews]
    http:
    - match: [{uri: {prefix: /far}}]
      route: [{destination: {host: reviews}}]
      retries: {attempts: 2, retryOn: 5xx, retryRemoteLocalities: true}
    - route: [{destination: {host: reviews}}]
      retries: {attempts: 2, retryOn: 5xx}
"""


async def test_retries_go_to_other_localities_only_if_asked(stage: Stage) -> None:
    await stage.use(_PLACES)
    near = stage.pod("reviews-v1")
    assert (await stage.get("reviews:9080/far", x_sick=f"{near}=503")).status == 200
    assert (await stage.get("reviews:9080/near", x_sick=f"{near}=503")).status == 503


_RETRIES = """
services: {shaky: {ports: {http: 80 > 17001}, selector: {app: reviews}}}
objects:
- kind: DestinationRule
  metadata: {name: reviews}
  spec: {host: reviews, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
- kind: VirtualService
  metadata: {name: reviews}
  spec:
    hosts: [reviews]
    http:
    - match: [{uri: {prefix: /patient}}]
      route: [{destination: {host: reviews}}]
      retries: {attempts: 2, retryOn: 5xx, backoff: 0.3s}
    - match: [{uri: {prefix: /hasty}}]
      route: [{destination: {host: reviews}}]
      retries: {attempts: 2, retryOn: 5xx, backoff: 1ms}
    - match: [{uri: {prefix: /elsewhere}}]
      route: [{destination: {host: reviews}}]
      retries: {attempts: 1, retryOn: 5xx}
    - match: [{uri: {prefix: /anywhere}}]
      route: [{destination: {host: reviews}}]
      retries: {attempts: 1, retryOn: 5xx, retryIgnorePreviousHosts: false}
- kind: DestinationRule
  metadata: {name: shaky}
  spec: {host: shaky, trafficPolicy: {tls: {mode: DISABLE}}}
- kind: VirtualService
  metadata: {name: shaky}
  spec:
    hosts: [shaky]
    http:
    - match: [{uri: {prefix: /reset}}]
      route: [{destination: {host: shaky}}]
      retries: {attempts: 3, retryOn: "connect-failure,reset"}
    - route: [{destination: {host: shaky}}]
      retries: {attempts: 3, retryOn: connect-failure}
"""


async def test_retries_wait_and_choose_as_they_are_told(stage: Stage) -> None:
    await stage.use(_RETRIES)

    async def longest(path: str) -> float:
        async def one() -> float:
            began = time.monotonic()
            assert (await stage.get(f"reviews:9080/{path}", x_sick="0=503")).status == 503
            return time.monotonic() - began

        return max(await asyncio.gather(*(one() for _ in range(12))))

    # Pauses are random, up to the base and then up to three times as much.
    assert await longest("patient") > 0.3 > await longest("hasty")

    async def failures(path: str) -> int:
        sick = f"{stage.pod('reviews-v1')}=503"
        asked = (stage.get(f"reviews:9080/{path}", x_sick=sick) for _ in range(120))
        return sum(answer.status == 503 for answer in await asyncio.gather(*asked))

    # Chance chooses five times, and may have chosen the same each time.
    assert await failures("elsewhere") <= 2
    assert await failures("anywhere") >= 3

    async with stage.peer(17001, hang_up) as peer:
        assert (await stage.get("shaky:80/once")).status == 503
        assert len(peer.visits) == 1
        assert (await stage.get("shaky:80/reset")).status == 503
        assert len(peer.visits) == 1 + 4


_CALLS = """
objects:
- kind: VirtualService
  metadata: {name: greeter}
  spec:
    hosts: [greeter]
    http:
    - match: [{uri: {prefix: /timed}}]
      timeout: 0.4s
      route: [{destination: {host: greeter}}]
    - match: [{uri: {prefix: /shy}}]
      fault: {abort: {grpcStatus: RESOURCE_EXHAUSTED, percentage: {value: 100}}}
      route: [{destination: {host: greeter}}]
    - match: [{uri: {prefix: /counted}}]
      route: [{destination: {host: greeter}}]
- kind: VirtualService
  metadata: {name: reviews}
  spec:
    hosts: [reviews]
    http:
    - match: [{uri: {prefix: /one}, statPrefix: first}, {uri: {prefix: /two}, statPrefix: second}]
      route: [{destination: {host: reviews}}]
"""


async def test_calls_of_grpc_have_their_own_deadlines_and_faults(stage: Stage) -> None:
    await stage.use(_CALLS)

    async def call(path: str, *headers: tuple[str, str]) -> Http2Answer:
        streams = await stage.connect("greeter", 50051)
        kind = ("content-type", "application/grpc")
        return await http2(*streams, Request("greeter:50051", path, "POST", (kind, *headers)))

    async def timed(path: str, *headers: tuple[str, str]) -> tuple[float, str]:
        began = time.monotonic()
        answer = await call(path, ("x-envoy-fault-delay-request", "3000"), *headers)
        status = answer.trailers.get("grpc-status") or answer.headers["grpc-status"]
        return time.monotonic() - began, status

    spent, status = await timed("/counted/Slow", ("grpc-timeout", "300m"))
    assert status == "4", "deadline exceeded, without any timeout of a rule"
    assert 0.25 < spent < 2
    spent, status = await timed("/timed/Slow", ("grpc-timeout", "200m"))
    assert status == "14", "Envoy's word for a timeout of the router"
    assert 0.15 < spent < 2
    spent, status = await timed("/timed/Slow", ("grpc-timeout", "20S"))
    assert status == "14", "the rule bounds the deadline"
    assert 0.35 < spent < 2
    shy = await call("/shy/Call")
    assert (shy.status, shy.headers["grpc-status"]) == (200, "8")


async def test_a_route_has_statistics_of_its_own(stage: Stage) -> None:
    await stage.use(_CALLS)
    for path in ("one", "two", "two"):
        assert (await stage.get(f"reviews:9080/{path}")).status == 200
    found = await stage.stats("route\\.(first|second)\\.upstream_rq_2xx")
    assert sorted(found.values()) == [1, 2], found
    (first,) = [value for name, value in found.items() if "route.first" in name]
    assert first == 1


async def test_rules_match_the_claims_of_a_verified_token(stage: Stage) -> None:
    """The filter that verifies is put in by hand: RequestAuthentication is not part of this."""
    key = ECKey.generate_key("P-256", {"kid": "k"})
    stranger = ECKey.generate_key("P-256", {"kid": "k"})
    jwks = json.dumps({"keys": [key.as_dict(private=False)]})
    await stage.use({"objects": [_verifier(jwks), _CLAIMS]})

    async def asked(signer: ECKey, **claims: Any) -> int:
        header = {"alg": "ES256", "kid": "k"}
        token = jwt.encode(header, {"iss": "us", **claims}, signer)
        return (await stage.get("reviews:9080/", authorization=f"Bearer {token}")).status

    assert await asked(key, role="admin") == 201
    assert await asked(key, role=["guest", "admin"]) == 201, "one of a list"
    assert await asked(key, org={"unit": "blue-1"}) == 202
    assert await asked(key, org={"unit": "red"}) == 203
    assert await asked(key, exempt="x", org={"unit": "red"}) == 204
    assert await asked(stranger, role="admin") == 203, "a forged token has no claims"
    assert (await stage.get("reviews:9080/")).status == 203


_CLAIMS = {
    "kind": "VirtualService",
    "metadata": {"name": "reviews"},
    "spec": {
        "hosts": ["reviews"],
        "http": [
            {
                "match": [{"headers": {"@request.auth.claims.role": {"exact": "admin"}}}],
                "directResponse": {"status": 201},
            },
            {
                "match": [{"headers": {"@request.auth.claims[org][unit]": {"prefix": "blue"}}}],
                "directResponse": {"status": 202},
            },
            {
                "match": [{"withoutHeaders": {"@request.auth.claims.exempt": {}}}],
                "directResponse": {"status": 203},
            },
            {"directResponse": {"status": 204}},
        ],
    },
}


def _verifier(jwks: str) -> dict[str, Any]:
    provider = {
        "issuer": "us",
        "local_jwks": {"inline_string": jwks},
        "payload_in_metadata": "payload",
        "clear_route_cache": True,
    }
    either = {
        "requires_any": {"requirements": [{"provider_name": "us"}, {"allow_missing_or_failed": {}}]}
    }
    config = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"us": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": either}],
    }
    patch = {
        "applyTo": "HTTP_FILTER",
        "match": {"context": "SIDECAR_OUTBOUND"},
        "patch": {
            "operation": "INSERT_FIRST",
            "value": {"name": "envoy.filters.http.jwt_authn", "typed_config": config},
        },
    }
    return {
        "kind": "EnvoyFilter",
        "metadata": {"name": "verify"},
        "spec": {"configPatches": [patch]},
    }

"""Random VirtualServices and DestinationRules over the whole API, for property tests.

The objects are about the mesh of `tests/sim/given/shop.yaml`. `tame` ones are what a careful
person writes; the others also hold odd texts and numbers, which validation is to sort out.
"""

from typing import Any, TypeVar

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Json = dict[str, Any]
Texts = SearchStrategy[str]
T = TypeVar("T")

HOSTS = ("reviews", "ratings", "db", "greeter", "odd", "stock.other.svc.cluster.local")
SUBSETS = ("v1", "v2", "v3")
GATEWAY = "front"
NAMES = ("x-a", "x-b", "end-user", "cookie")
PATHS = ("/", "/a", "/a/b", "/A", "/api/v1")
REGEXES = ("/a.*", "/[a-z]+/b", "x|y", ".*", "(?i)jason", r"/api/v\d+")
LOCALITIES = ("r1/z1/s1", "r1/z1/s2", "r1/z2/s1", "r2/z1/s1")


def optional(**fields: SearchStrategy[Any]) -> SearchStrategy[Json]:
    """A message that has some of the fields."""
    return message({}, **fields)


@st.composite
def message(draw: st.DrawFn, required: Json, /, **fields: SearchStrategy[Any]) -> Json:
    found = {name: draw(value) for name, value in required.items()}
    wanted = draw(st.sets(st.sampled_from(sorted(fields)))) if fields else ()
    return found | {name: draw(fields[name]) for name in sorted(wanted)}


def few(items: SearchStrategy[Any], *, least: int = 0, most: int = 3) -> SearchStrategy[list[Any]]:
    return st.lists(items, min_size=least, max_size=most)


class Shapes:
    """Strategies for every message of the two kinds."""

    def __init__(self, *, tame: bool) -> None:
        self.tame = tame

    def word(self, *known: str) -> Texts:
        """One of these; when untamed, now and then anything."""
        return self._mostly(st.sampled_from(known), st.text(max_size=6))

    def number(self, least: int, most: int) -> SearchStrategy[int]:
        odd = st.sampled_from((-1, 0, 1, 2**31 - 1, 2**31, 2**40))
        return self._mostly(st.integers(least, most), odd)

    def _mostly(self, sure: SearchStrategy[T], odd: SearchStrategy[T]) -> SearchStrategy[T]:
        """Seldom enough that many objects are odd in one place only."""
        return sure if self.tame else st.one_of(*(sure,) * 24, odd)

    def duration(self) -> Texts:
        usual = st.sampled_from(("1ms", "10ms", "0.1s", "1s", "1m", "2h"))
        return self._mostly(usual, st.sampled_from(("0s", "0.0005s", "90000h", "-1s")))

    def percent(self) -> SearchStrategy[Json]:
        sure = st.one_of(st.sampled_from((0, 0.001, 50, 100)), st.floats(0, 100))
        value = self._mostly(sure, st.sampled_from((-1.0, 100.5)))
        return st.fixed_dictionaries({"value": value})

    def headers(self, values: SearchStrategy[Any]) -> SearchStrategy[Json]:
        return st.dictionaries(self.word(*NAMES), values, max_size=2)

    def string_match(self, exact: Texts, *, present: bool = False) -> SearchStrategy[Json]:
        ways = [
            st.fixed_dictionaries({"exact": exact}),
            st.fixed_dictionaries({"prefix": exact}),
            st.fixed_dictionaries({"regex": self.word(*REGEXES)}),
        ]
        return st.one_of(*ways, st.just({})) if present else st.one_of(*ways)

    def destination(self) -> SearchStrategy[Json]:
        return message(
            {"host": self.word(*HOSTS)},
            subset=self.word(*SUBSETS, "unknown"),
            port=st.fixed_dictionaries({"number": self.number(1, 65535)})
            if not self.tame
            else st.sampled_from(({"number": 9080}, {"number": 5432})),
        )


class Routes(Shapes):
    """VirtualService."""

    def spec(self) -> SearchStrategy[Json]:
        hosts = st.lists(
            self.word(*HOSTS, "a.example", "*.example"), min_size=1, max_size=2, unique=True
        )
        gateways = st.sampled_from((["mesh"], [GATEWAY], ["mesh", GATEWAY]))
        return message(
            {"hosts": hosts},
            gateways=gateways,
            http=few(self.http(), least=1, most=4),
            tls=few(self.tls(), most=2),
            tcp=few(self.tcp(), most=2),
            exportTo=st.sampled_from((["*"], ["."], ["other"], ["~"])),
        )

    def http(self) -> SearchStrategy[Json]:
        shared = {
            "match": few(self.match(), most=2),
            "name": self.word("first", "second"),
            "corsPolicy": self.cors(),
            "headers": self.edits(),
        }
        forward = message(
            {"route": self.weighted()},
            **shared,
            rewrite=self.rewrite(),
            timeout=self.duration(),
            retries=self.retries(),
            fault=self.fault(),
            mirror=self.destination(),
            mirrorPercentage=self.percent(),
        )
        mirrored = message(
            {"route": self.weighted()},
            mirrors=few(message({"destination": self.destination()}, percentage=self.percent())),
            mirrorPercent=self.number(0, 100),
        )
        redirect = message({"redirect": self.redirect()}, **shared)
        direct = message({"directResponse": self.direct()}, **shared)
        return st.one_of(forward, forward, forward, mirrored, redirect, direct)

    def match(self) -> SearchStrategy[Json]:
        text = self.word("x", "jason", "http", "GET", "reviews")
        conditions = st.dictionaries(
            self.word(*NAMES, "@request.auth.claims.group"),
            self.string_match(text, present=True),
            max_size=2,
        )
        return optional(
            name=self.word("m1"),
            uri=self.string_match(self.word(*PATHS)),
            scheme=self.string_match(self.word("http", "https")),
            method=self.string_match(self.word("GET", "POST")),
            authority=self.string_match(self.word("reviews", "a.example")),
            headers=conditions,
            withoutHeaders=conditions,
            queryParams=st.dictionaries(
                self.word("q", "p"), self.string_match(text, present=True), max_size=2
            ),
            ignoreUriCase=st.booleans(),
            port=self.number(1, 65535) if not self.tame else st.sampled_from((9080, 50051)),
            sourceLabels=st.sampled_from(({}, {"app": "client"}, {"app": "other"})),
            sourceNamespace=st.sampled_from(("default", "other")),
            gateways=st.sampled_from((["mesh"], [GATEWAY])),
            statPrefix=self.word("stat"),
        )

    def weighted(self) -> SearchStrategy[list[Json]]:
        one = message({"destination": self.destination()}, headers=self.edits())
        part = message(
            {"destination": self.destination(), "weight": self.number(1, 100)},
            headers=self.edits(),
        )
        return st.one_of(few(one, least=1, most=1), few(part, least=2, most=3))

    def edits(self) -> SearchStrategy[Json]:
        value = self.word("1", "two words", "%ROUTE_NAME%", "100%%", "%REQ(x-a)%")
        operations = optional(
            set=st.dictionaries(self.word("x-set", "host"), value, max_size=1),
            add=self.headers(value),
            remove=few(self.word(*NAMES), most=2),
        )
        answers = optional(set=self.headers(value), add=self.headers(value))
        return optional(request=operations, response=answers)

    def rewrite(self) -> SearchStrategy[Json]:
        regex = st.fixed_dictionaries(
            {"match": self.word("^/a/(.*)$", "b"), "rewrite": self.word(r"/x", r"\0", "/y")}
        )
        return st.one_of(
            message({"uri": self.word("/new", "/")}, authority=self.word("other.example")),
            message({"uriRegexRewrite": regex}, authority=self.word("other.example")),
            st.fixed_dictionaries({"authority": self.word("other.example")}),
        )

    def retries(self) -> SearchStrategy[Json]:
        some = message(
            {"attempts": self.number(1, 5)},
            perTryTimeout=self.duration(),
            retryOn=self.word("5xx", "gateway-error,503", "connect-failure,reset", "429", ""),
            retryRemoteLocalities=st.booleans(),
            retryIgnorePreviousHosts=st.booleans(),
            backoff=self.duration(),
        )
        return st.one_of(some, st.just({"attempts": 0}))

    def fault(self) -> SearchStrategy[Json]:
        delay = message(
            {"fixedDelay": self.duration()}, percentage=self.percent(), percent=self.number(0, 100)
        )
        code = st.one_of(
            st.fixed_dictionaries({"httpStatus": self.number(200, 599)}),
            st.fixed_dictionaries({"grpcStatus": self.word("UNAVAILABLE", "NOT_FOUND")}),
        )
        abort = st.tuples(code, optional(percentage=self.percent())).map(lambda p: p[0] | p[1])
        return st.one_of(
            st.fixed_dictionaries({"delay": delay}),
            st.fixed_dictionaries({"abort": abort}),
            st.fixed_dictionaries({"delay": delay, "abort": abort}),
        )

    def cors(self) -> SearchStrategy[Json]:
        origin = self.string_match(self.word("https://a.example", "*"))
        return optional(
            allowOrigins=few(origin, most=2),
            allowMethods=few(self.word("GET", "POST", "*"), most=2),
            allowHeaders=few(self.word(*NAMES), most=2),
            exposeHeaders=few(self.word(*NAMES), most=2),
            maxAge=self.word("24h", "1s"),
            allowCredentials=st.booleans(),
            unmatchedPreflights=self.word("FORWARD", "IGNORE"),
        )

    def redirect(self) -> SearchStrategy[Json]:
        port = st.one_of(
            st.just({}),
            st.fixed_dictionaries({"port": self.number(1, 65535)}),
            st.fixed_dictionaries(
                {"derivePort": self.word("FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT")}
            ),
        )
        rest = optional(
            uri=self.word("/new", "%PREFIX()%/new"),
            authority=self.word("other.example"),
            scheme=self.word("http", "https"),
            redirectCode=st.sampled_from((301, 302, 303, 307, 308)),
        )
        return st.tuples(port, rest).map(lambda pair: pair[0] | pair[1])

    def direct(self) -> SearchStrategy[Json]:
        body = st.one_of(
            st.fixed_dictionaries({"string": st.text(max_size=20)}),
            st.fixed_dictionaries({"bytes": self.word("aGVsbG8=", "")}),
        )
        return message({"status": self.number(200, 599)}, body=body)

    def l4_match(self) -> dict[str, SearchStrategy[Any]]:
        return {
            "destinationSubnets": few(self.word("10.43.0.0/16", "10.43.0.3"), most=2),
            "port": self.number(1, 65535) if not self.tame else st.sampled_from((5432, 8443)),
            "sourceLabels": st.sampled_from(({}, {"app": "client"})),
            "sourceNamespace": st.sampled_from(("default", "other")),
            "gateways": st.sampled_from((["mesh"], [GATEWAY])),
        }

    def l4_route(self) -> SearchStrategy[list[Json]]:
        one = st.fixed_dictionaries({"destination": self.destination()})
        part = st.fixed_dictionaries(
            {"destination": self.destination(), "weight": self.number(1, 100)}
        )
        return st.one_of(few(one, least=1, most=1), few(part, least=2, most=3))

    def tls(self) -> SearchStrategy[Json]:
        names = st.lists(self.word("a.example", "b.example", "*.example"), min_size=1, max_size=2)
        match = message({"sniHosts": names}, **self.l4_match())
        return st.fixed_dictionaries({"match": few(match, least=1), "route": self.l4_route()})

    def tcp(self) -> SearchStrategy[Json]:
        return message({"route": self.l4_route()}, match=few(optional(**self.l4_match()), most=2))


class Rules(Shapes):
    """DestinationRule."""

    def spec(self) -> SearchStrategy[Json]:
        subset = message(
            {"name": self.word(*SUBSETS)},
            labels=st.sampled_from(({}, {"version": "v1"}, {"version": "v2"})),
            trafficPolicy=self.policy(),
        )
        return message(
            {"host": self.word(*HOSTS, "*.svc.cluster.local")},
            trafficPolicy=self.policy(),
            subsets=st.lists(subset, max_size=3, unique_by=lambda s: s["name"]),
            exportTo=st.sampled_from((["*"], ["."], ["other"])),
            workloadSelector=st.sampled_from(
                ({"matchLabels": {"app": "client"}}, {"matchLabels": {"app": "other"}})
            ),
        )

    def policy(self) -> SearchStrategy[Json]:
        blocks = self.blocks()
        port = message({"port": st.sampled_from(({"number": 9080}, {"number": 5432}))}, **blocks)
        return message(
            {},
            **blocks,
            portLevelSettings=st.lists(port, max_size=2, unique_by=lambda p: p["port"]["number"]),
            tunnel=message(
                {"targetHost": self.word("far.example"), "targetPort": self.number(1, 65535)},
                protocol=self.word("CONNECT", "POST"),
            ),
            proxyProtocol=st.fixed_dictionaries({"version": self.word("V1", "V2")}),
            retryBudget=optional(
                percent=self.percent(),
                minRetryConcurrency=self.number(0, 10),
                budgetInterval=self.duration(),
            ),
        )

    def blocks(self) -> dict[str, SearchStrategy[Any]]:
        return {
            "loadBalancer": self.balancer(),
            "connectionPool": self.pool(),
            "outlierDetection": self.outlier(),
            "tls": self.tls(),
        }

    def balancer(self) -> SearchStrategy[Json]:
        warm = st.one_of(
            st.just({}),
            st.fixed_dictionaries({"warmupDurationSecs": self.duration()}),
            st.fixed_dictionaries(
                {
                    "warmup": message(
                        {"duration": self.duration()},
                        minimumPercent=self.number(0, 100),
                        aggression=st.floats(1, 10),
                    )
                }
            ),
        )
        how = st.one_of(
            st.fixed_dictionaries(
                {
                    "simple": self.word(
                        "LEAST_REQUEST", "ROUND_ROBIN", "RANDOM", "PASSTHROUGH", "LEAST_CONN"
                    )
                }
            ),
            st.fixed_dictionaries({"consistentHash": self.consistent_hash()}),
        )
        place = optional(localityLbSetting=self.locality())
        return st.tuples(how, warm, place).map(lambda parts: parts[0] | parts[1] | parts[2])

    def consistent_hash(self) -> SearchStrategy[Json]:
        cookie = message(
            {"name": self.word("user")},
            path=self.word("/"),
            ttl=self.duration(),
            attributes=few(
                st.fixed_dictionaries(
                    {"name": self.word("SameSite", "Secure"), "value": self.word("Lax", "")}
                ),
                most=2,
            ),
        )
        key = st.one_of(
            st.fixed_dictionaries({"httpHeaderName": self.word(*NAMES)}),
            st.fixed_dictionaries({"httpCookie": cookie}),
            st.just({"useSourceIp": True}),
            st.fixed_dictionaries({"httpQueryParameterName": self.word("user")}),
        )
        size = st.one_of(
            st.just({}),
            st.fixed_dictionaries({"ringHash": optional(minimumRingSize=self.number(1, 4096))}),
            st.fixed_dictionaries(
                {"maglev": optional(tableSize=st.sampled_from((0, 2, 101, 65537, 65536)))}
            ),
            st.fixed_dictionaries({"minimumRingSize": self.number(1, 4096)}),
        )
        return st.tuples(key, size).map(lambda pair: pair[0] | pair[1])

    def locality(self) -> SearchStrategy[Json]:
        place = st.sampled_from((*LOCALITIES, "r1/*", "*"))
        distribute = st.fixed_dictionaries(
            {
                "from": place,
                "to": st.sampled_from(({"r1/z1/*": 80, "r2/z1/s1": 20}, {"r1/*": 100}, {"*": 50})),
            }
        )
        failover = st.fixed_dictionaries({"from": st.just("r1"), "to": self.word("r2")})
        label = self.word("topology.kubernetes.io/region", "version=v1", "app")
        return st.one_of(
            st.fixed_dictionaries({"distribute": few(distribute, least=1, most=2)}),
            st.fixed_dictionaries({"failover": few(failover, least=1, most=1)}),
            st.fixed_dictionaries({"failoverPriority": st.lists(label, max_size=2, unique=True)}),
            st.fixed_dictionaries({"enabled": st.booleans()}),
        )

    def pool(self) -> SearchStrategy[Json]:
        tcp = optional(
            maxConnections=self.number(0, 1000),
            connectTimeout=self.duration(),
            tcpKeepalive=optional(
                probes=self.number(1, 9), time=self.duration(), interval=self.duration()
            ),
            maxConnectionDuration=self.duration(),
            idleTimeout=self.duration(),
        )
        http = optional(
            http1MaxPendingRequests=self.number(0, 1000),
            http2MaxRequests=self.number(0, 1000),
            maxRequestsPerConnection=self.number(0, 1000),
            maxRetries=self.number(0, 1000),
            idleTimeout=self.duration(),
            h2UpgradePolicy=self.word("DEFAULT", "UPGRADE", "DO_NOT_UPGRADE"),
            useClientProtocol=st.booleans(),
            maxConcurrentStreams=self.number(0, 1000),
            http2KeepAlive=optional(interval=self.duration(), timeout=self.duration()),
        )
        return st.one_of(
            st.fixed_dictionaries({"tcp": tcp}),
            st.fixed_dictionaries({"http": http}),
            st.fixed_dictionaries({"tcp": tcp, "http": http}),
        )

    def outlier(self) -> SearchStrategy[Json]:
        return optional(
            consecutiveErrors=self.number(0, 10),
            splitExternalLocalOriginErrors=st.booleans(),
            consecutiveLocalOriginFailures=self.number(0, 10),
            consecutiveGatewayErrors=self.number(0, 10),
            consecutive5xxErrors=self.number(0, 10),
            interval=self.duration(),
            baseEjectionTime=self.duration(),
            maxEjectionPercent=self.number(0, 100),
            minHealthPercent=self.number(0, 100),
            outlierDetectionHttpErrorCodes=few(self.number(400, 599), most=2),
        )

    def tls(self) -> SearchStrategy[Json]:
        names = few(self.word("far.example", "spiffe://x/y"), most=2)
        checks = optional(
            sni=self.word("far.example"), subjectAltNames=names, insecureSkipVerify=st.booleans()
        )
        mode = st.one_of(
            st.just({"mode": "DISABLE"}),
            st.just({"mode": "ISTIO_MUTUAL"}),
            st.just({"mode": "SIMPLE"}),
        )
        return st.tuples(mode, checks).map(lambda pair: pair[0] | pair[1])


@st.composite
def virtual_services(draw: st.DrawFn, *, tame: bool, name: str = "routes") -> Json:
    spec = draw(Routes(tame=tame).spec())
    assume(spec.keys() & {"http", "tls", "tcp"})
    return _object("VirtualService", name, spec)


@st.composite
def destination_rules(draw: st.DrawFn, *, tame: bool, name: str = "rules") -> Json:
    return _object("DestinationRule", name, draw(Rules(tame=tame).spec()))


def _object(kind: str, name: str, spec: Json) -> Json:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }

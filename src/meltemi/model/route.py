"""Route tables: what VirtualService (and later HTTPRoute and legacy objects) mean, in one shape.

Host names are full, durations timedeltas, percentages 0 to 100. Rules keep the order written.
"""

import datetime
from collections.abc import Mapping

import msgspec

from meltemi.base.keys import ObjectKey

MESH = "mesh"
"""The reserved gateway that means: every sidecar."""


class Exact(msgspec.Struct, frozen=True, tag="exact"):
    value: str


class Prefix(msgspec.Struct, frozen=True, tag="prefix"):
    value: str
    """A plain string prefix: `/foo` matches `/foobar`."""


class Regex(msgspec.Struct, frozen=True, tag="regex"):
    value: str
    """RE2, whole value."""


class Present(msgspec.Struct, frozen=True, tag="present"):
    """Any value, as long as there is one."""


Matcher = Exact | Prefix | Regex | Present


class NamedMatch(msgspec.Struct, frozen=True):
    """A header or query parameter; `absent` inverts it (withoutHeaders)."""

    name: str
    matcher: Matcher
    absent: bool = False


class ClaimMatch(msgspec.Struct, frozen=True):
    """A claim of the request's verified JWT: a string, or a list that has the string."""

    path: tuple[str, ...]
    matcher: Matcher
    absent: bool = False


class HttpMatch(msgspec.Struct, frozen=True):
    """All set conditions must hold. Those of the second half the compiler decides itself."""

    name: str = ""
    path: Matcher | None = None
    ignore_case: bool = False
    scheme: Matcher | None = None
    method: Matcher | None = None
    authority: Matcher | None = None
    headers: tuple[NamedMatch, ...] = ()
    claims: tuple[ClaimMatch, ...] = ()
    query: tuple[NamedMatch, ...] = ()
    stat_prefix: str = ""
    port: int | None = None
    source_labels: Mapping[str, str] = {}
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()
    """`mesh` or `namespace/name`; empty: the table's. Set, source conditions are not tested."""
    field: str = ""
    """Where the match stands; empty: `match[i]` of its rule."""


class HeaderEdits(msgspec.Struct, frozen=True):
    request_set: tuple[tuple[str, str], ...] = ()
    request_add: tuple[tuple[str, str], ...] = ()
    request_remove: tuple[str, ...] = ()
    response_set: tuple[tuple[str, str], ...] = ()
    response_add: tuple[tuple[str, str], ...] = ()
    response_remove: tuple[str, ...] = ()


class Target(msgspec.Struct, frozen=True):
    host: str
    subset: str
    port: int | None
    """None: the service's only port, or the listener's."""
    path: str
    """The field that names it: `spec.http[0].route[1].destination`."""


class Weighted(msgspec.Struct, frozen=True):
    target: Target
    weight: int
    """Relative; the compiler normalises. One destination alone gets everything."""
    headers: HeaderEdits = HeaderEdits()


class Forward(msgspec.Struct, frozen=True, tag="forward"):
    destinations: tuple[Weighted, ...]
    """At least one; zero weights are already gone."""


class Redirect(msgspec.Struct, frozen=True, tag="redirect"):
    path: str = ""
    prefix: bool = False
    """`path` replaces the matched prefix only."""
    authority: str = ""
    port: int | None = None
    port_from_request: bool = False
    scheme: str = ""
    code: int = 301


class DirectResponse(msgspec.Struct, frozen=True, tag="direct"):
    status: int
    body: bytes = b""


Action = Forward | Redirect | DirectResponse


class Rewrite(msgspec.Struct, frozen=True):
    path: str = ""
    authority: str = ""
    regex: tuple[str, str] | None = None
    """(pattern, substitution)."""
    whole: bool = False
    """`path` replaces the whole path, not just the matched prefix: the compiler sets it."""


class Retry(msgspec.Struct, frozen=True):
    """Retries of one rule; attempts 0: none."""

    attempts: int = 2
    """How often to try again after the first time."""
    per_try: datetime.timedelta | None = None
    on: tuple[str, ...] = (
        "connect-failure",
        "refused-stream",
        "unavailable",
        "cancelled",
        "retriable-status-codes",
    )
    """`retriable-status-codes` are those of `statuses`: by default none."""
    statuses: tuple[int, ...] = ()
    remote_localities: bool = False
    ignore_previous_hosts: bool = True
    backoff: datetime.timedelta | None = None


DEFAULT_RETRY = Retry()


class Delay(msgspec.Struct, frozen=True):
    duration: datetime.timedelta
    percent: float


class Abort(msgspec.Struct, frozen=True):
    status: int | None
    grpc_status: str | None
    percent: float


class Fault(msgspec.Struct, frozen=True):
    delay: Delay | None = None
    abort: Abort | None = None


class Mirror(msgspec.Struct, frozen=True):
    target: Target
    percent: float


class Cors(msgspec.Struct, frozen=True):
    origins: tuple[Matcher, ...] = ()
    methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: datetime.timedelta | None = None
    credentials: bool | None = None
    forward_unmatched: bool = True


class HttpRule(msgspec.Struct, frozen=True):
    name: str
    source: ObjectKey
    """The object the rule stands in: the table's, a delegate, or an Ingress."""
    path: str
    """Where it stands there: `spec.http[2]`."""
    matches: tuple[HttpMatch, ...]
    """Any of them; empty: everything."""
    action: Action
    rewrite: Rewrite | None = None
    timeout: datetime.timedelta | None = None
    """None: no limit."""
    retry: Retry | None = None
    """None: as the mesh does by default."""
    fault: Fault | None = None
    mirrors: tuple[Mirror, ...] = ()
    cors: Cors | None = None
    headers: HeaderEdits = HeaderEdits()


class L4Match(msgspec.Struct, frozen=True):
    sni_hosts: tuple[str, ...] = ()
    destination_subnets: tuple[str, ...] = ()
    port: int | None = None
    source_labels: Mapping[str, str] = {}
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()


class L4Rule(msgspec.Struct, frozen=True):
    path: str
    matches: tuple[L4Match, ...]
    destinations: tuple[Weighted, ...]


class RouteTable(msgspec.Struct, frozen=True):
    source: ObjectKey
    hosts: tuple[str, ...]
    """Full names; `*` or a left-most wildcard too. Empty: only other tables use it."""
    gateways: tuple[str, ...]
    """`mesh` or `namespace/name`; never empty."""
    export_to: tuple[str, ...]
    created: tuple[str, str, str]
    http: tuple[HttpRule, ...]
    tls: tuple[L4Rule, ...] = ()
    tcp: tuple[L4Rule, ...] = ()

    @property
    def namespace(self) -> str:
        return self.source.namespace

    @property
    def named_gateways(self) -> frozenset[str]:
        """The gateways it is for, those of single matches too."""
        named = (
            gateway
            for rules in (self.http, self.tls, self.tcp)
            for rule in rules
            for match in rule.matches
            for gateway in match.gateways
        )
        return frozenset((*self.gateways, *named))

    def speaks(self, layer: str) -> bool:
        """Whether it has rules for `http`, `tls` or `tcp`."""
        return bool({"http": self.http, "tls": self.tls, "tcp": self.tcp}[layer])

"""What a simulation answers: the way of a request, step by step, each with its reason.

Stable: `meltemi explain -o json` prints it, and scripts read it. Shares are fractions of one.
"""

import datetime

import msgspec

from meltemi.simulate.request import Connection, Pairs, Request


class Because(msgspec.Struct, frozen=True, rename="camel"):
    """The object, and the field of it, that made a step what it is."""

    kind: str
    namespace: str
    name: str
    path: str = ""
    """`spec.http[0].match[1]`; empty: the object as a whole."""
    file: str = ""
    line: int = 0
    """Where the field stands, when the object was read from a file."""


class PassedOver(msgspec.Struct, frozen=True, rename="camel"):
    """What came earlier in order and did not apply."""

    name: str
    reason: str
    because: tuple[Because, ...] = ()


class Choice(msgspec.Struct, frozen=True, rename="camel"):
    """One decision: what was chosen, why, and what was not."""

    name: str
    reason: str
    because: tuple[Because, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()


class Resolved(msgspec.Struct, frozen=True, rename="camel"):
    """Where a name leads before any proxy is asked."""

    host: str
    address: str
    port: int
    reason: str
    because: tuple[Because, ...] = ()


class Policy(msgspec.Struct, frozen=True, rename="camel"):
    """Something in force on the way: a timeout, retries, a pool, mutual TLS."""

    name: str
    value: str
    because: tuple[Because, ...] = ()


class Response(msgspec.Struct, frozen=True, rename="camel"):
    """An answer that a proxy gives by itself."""

    status: int
    """0: the connection is closed without one."""
    reason: str
    flags: str = ""
    """Envoy's response flags in access logs: `NR`, `NC`, `UH`, `FI`."""
    headers: Pairs = ()
    body: str = ""
    because: tuple[Because, ...] = ()


class Arrival(msgspec.Struct, frozen=True, rename="camel"):
    """What the destination's own proxy does with the connection."""

    proxy: str
    chain: Choice | None
    security: Policy
    refused: str = ""
    """Why it is refused; empty: it reaches the application."""
    port: int = 0
    """The application's."""
    path: str = ""
    """As the application sees it, where this proxy puts it in normal form first."""


class Place(msgspec.Struct, frozen=True, rename="camel"):
    """One endpoint a request may reach."""

    address: str
    port: int
    share: float
    """Of the requests that come to its cluster."""
    workload: str = ""
    locality: str = ""
    priority: int = 0
    security: str = "plain"
    """`mutual`, `plain`, or `tls` that the proxy originates."""
    sni: str = ""
    arrival: Arrival | None = None
    """None: the endpoint has no proxy."""


class Branch(msgspec.Struct, frozen=True, rename="camel"):
    """One way a request may go on from a route or a TCP chain."""

    share: float
    cluster: Choice
    request: Request | None
    """As it is sent on; None: bytes."""
    places: tuple[Place, ...] = ()
    standby: tuple[Place, ...] = ()
    """Endpoints of lower priority, used when those before are gone."""
    failure: Response | None = None
    policies: tuple[Policy, ...] = ()


class Route(msgspec.Struct, frozen=True, rename="camel"):
    """The route that takes a request, and what it does besides choosing destinations."""

    choice: Choice
    name: str
    """In Envoy; empty: it has none."""
    configuration: str
    host: Choice
    policies: tuple[Policy, ...] = ()
    timeout: datetime.timedelta | None = None
    response_set: Pairs = ()
    response_add: Pairs = ()
    response_remove: tuple[str, ...] = ()


class Fault(msgspec.Struct, frozen=True, rename="camel"):
    """An answer that some requests get instead of any other, a preflight's too."""

    share: float
    response: Response


class Trace(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The whole way of one request or connection."""

    proxy: str
    """The client's sidecar, or the gateway; empty: the client has none."""
    request: Request | None
    connection: Connection
    resolved: Resolved
    listener: Choice | None = None
    chain: Choice | None = None
    route: Route | None = None
    faults: tuple[Fault, ...] = ()
    delay: tuple[float, datetime.timedelta] | None = None
    """(share, how long) before anything else."""
    response: Response | None = None
    """The proxy answers itself; there are no branches then."""
    branches: tuple[Branch, ...] = ()
    mirrors: tuple[Branch, ...] = ()
    """Copies whose answers are ignored; shares of all requests."""
    warning: str = ""
    """What goes through and is hardly meant: client and port do not speak alike."""
    overlooked: tuple[PassedOver, ...] = ()
    """Objects that speak of the host asked for and have no say, each with the reason."""

"""The question as people and tests put it: from where, to which URL, with which headers."""

from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from meltemi.compile.plan.inbound import selects
from meltemi.model.addresses import canonical
from meltemi.model.build import SERVICE_BY_NAMESPACE
from meltemi.model.workload import Workload
from meltemi.simulate.request import Connection, Pairs, Request, Speaks
from meltemi.simulate.resolving import resolve
from meltemi.simulate.run import direct, through
from meltemi.simulate.trace import Because, Resolved, Trace
from meltemi.simulate.world import UnknownWorkload, World

_PORTS = {"http": 80, "https": 443, "tls": 443, "grpc": 80}


class BadQuestion(ValueError):
    """A URL or an origin cannot be used; the text says why."""


class Question(msgspec.Struct, frozen=True):
    """One request, and who sends it."""

    url: str
    """http, https, grpc, tls or tcp; `https` from a pod is TLS that the client itself speaks."""
    origin: str
    """`POD`, `POD.NS`, `deploy/NAME[.NS]`; `gateway/NAME[.NS]`: a stranger at that gateway, or
    just `gateway` where there is one."""
    method: str = "GET"
    headers: Pairs = ()
    sni: str = ""
    """Instead of the URL's host."""
    alpn: tuple[str, ...] = ()
    outside: Mapping[str, str] = {}
    """Addresses of names that the mesh does not know."""


def ask(world: World, question: Question) -> Trace:
    """What becomes of a request. Raises BadQuestion."""
    url = urlsplit(question.url)
    if url.scheme not in ("http", "https", "grpc", "tls", "tcp") or not url.hostname:
        raise BadQuestion(
            f"{question.url!r}: expected http://, https://, grpc://, tls:// or tcp:// and a host"
        )
    try:
        port = url.port or _PORTS.get(url.scheme, 0)
    except ValueError as error:
        raise BadQuestion(f"{question.url!r}: {error}") from error
    if not port:
        raise BadQuestion(f"{question.url!r}: name the port")
    workload, at_gateway = _origin(world, question.origin)
    plan = world.plan(workload)
    host = canonical(url.hostname)
    encrypted = url.scheme in ("https", "tls")
    request = _request(question, port)
    if at_gateway:
        if plan is None or not workload.is_gateway:
            raise BadQuestion(f"{workload.key} is not a gateway")
        resolved = _at_gateway(world, workload, host, port)
    else:
        resolved = resolve(world, host, port, workload.key.namespace, question.outside)
    connection = Connection(
        address=resolved.address,
        port=resolved.port,
        speaks=Speaks.TLS if encrypted else _SPEAKS.get(url.scheme, Speaks.OTHER),
        sni=(question.sni or host) if encrypted else "",
        alpn=question.alpn or (("h2", "http/1.1") if url.scheme == "https" else ()),
        source="" if at_gateway else _source(workload, resolved.address),
    )
    if plan is None:
        return direct(world, connection, resolved, request)
    if not at_gateway and encrypted:
        return through(world, plan, connection, resolved, None)
    return through(world, plan, connection, resolved, request)


def _origin(world: World, origin: str) -> tuple[Workload, bool]:
    """Who is meant, and whether a stranger in front of it asks. Raises BadQuestion."""
    kind, slash, name = origin.rpartition("/")
    name, _, namespace = name.partition(".")
    if origin == "gateway":
        return _only_gateway(world), True
    at_gateway = bool(slash) and kind == "gateway"
    try:
        space = namespace or (world.root if at_gateway else "default")
        return world.workload(name, space), at_gateway
    except UnknownWorkload as error:
        raise BadQuestion(str(error)) from error


def _only_gateway(world: World) -> Workload:
    """The gateway that is meant where none is named; the pods of one are as good as each other."""
    found = {(w.name, w.key.namespace): w for w in world.model.workloads.values() if w.is_gateway}
    if len(found) == 1:
        return next(iter(found.values()))
    known = ", ".join(f"gateway/{name}.{space}" for name, space in sorted(found))
    raise BadQuestion(f"which gateway? {known}" if known else "the mesh has no gateway")


def _at_gateway(world: World, gateway: Workload, host: str, port: int) -> Resolved:
    """A stranger meets a gateway at a port of its Service, which leads to one of the pod."""
    for service in world.model.services.by(SERVICE_BY_NAMESPACE, gateway.key.namespace):
        declared = service.port(port)
        if declared is not None and selects(service, gateway):
            number = gateway.port_behind(declared) or port
            reason = f"port {port} of {service.source} leads to port {number} of {gateway.key}"
            because = (Because(*service.source, "spec.ports"),)
            return Resolved(host, gateway.address, number, reason, because)
    return Resolved(host, gateway.address, port, f"the gateway {gateway.key}")


def _source(client: Workload, destination: str) -> str:
    """The client's address of the family it connects in."""
    is_six = ":" in destination
    own = (client.address, *client.also)
    return next((a for a in own if (":" in a) == is_six), client.address)


_SPEAKS = {"http": Speaks.HTTP1, "grpc": Speaks.HTTP2}


def _request(question: Question, port: int) -> Request | None:
    """The HTTP request; None where bytes are sent."""
    url = urlsplit(question.url)
    if url.scheme in ("tcp", "tls"):
        return None
    headers = tuple((name.lower(), value) for name, value in question.headers)
    authority = next((v for n, v in headers if n == "host"), url.netloc.rpartition("@")[2])
    scheme = "https" if url.scheme == "https" else "http"
    path = question.url.partition("://")[2]
    path = path[len(url.netloc) :] or "/"
    rest = tuple(pair for pair in headers if pair[0] != "host")
    method = question.method
    if url.scheme == "grpc":
        method = "POST"
        rest = (("content-type", "application/grpc"), *rest)
    return Request(authority, path if path.startswith("/") else f"/{path}", method, rest, scheme)

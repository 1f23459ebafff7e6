"""Walks one request through a proxy, and on to where it ends."""

import datetime
from collections.abc import Callable, Sequence

import msgspec

from meltemi.base.keys import ServicePortKey
from meltemi.compile import ir, names
from meltemi.model.route import DirectResponse, Redirect
from meltemi.simulate import connections, failing, interference, paths, rewriting
from meltemi.simulate.arrival import arrive
from meltemi.simulate.balancing import balanced
from meltemi.simulate.hosts import port_of, without_port
from meltemi.simulate.policies import cluster_policies, origins, route_policies
from meltemi.simulate.request import Connection, Request, Speaks
from meltemi.simulate.resolving import address_of
from meltemi.simulate.routing import Routed, because, route_of
from meltemi.simulate.trace import (
    Branch,
    Choice,
    Place,
    Resolved,
    Response,
    Route,
    Trace,
)
from meltemi.simulate.world import World

_ORIGINAL = frozenset({names.PASSTHROUGH, names.INBOUND_PASSTHROUGH})
_Sent = Callable[[ir.WeightedCluster], Request | None]


def through(
    world: World,
    plan: ir.ProxyPlan,
    connection: Connection,
    resolved: Resolved,
    request: Request | None,
) -> Trace:
    """The way of a connection that meets a proxy: a client's sidecar, or a gateway."""
    trace = Trace(
        proxy=f"{plan.node.name}.{plan.node.namespace}",
        request=request,
        connection=connection,
        resolved=resolved,
    )
    return _Walk(world, plan, connection).run(trace, request)


def direct(
    world: World, connection: Connection, resolved: Resolved, request: Request | None
) -> Trace:
    """The way of a request from a client without a proxy: straight to an address."""
    speaks = connection.speaks
    found = tuple(arrive(world, p, speaks, request) for p in _behind(world, connection))
    choice = Choice("(direct)", "the client has no proxy")
    failure = None if found else Response(0, "no endpoint is ready")
    branch = Branch(1.0, choice, request, found, failure=failure)
    return Trace(
        proxy="", request=request, connection=connection, resolved=resolved, branches=(branch,)
    )


def _behind(world: World, connection: Connection) -> tuple[Place, ...]:
    """Where the platform itself sends a connection: a Service's endpoints, or the address. It
    knows nothing of ServiceEntries."""
    for service in world.model.services.values():
        if service.source.kind == "Service" and connection.address in service.addresses:
            key = ServicePortKey(*service.key, connection.port)
            endpoints = world.model.endpoints.get(key)
            ready = endpoints.ready if endpoints is not None else ()
            return tuple(
                Place(e.address, e.port, 1 / len(ready), workload=e.workload) for e in ready
            )
    return (Place(connection.address, connection.port, 1.0),)


class _Walk:
    """One proxy's plan, and the connection that meets it."""

    def __init__(self, world: World, plan: ir.ProxyPlan, connection: Connection) -> None:
        self._world = world
        self._plan = plan
        self._connection = connection

    def run(self, trace: Trace, request: Request | None) -> Trace:
        is_gateway = self._plan.node.kind == "router"
        find = connections.listening if is_gateway else connections.captured
        listener = find(self._plan.listeners, self._connection)
        if listener is None:
            where = f"{self._connection.address}:{self._connection.port}"
            return _answered(trace, Response(0, f"nothing listens on {where}"))
        trace = msgspec.structs.replace(
            trace, listener=connections.listener_choice(listener, self._connection)
        )
        chain = connections.chain_of(listener, self._connection)
        if chain is None:
            return _answered(trace, Response(0, "no filter chain takes the connection", "NR"))
        trace = msgspec.structs.replace(
            trace, chain=connections.chain_choice(listener, chain, self._connection)
        )
        if isinstance(chain.network, ir.Tcp):
            return self._bytes(trace, chain.network)
        if request is None:
            return _answered(trace, Response(0, "the client does not speak HTTP", "DPE"))
        return self._http(trace, chain.network, request, edge=listener.side is ir.Side.EDGE)

    def _bytes(self, trace: Trace, tcp: ir.Tcp) -> Trace:
        """A TCP chain: bytes to one of its clusters, or to the one that the SNI names."""
        clusters: Sequence[ir.WeightedCluster] = tcp.forward.clusters if tcp.forward else ()
        if not clusters and self._connection.sni:
            named = names.cluster_of_sni(self._connection.sni) or names.BLACK_HOLE
            clusters = (ir.WeightedCluster(named, 100),)
        alpn = (names.MESH_TCP,) if tcp.marks else ()
        branches = tuple(
            _closing(branch) for branch in self._branches(clusters, lambda _: None, alpn)
        )
        trace = msgspec.structs.replace(trace, branches=branches, warning=self._mismatch(branches))
        failures = [b.failure for b in branches if b.failure is not None]
        if failures and len(failures) == len(branches):
            return _answered(trace, failures[0])
        return trace

    def _mismatch(self, branches: Sequence[Branch]) -> str:
        clusters = [branch.cluster.name for branch in branches]
        return failing.mismatch(self._world, self._plan, self._connection, clusters)

    def _http(self, trace: Trace, http: ir.Http, request: Request, *, edge: bool) -> Trace:
        if "#" in request.path:
            return _answered(trace, Response(400, "the path has a fragment", "DPE"))
        path, moved = paths.as_routed(request.path, self._plan.settings.paths, edge=edge)
        if moved:
            to = (("location", path),)
            return _answered(
                trace, Response(307, "the path hides a slash in an escape", headers=to)
            )
        request = msgspec.structs.replace(request, path=path)
        routed = route_of(self._plan, http, request)
        if isinstance(routed, Response):
            return _answered(trace, routed)
        return self._routed(trace, routed, request)

    def _routed(self, trace: Trace, routed: Routed, request: Request) -> Trace:
        route = routed.route
        trace = msgspec.structs.replace(
            trace,
            route=_described(self._world, routed),
            faults=interference.faults_of(route, request),
            delay=interference.delay_of(route),
        )
        if route.cors is not None:
            answer = interference.preflight(route, route.cors, request)
            if answer is not None:
                return _answered(trace, answer)
        match route.action:
            case Redirect() as redirect:
                return _answered(trace, _redirected(request, redirect, route))
            case DirectResponse(status, body):
                headers = rewriting.response_edited((), route.headers)
                text = body.decode(errors="replace")
                reason, why = "the route answers itself", because(route, "directResponse")
                if route.name == names.BLOCK_ALL:
                    reason, why = failing.refused(self._world, self._plan)
                return _answered(trace, Response(status, reason, "", headers, text, why))
            case ir.Forward() as forward:
                return self._forwarded(trace, route, forward, request)

    def _forwarded(
        self, trace: Trace, route: ir.Route, forward: ir.Forward, request: Request
    ) -> Trace:
        def sent(weighted: ir.WeightedCluster) -> Request:
            return rewriting.forwarded(request, route, forward, weighted)

        mirrors: list[Branch] = []
        for cluster, percent in forward.mirrors:
            for branch in self._branches((ir.WeightedCluster(cluster, 100),), sent):
                mirrors.append(msgspec.structs.replace(branch, share=percent / 100))
        return msgspec.structs.replace(
            trace, branches=self._branches(forward.clusters, sent), mirrors=tuple(mirrors)
        )

    def _branches(
        self, clusters: Sequence[ir.WeightedCluster], sent: _Sent, alpn: tuple[str, ...] = ()
    ) -> tuple[Branch, ...]:
        total = sum(weighted.weight for weighted in clusters) or 1
        return tuple(self._branch(w, w.weight / total, sent(w), alpn) for w in clusters)

    def _branch(
        self,
        weighted: ir.WeightedCluster,
        share: float,
        request: Request | None,
        alpn: tuple[str, ...],
    ) -> Branch:
        name = weighted.cluster
        if name in _ORIGINAL:
            place = Place(self._connection.address, self._connection.port, 1.0)
            choice = Choice(name, "unknown to the mesh: on to where the client meant to go")
            return Branch(share, choice, request, (self._arrived(place, request, alpn),))
        if name == names.BLACK_HOLE:
            reason, why = failing.refused(self._world, self._plan)
            failure = Response(503, reason, "UH", because=why)
            return Branch(share, Choice(name, "nothing is behind it"), request, failure=failure)
        cluster = self._plan.clusters.get(name)
        if cluster is None:
            failure = Response(503, failing.without_cluster(self._world, name), "NC")
            return Branch(share, Choice(name, "it does not exist"), request, failure=failure)
        choice = Choice(name, _why(cluster), origins(self._world, cluster))
        policies = cluster_policies(self._world, cluster)
        groups = self._plan.endpoints.get(name, ())
        named = _named(cluster, request, self._connection)
        found = balanced(cluster, groups, self._connection, named, address_of)
        if not found.places:
            failure = Response(503, failing.without_endpoints(self._world, cluster), "UH")
            return Branch(share, choice, request, failure=failure, policies=policies)
        arrived = tuple(self._arrived(place, request, alpn) for place in found.places)
        return Branch(share, choice, request, arrived, found.standby, policies=policies)

    def _arrived(self, place: Place, request: Request | None, alpn: tuple[str, ...]) -> Place:
        speaks = self._connection.speaks if request is None else Speaks.HTTP1
        return arrive(self._world, place, speaks, request, alpn)


def _named(cluster: ir.Cluster, request: Request | None, connection: Connection) -> tuple[str, int]:
    """The host and port that are resolved where the traffic itself names them."""
    if request is None:
        return connection.sni, cluster.port
    default = 443 if cluster.security is ir.Security.ORIGINATE else 80
    return without_port(request.authority), port_of(request.authority) or default


def _plain(span: datetime.timedelta | None) -> datetime.timedelta | None:
    """A span that JSON knows: the API's own kind of duration reads as Istio writes it."""
    return None if span is None else datetime.timedelta(seconds=span.total_seconds())


def _described(world: World, routed: Routed) -> Route:
    route = routed.route
    action = route.action
    return Route(
        choice=routed.choice,
        name=route.name,
        configuration=routed.configuration,
        host=routed.host,
        policies=route_policies(world, route),
        timeout=_plain(action.timeout) if isinstance(action, ir.Forward) else None,
        response_set=route.headers.response_set,
        response_add=route.headers.response_add,
        response_remove=route.headers.response_remove,
    )


def _redirected(request: Request, redirect: Redirect, route: ir.Route) -> Response:
    to = rewriting.location(request, redirect, route.match, forwarded_proto=request.scheme)
    headers = rewriting.response_edited((("location", to),), route.headers)
    reason = "the route redirects"
    return Response(redirect.code, reason, "", headers, because=because(route, "redirect"))


def _closing(branch: Branch) -> Branch:
    """Where bytes go nowhere, the connection is closed."""
    if branch.failure is None:
        return branch
    failure = msgspec.structs.replace(branch.failure, status=0)
    return msgspec.structs.replace(branch, failure=failure)


def _answered(trace: Trace, response: Response) -> Trace:
    return msgspec.structs.replace(trace, response=response)


def _why(cluster: ir.Cluster) -> str:
    what = f"port {cluster.port} of {cluster.host}"
    return f"{what}, subset {cluster.subset}" if cluster.subset else what

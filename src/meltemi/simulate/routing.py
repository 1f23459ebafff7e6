"""From a request to the route that takes it, through its virtual host."""

from collections.abc import Sequence
from typing import NamedTuple

from meltemi.compile import ir
from meltemi.simulate import hosts, matching, rewriting
from meltemi.simulate.failing import without_host
from meltemi.simulate.request import Request
from meltemi.simulate.trace import Because, Choice, PassedOver, Response


class Routed(NamedTuple):
    """A route found, and how."""

    configuration: str
    host: Choice
    route: ir.Route
    choice: Choice


def route_of(plan: ir.ProxyPlan, http: ir.Http, request: Request) -> Routed | Response:
    """The route that takes a request, or the answer it gets for want of one."""
    if isinstance(http.routes, str):
        name, candidates = http.routes, plan.routes.get(http.routes, ())
    else:
        name, candidates = http.routes.name, http.routes.hosts
    found = hosts.host_of(candidates, request.authority)
    if found is None:
        return Response(404, without_host(name, request.authority, candidates), "NR")
    host, domain = found
    if host.https_only and request.scheme != "https":
        to = (("location", rewriting.https(request)),)
        reason = f"{host.name} answers plaintext with a redirect to https"
        return Response(301, reason, headers=to)
    return _first(name, _host_choice(host, domain, candidates), host.routes, request)


def _first(
    name: str, host: Choice, routes: Sequence[ir.Route], request: Request
) -> Routed | Response:
    passed: list[PassedOver] = []
    for route in routes:
        refusal = matching.refusal(route.match, request)
        if not refusal:
            reason = f"takes {matching.conditions(route.match)}"
            choice = Choice(label(route), reason, because(route), tuple(passed))
            return Routed(name, host, route, choice)
        passed.append(PassedOver(label(route), refusal, because(route)))
    tried = "; ".join(f"{p.name}: {p.reason}" for p in passed) or "it has none"
    reason = f"no route of {host.name} takes the request: {tried}"
    return Response(404, reason, "NR", because=tuple(b for p in passed for b in p.because))


def label(route: ir.Route) -> str:
    """What a route is called, or the field it stands in."""
    return route.name or route.path or "(unnamed)"


def because(route: ir.Route, field: str = "") -> tuple[Because, ...]:
    """The object and field a route comes from; with `field`, a field of its rule."""
    if route.source is None:
        return ()
    path = route.path
    if field:
        path = f"{path.partition('.match[')[0]}.{field}"
    return (Because(*route.source, path),)


def _host_choice(host: ir.VirtualHost, domain: str, others: Sequence[ir.VirtualHost]) -> Choice:
    sources = dict.fromkeys(r.source for r in host.routes if r.source is not None)
    if domain == "*":
        reason = f"no other of {len(others)} virtual hosts is for the name"
    elif domain.startswith("*") or domain.endswith("*"):
        reason = f"its domain {domain} covers the name"
    else:
        reason = f"its domain {domain} is the name"
    return Choice(host.name, reason, tuple(Because(*s, "spec.hosts") for s in sources))

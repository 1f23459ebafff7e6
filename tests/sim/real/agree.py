"""Whether what real Envoys did is among what the simulator says may happen."""

from collections.abc import Sequence
from typing import Any

import msgspec

from meltemi.simulate.request import Pairs, Request, Speaks
from meltemi.simulate.trace import Branch, Place, Response, Trace

from .lab import Seen

_RARE = 0.15
"""Places with a smaller share need not be met by the few requests a case sends."""
_OF_ENVOY = ("x-envoy-", "x-forwarded-", "x-request-id", "connection", "content-length", "te")
"""Headers that proxies write or take away by themselves."""


def disagreements(trace: Trace, seen: Seen, served: str = "") -> list[str]:
    """In which way an observation fits none of the possible outcomes; empty: it fits one.

    `served`: the address of the pod with a real sidecar; elsewhere nobody refuses.
    """
    reasons: list[str] = []
    for fault in trace.faults:
        found = _response(trace, fault.response, seen)
        if not found:
            return []
        reasons += found
        if fault.share >= 1:
            return reasons
    if trace.response is not None:
        return _response(trace, trace.response, seen)
    for branch in trace.branches:
        for found in _branch(trace, branch, seen, served):
            if not found:
                return []
            reasons += found
    return reasons or ["the simulator knows no outcome"]


def unmet(trace: Trace, seen: Sequence[Seen], served: str = "") -> list[str]:
    """Places with a fair share that none of many requests met."""
    met = {s.app.get("address") for s in seen}
    return [
        f"{place.address}:{place.port} has {100 * branch.share * place.share:.0f} % and was not met"
        for branch in trace.branches
        for place in branch.places
        if branch.share * place.share > _RARE
        and not (place.address == served and place.arrival and place.arrival.refused)
        and f"{place.address}:{place.port}" not in met
        and trace.response is None
        and not any(fault.share >= 1 for fault in trace.faults)
    ]


def is_open(trace: Trace) -> bool:
    """Whether chance has a say."""
    places = sum(len(branch.places) or 1 for branch in trace.branches)
    partial = any(0 < fault.share < 1 for fault in trace.faults)
    return places > 1 or partial


def _branch(trace: Trace, branch: Branch, seen: Seen, served: str) -> list[list[str]]:
    if branch.failure is not None:
        return [_response(trace, branch.failure, seen)]
    return [_place(trace, branch, place, seen, served) for place in branch.places]


def _place(trace: Trace, branch: Branch, place: Place, seen: Seen, served: str) -> list[str]:
    is_served = place.address == served
    arrival = place.arrival if is_served else None
    if arrival is not None and arrival.refused:
        return [] if not seen.app else [f"{place.address} refuses, but the application answered"]
    port = arrival.port if arrival is not None and arrival.port else place.port
    found = _different("reached", f"{place.address}:{port}", _reached(trace, seen))
    if trace.request is not None and (trace.route is not None or not trace.proxy):
        found += _different("status", 200, seen.answer.status)
        found += _response_headers(trace, seen)
    if branch.request is not None:
        sent = branch.request
        if arrival is not None and arrival.path:
            sent = msgspec.structs.replace(sent, path=arrival.path)
        found += _request(trace, sent, seen)
    if seen.log:
        found += _different("cluster", branch.cluster.name, seen.log.get("cluster"))
    if trace.proxy and trace.route is not None:
        found += _route(trace, seen)
    if seen.app and not is_served:
        found += _security(trace, place, seen)
    found += _mirrors(trace, seen)
    return found


def _reached(trace: Trace, seen: Seen) -> Any:
    """Who answered; where the client's own TLS ends in mutual TLS and nobody can, whom the proxy
    connected to."""
    if not seen.app and trace.connection.speaks is Speaks.TLS:
        return seen.log.get("upstream")
    return seen.app.get("address")


def _security(trace: Trace, place: Place, seen: Seen) -> list[str]:
    """What the echo server saw, standing for the destination's sidecar; TLS of the client itself
    says nothing of the proxy."""
    app = seen.app
    if place.security == "plain" and trace.connection.speaks is Speaks.TLS:
        return []
    peer, tls = app.get("peer"), app.get("tls")
    got = "mutual" if peer else "tls" if tls else "plain"
    wanted = place.security
    found = _different("security", wanted, got) if wanted != "plain" else []
    if wanted == "mutual" and app.get("sni") is not None:
        found += _different("sni", place.sni, app["sni"])
    if wanted == "plain" and peer:
        found += _different("security", wanted, got)
    return found


def _request(trace: Trace, sent: Request, seen: Seen) -> list[str]:
    headers = [(name, value) for name, value in seen.app.get("headers", ())]
    got = dict(headers)
    found = _different("path", sent.path, got.get(":path"))
    found += _different("authority", sent.authority, got.get(":authority"))
    found += _different("method", sent.method, got.get(":method"))
    before = trace.request.headers if trace.request is not None else ()
    for name in {n for n, _ in (*sent.headers, *before)}:
        if not name.startswith(_OF_ENVOY):
            wanted = _joined(sent.headers, name)
            found += _different(f"header {name}", wanted, _joined(tuple(headers), name))
    return found


def _joined(headers: Pairs, name: str) -> str | None:
    values = [value for key, value in headers if key == name]
    return ",".join(values) if values else None


def _response(trace: Trace, wanted: Response, seen: Seen) -> list[str]:
    answer, log = seen.answer, seen.log
    if seen.app:
        return [f"expected {wanted.status} ({wanted.reason}), but {seen.app['address']} answered"]
    found = _different("status", wanted.status, answer.status)
    if wanted.flags and log and wanted.status:
        flags = (log.get("flags") or "").split(",")
        if wanted.flags not in flags:
            found += _different("flags", wanted.flags, log.get("flags"))
    for name, value in wanted.headers:
        found += _different(f"response header {name}", value, answer.header(name))
    if wanted.body:
        found += _different("body", wanted.body, answer.body.decode(errors="replace"))
    return found


def _response_headers(trace: Trace, seen: Seen) -> list[str]:
    route = trace.route
    if route is None:
        return []
    found: list[str] = []
    added = {name.lower() for name, _ in route.response_add}
    for name, value in route.response_set:
        if name.lower() not in added:
            found += _different(f"response header {name}", value, seen.answer.header(name))
    for name, value in (*route.response_set, *route.response_add):
        if value not in (seen.answer.header(name) or ""):
            found += _different(f"response header {name}", value, seen.answer.header(name))
    return found


def _route(trace: Trace, seen: Seen) -> list[str]:
    assert trace.route is not None
    name = trace.route.name
    return _different("route", name or None, seen.log.get("route")) if seen.log else []


def _mirrors(trace: Trace, seen: Seen) -> list[str]:
    """Copies go only where a mirror leads; a mirror of everything gets one."""
    possible = {f"{p.address}:{p.port}" for m in trace.mirrors for p in m.places}
    wrong = [address for address in seen.mirrored if address not in possible]
    found = [f"{address} got a copy" for address in wrong]
    for mirror in trace.mirrors:
        places = {f"{p.address}:{p.port}" for p in mirror.places}
        if mirror.share >= 1 and places and not places & set(seen.mirrored):
            found.append(f"none of {sorted(places)} got a copy")
    return found


def _different(what: str, wanted: Any, got: Any) -> list[str]:
    return [] if wanted == got else [f"{what}: simulated {wanted!r}, Envoy {got!r}"]

"""Holds a simulated trace against what a case expects."""

from collections.abc import Mapping
from typing import Any

from meltemi.simulate.policies import seconds
from meltemi.simulate.trace import Branch, Trace
from meltemi.simulate.world import World


def differences(world: World, trace: Trace, expect: Mapping[str, Any]) -> list[str]:
    """Everything that is not as expected, in words."""
    found = []
    for key, wanted in expect.items():
        got = _FACTS[key](world, trace, wanted)
        if not _same(wanted, got):
            found.append(f"{key}: expected {wanted!r}, simulated {got!r}")
    return found


def _same(wanted: Any, got: Any) -> bool:
    if isinstance(wanted, Mapping) and isinstance(got, Mapping):
        return wanted.keys() == got.keys() and all(_same(wanted[k], got[k]) for k in wanted)
    if isinstance(wanted, int | float) and isinstance(got, float):
        return abs(wanted - got) < 0.05
    return bool(wanted == got)


def reached(world: World, branches: tuple[Branch, ...]) -> dict[str, float]:
    """Percent of requests by the pod (or the address) they reach."""
    shares: dict[str, float] = {}
    for branch in branches:
        for place in branch.places:
            if place.arrival is not None and place.arrival.refused:
                continue
            workload = world.at(place.address)
            name = place.address
            if workload is not None:
                space = workload.key.namespace
                name = workload.key.name + ("" if space == "default" else f".{space}")
            shares[name] = shares.get(name, 0.0) + 100 * branch.share * place.share
    return shares


def _to(world: World, trace: Trace, wanted: Any) -> Any:
    shares = reached(world, trace.branches) if trace.response is None else {}
    if isinstance(wanted, Mapping):
        return shares
    names = sorted(shares)
    if isinstance(wanted, list):
        return names if sorted(wanted) != names else wanted
    return names[0] if len(names) == 1 else names


def status_of(trace: Trace) -> int:
    """The status a client sees when no fault happens and no application fails."""
    certain = [f for f in trace.faults if f.share >= 1]
    if certain:
        return certain[0].response.status
    if trace.response is not None:
        return trace.response.status
    failures = [b.failure for b in trace.branches]
    if failures and all(failures):
        return failures[0].status if failures[0] else 0
    if trace.request is None:
        return 0
    places = [p for b in trace.branches for p in b.places]
    if places and all(p.arrival is not None and p.arrival.refused for p in places):
        return 503 if trace.proxy else 0
    return 200


def flags_of(trace: Trace) -> str:
    certain = [f for f in trace.faults if f.share >= 1]
    if certain:
        return certain[0].response.flags
    if trace.response is not None:
        return trace.response.flags
    return next((b.failure.flags for b in trace.branches if b.failure is not None), "")


def _only(values: list[Any]) -> Any:
    distinct = [v for i, v in enumerate(values) if v not in values[:i]]
    return distinct[0] if len(distinct) == 1 else distinct


def _headers(pairs: tuple[tuple[str, str], ...], wanted: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in wanted:
        values = [v for k, v in pairs if k == name.lower()]
        found[name] = ",".join(values) if values else None
    return found


def _response_headers(world: World, trace: Trace, wanted: Any) -> Any:
    if trace.response is not None:
        return _headers(trace.response.headers, wanted)
    assert trace.route is not None
    found: dict[str, Any] = {}
    for name in wanted:
        added = [v for k, v in trace.route.response_add if k.lower() == name.lower()]
        put = [v for k, v in trace.route.response_set if k.lower() == name.lower()]
        found[name] = ",".join(put + added) or None
    return found


def _sent(field: str) -> Any:
    def read(_world: World, trace: Trace, _wanted: Any) -> Any:
        return _only([getattr(b.request, field) for b in trace.branches])

    return read


def _policies(_world: World, trace: Trace, wanted: Any) -> Any:
    policies = [*(trace.route.policies if trace.route else ())]
    policies += [p for b in trace.branches for p in b.policies]
    return {name: next((p.value for p in policies if p.name == name), None) for name in wanted}


def _refused(_world: World, trace: Trace, _wanted: Any) -> Any:
    places = [p for b in trace.branches for p in b.places]
    return any(p.arrival is not None and p.arrival.refused for p in places)


def _mirrors(world: World, trace: Trace, wanted: Any) -> Any:
    shares = reached(world, trace.mirrors)
    return shares if isinstance(wanted, Mapping) else sorted(shares)


def _timeout(_world: World, trace: Trace, _wanted: Any) -> Any:
    limit = trace.route.timeout if trace.route else None
    return seconds(limit) if limit else "none"


_FACTS = {
    "to": _to,
    "status": lambda _w, t, _e: status_of(t),
    "closed": lambda _w, t, _e: t.response is not None and t.response.status == 0,
    "flags": lambda _w, t, _e: flags_of(t),
    "location": lambda _w, t, _e: dict(t.response.headers).get("location") if t.response else None,
    "body": lambda _w, t, _e: t.response.body if t.response else None,
    "response-headers": _response_headers,
    "path": _sent("path"),
    "authority": _sent("authority"),
    "headers": lambda _w, t, e: _only(
        [_headers(b.request.headers, e) for b in t.branches if b.request is not None]
    ),
    "cluster": lambda _w, t, _e: _only([b.cluster.name for b in t.branches]),
    "route": lambda _w, t, _e: t.route.choice.name if t.route else None,
    "host": lambda _w, t, _e: t.route.host.name if t.route else None,
    "listener": lambda _w, t, _e: t.listener.name if t.listener else None,
    "security": lambda _w, t, _e: _only([p.security for b in t.branches for p in b.places]),
    "sni": lambda _w, t, _e: _only([p.sni for b in t.branches for p in b.places]),
    "mirrors": _mirrors,
    "timeout": _timeout,
    "policies": _policies,
    "refused": _refused,
}

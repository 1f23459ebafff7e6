"""Answers that a route's own filters give: injected faults and CORS preflights."""

import datetime

from meltemi.compile import ir
from meltemi.model.route import Abort, Cors, Exact
from meltemi.simulate import patterns
from meltemi.simulate.request import Request
from meltemi.simulate.routing import because
from meltemi.simulate.trace import Fault, Response

GRPC_NAMES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
    "UNAUTHENTICATED",
)  # fmt: skip


def delay_of(route: ir.Route) -> tuple[float, datetime.timedelta] | None:
    """The share of requests that wait first, and for how long."""
    delay = route.fault.delay if route.fault is not None else None
    if delay is None:
        return None
    # A plain one: JSON does not know the API's own kind of duration.
    return delay.percent / 100, datetime.timedelta(seconds=delay.duration.total_seconds())


def faults_of(route: ir.Route, request: Request) -> tuple[Fault, ...]:
    """What some requests get instead of being sent on."""
    abort = route.fault.abort if route.fault is not None else None
    if abort is None:
        return ()
    return (Fault(abort.percent / 100, _aborted(route, abort, request)),)


def _aborted(route: ir.Route, abort: Abort, request: Request) -> Response:
    reason = f"fault injected for {abort.percent:g} % of requests"
    why = because(route, "fault.abort")
    if abort.grpc_status is None:
        return Response(abort.status or 500, reason, "FI", because=why)
    name = abort.grpc_status.upper()
    code = GRPC_NAMES.index(name) if name in GRPC_NAMES else 2
    is_grpc = (request.header("content-type") or "").startswith("application/grpc")
    headers = (("grpc-status", str(code)),) if is_grpc else ()
    return Response(200, reason, "FI", headers, because=why)


def preflight(route: ir.Route, cors: Cors, request: Request) -> Response | None:
    """The answer to a CORS preflight; None: the request goes on."""
    origin = request.header("origin")
    asked = request.header("access-control-request-method")
    if origin is None or request.method != "OPTIONS" or not asked:
        return None
    if not _allows(cors, origin):
        if cors.forward_unmatched:
            return None
        return Response(200, "a preflight of an origin not allowed", because=because(route))
    headers = [("access-control-allow-origin", origin)]
    if cors.credentials:
        headers.append(("access-control-allow-credentials", "true"))
    if cors.methods:
        headers.append(("access-control-allow-methods", ",".join(cors.methods)))
    if cors.allow_headers:
        headers.append(("access-control-allow-headers", ",".join(cors.allow_headers)))
    if cors.max_age is not None:
        headers.append(("access-control-max-age", str(int(cors.max_age.total_seconds()))))
    reason = "a preflight of an allowed origin"
    return Response(200, reason, "", tuple(headers), because=because(route, "corsPolicy"))


def _allows(cors: Cors, origin: str) -> bool:
    return any(o == Exact("*") or patterns.matches(o, origin) for o in cors.origins)

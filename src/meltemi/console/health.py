"""Health from request codes and from pods, with the tolerances that Kiali's users know. Pure.

HTTP: any 5xx or missing answer degrades, 10 % fail; 4xx degrade at 10 % and fail at 20 %.
gRPC: any status but 0 or missing answer degrades, 10 % fail.
"""

from collections.abc import Iterable, Mapping

import msgspec

from meltemi.console.types import Health, HealthStatus
from meltemi.telemetry.traffic import NO_ANSWER

_WEIGHT: Mapping[HealthStatus, int] = {
    "unknown": 0,
    "healthy": 1,
    "not-ready": 2,
    "degraded": 3,
    "failure": 4,
}
UNKNOWN = Health(status="unknown", reason="")
_HEALTHY = Health(status="healthy", reason="")


class _Tolerance(msgspec.Struct, frozen=True):
    name: str
    degraded: float
    """Share from which it degrades; 0: any."""
    failure: float


_SERVER = _Tolerance("fail with 5xx", 0.0, 0.10)
_SILENT = _Tolerance("get no answer", 0.0, 0.10)
_CLIENT = _Tolerance("are refused with 4xx", 0.10, 0.20)
_GRPC = _Tolerance("fail with a gRPC status", 0.0, 0.10)


def worst(healths: Iterable[Health]) -> Health:
    """The most serious one, the first among equals; unknown without any."""
    return max(healths, key=lambda h: _WEIGHT[h.status], default=UNKNOWN)


def health_from_codes(rates: Mapping[tuple[str, str], float]) -> Health:
    """`rates` maps (protocol, code) to requests a second; shares are of each protocol's own."""
    found = []
    for protocol in ("http", "grpc"):
        own = {code: rate for (p, code), rate in rates.items() if p == protocol}
        total = sum(own.values())
        if total <= 0:
            continue
        shares: dict[_Tolerance, float] = {}
        for code, rate in own.items():
            tolerance = _tolerance(protocol, code)
            if tolerance is not None:
                shares[tolerance] = shares.get(tolerance, 0.0) + rate / total
        found.append(_HEALTHY)
        found += [_judge(tolerance, share) for tolerance, share in shares.items()]
    return worst(found)


def _tolerance(protocol: str, code: str) -> _Tolerance | None:
    if code == NO_ANSWER:
        return _SILENT
    if protocol == "grpc" and len(code) < 3:
        return _GRPC if code != "0" else None
    # A gRPC call that was answered without a gRPC status has an HTTP code.
    return {"5": _SERVER, "4": _CLIENT}.get(code[:1])


def _judge(tolerance: _Tolerance, share: float) -> Health:
    if share <= 0 or share < tolerance.degraded:
        return _HEALTHY
    reason = f"{_percent(share)} of requests {tolerance.name}"
    if share >= tolerance.failure:
        return Health(status="failure", reason=reason)
    return Health(status="degraded", reason=reason)


def _percent(share: float) -> str:
    """Never `0.0 %` of what does happen."""
    return f"{share * 100:.1f} %" if share >= 0.0005 else "less than 0.1 %"


def health_from_pods(pods: int, ready: int) -> Health:
    """Of a workload's pods."""
    if not pods:
        return UNKNOWN
    if not ready:
        are = "the only pod is not" if pods == 1 else f"none of {pods} pods is"
        return Health(status="failure", reason=f"{are} ready")
    if ready < pods:
        return Health(status="degraded", reason=f"{ready} of {pods} pods are ready")
    return _HEALTHY

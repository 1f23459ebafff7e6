"""Pages of metrics, as the agent merges them."""

from collections.abc import Mapping

CODES = {"request_protocol": "http", "response_code": "200", "response_flags": "-"}


def line(metric: str, value: float | str, **labels: str) -> str:
    """One sample as text."""
    inside = ",".join(f'{name}="{text}"' for name, text in labels.items())
    return f"{metric}{{{inside}}} {value}"


def peers(
    reporter: str,
    source: str,
    destination: str,
    *,
    host: str = "",
    policy: str = "unknown",
    **more: str,
) -> Mapping[str, str]:
    """Istio's labels of calls between two workloads `app-version`; empty: unknown."""
    found = {"reporter": reporter, "connection_security_policy": policy}
    for side, workload in (("source", source), ("destination", destination)):
        app, _, version = workload.partition("-")
        secure = workload and policy == "mutual_tls"
        found |= {
            f"{side}_workload": workload or "unknown",
            f"{side}_workload_namespace": "default" if workload else "unknown",
            f"{side}_principal": f"spiffe://cluster.local/{app}" if secure else "unknown",
            f"{side}_canonical_service": app or "unknown",
            f"{side}_canonical_revision": version or "latest",
            f"{side}_cluster": "Kubernetes" if workload else "unknown",
        }
    service = host.partition(".")[0]
    found |= {
        "destination_service": host or "unknown",
        "destination_service_name": service or "unknown",
        "destination_service_namespace": "default" if "." in host else "unknown",
    }
    return found | more


def requests(value: float, labels: Mapping[str, str]) -> str:
    return line("istio_requests_total", value, **(CODES | labels))


def durations(labels: Mapping[str, str], **by_bound: float) -> str:
    """A histogram's lines; `by_bound` is cumulative: `b5=0, b10=3` and the last, `inf=3`."""
    name = "istio_request_duration_milliseconds"
    bounds = {k.removeprefix("b").replace("inf", "+Inf"): v for k, v in by_bound.items()}
    lines = [line(f"{name}_bucket", v, **labels, le=bound) for bound, v in bounds.items()]
    count = max(by_bound.values())
    lines += [line(f"{name}_sum", count * 7, **labels), line(f"{name}_count", count, **labels)]
    return "\n".join(lines)

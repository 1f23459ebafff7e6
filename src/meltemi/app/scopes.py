"""Sidecar objects from what was seen: for each workload, the services it called."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from meltemi.api.meta import Json
from meltemi.telemetry.traffic import Traffic


def suggested(
    seen: Iterable[Traffic], namespace: str, labels: Mapping[str, Mapping[str, str]]
) -> list[dict[str, Json]]:
    """One Sidecar for each workload of a namespace that called something, ordered by name.

    `labels`: the selector of each workload, by name. A workload whose selector is not known, or
    that called nothing, is left out: an empty Sidecar would cut it off.
    """
    called: defaultdict[str, set[str]] = defaultdict(set)
    for traffic in seen:
        source = traffic.source
        if source.namespace == namespace and traffic.service_namespace and "." in traffic.host:
            called[source.workload].add(f"{traffic.service_namespace}/{traffic.host}")
    return [
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "Sidecar",
            "metadata": {"name": workload, "namespace": namespace},
            "spec": {
                "workloadSelector": {"labels": dict(labels[workload])},
                "egress": [{"hosts": sorted(called[workload])}],
            },
        }
        for workload in sorted(called)
        if labels.get(workload)
    ]


def common_labels(pods: Iterable[tuple[str, Mapping[str, str]]]) -> dict[str, dict[str, str]]:
    """What tells a workload's pods from others: its `app` and `version` labels, else all that
    they have in common. `pods`: (workload, labels)."""
    found: dict[str, dict[str, str]] = {}
    for workload, labels in pods:
        before = found.get(workload)
        shared = dict(labels) if before is None else dict(before.items() & labels.items())
        found[workload] = shared
    return {workload: _telling(labels) for workload, labels in found.items()}


def _telling(labels: Mapping[str, str]) -> dict[str, str]:
    usual = {name: labels[name] for name in ("app", "version") if name in labels}
    return usual or {
        k: v for k, v in labels.items() if "istio" not in k and k != "pod-template-hash"
    }

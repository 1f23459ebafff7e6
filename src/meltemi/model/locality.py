"""Localities: where workloads run, `region/zone/subzone`, and the labels that say so."""

from collections.abc import Mapping

REGION = "topology.kubernetes.io/region"
ZONE = "topology.kubernetes.io/zone"
SUBZONE = "topology.istio.io/subzone"
NETWORK = "topology.istio.io/network"
CLUSTER = "topology.istio.io/cluster"
NODE = "kubernetes.io/hostname"
PLACE = (REGION, ZONE, SUBZONE)
OVERRIDE = "istio-locality"
"""A pod's own word for its locality, with dots or slashes between the parts."""
_OLD_REGION = "failure-domain.beta.kubernetes.io/region"
_OLD_ZONE = "failure-domain.beta.kubernetes.io/zone"


def locality_of_labels(labels: Mapping[str, str]) -> str:
    """The locality that labels of a node or a pod say; empty: none."""
    declared = labels.get(OVERRIDE, "")
    if declared:
        return "/".join(declared.split("/" if "/" in declared else ".")[:3])
    region = labels.get(REGION) or labels.get(_OLD_REGION, "")
    zone = labels.get(ZONE) or labels.get(_OLD_ZONE, "")
    parts = (region, zone, labels.get(SUBZONE, ""))
    return "/".join(parts).rstrip("/")


def topology(
    labels: Mapping[str, str], locality: str, *, node: str = "", cluster: str = ""
) -> Mapping[str, str]:
    """Labels, and what is known of the place, under the labels that mean it."""
    known = dict(zip(PLACE, (*locality.split("/"), "", "")[:3], strict=False))
    known |= {NODE: node, CLUSTER: cluster}
    return {**labels, **{name: value for name, value in known.items() if value}}

"""Envoy's Node: Istio's id and the metadata that generators and tools read."""

import json

from meltemi.api.meta import Json
from meltemi.proxy.envoy import settings_of
from meltemi.proxy.errors import BadSpec
from meltemi.proxy.spec import ProxySpec

_META = "ISTIO_META_"
_META_JSON = "ISTIO_METAJSON_"
_JSON_METADATA = frozenset({"POD_PORTS", "PROXY_CONFIG"})
"""Plain ISTIO_META_ variables that hold JSON nevertheless."""

ISTIO_VERSION = "1.30.0"
"""The Istio whose API the control plane speaks; tools compare it."""

JsonObject = dict[str, Json]


def node_id(spec: ProxySpec) -> str:
    """`sidecar~10.44.0.7~reviews-v1-abc.default~default.svc.cluster.local`."""
    if spec.kind not in ("sidecar", "router"):
        raise BadSpec(f"pod {spec.name}.{spec.namespace}: proxy kind {spec.kind!r} is unknown")
    domain = f"{spec.namespace}.svc.cluster.local"
    return f"{spec.kind}~{spec.ip}~{spec.name}.{spec.namespace}~{domain}"


def node(spec: ProxySpec) -> JsonObject:
    """The whole Node, as JSON."""
    app = spec.labels.get("app") or spec.workload
    return {
        "id": node_id(spec),
        "cluster": f"{app}.{spec.namespace}",
        "locality": locality(spec),
        "metadata": metadata(spec),
    }


def knows_peers(spec: ProxySpec) -> bool:
    """Whether the proxy has a cluster of its peers, as zone-aware load balancing needs."""
    return spec.env.get("ISTIO_META_ENABLE_SELF_DISCOVERY", "").lower() == "true"


def locality(spec: ProxySpec) -> JsonObject:
    """Where the pod runs, as its labels say. Only who knows its peers needs it."""
    labels = spec.labels
    if not knows_peers(spec):
        return {}
    declared = labels.get("istio-locality", "")
    parts = declared.split("/" if "/" in declared else ".") if declared else []
    if not declared:
        parts = [labels.get(name, "") for name in _PLACE]
    names = ("region", "zone", "sub_zone")
    return {name: part for name, part in zip(names, parts, strict=False) if part}


_PLACE = (
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
)


def metadata(spec: ProxySpec) -> JsonObject:
    """ISTIO_META_* and ISTIO_METAJSON_* of the environment, under what we know better."""
    owner = f"kubernetes://apis/apps/v1/namespaces/{spec.namespace}/deployments/{spec.workload}"
    known: JsonObject = {
        "NAME": spec.name,
        "NAMESPACE": spec.namespace,
        "LABELS": dict(spec.labels),
        "ANNOTATIONS": _public_annotations(spec),
        "SERVICE_ACCOUNT": spec.service_account,
        "WORKLOAD_NAME": spec.workload,
        "OWNER": owner,
        "INSTANCE_IPS": ",".join((spec.ip, *spec.also)),
        "NODE_NAME": spec.node_name,
    }
    defaults: JsonObject = {
        "CLUSTER_ID": "Kubernetes",
        "MESH_ID": spec.trust_domain,
        "INTERCEPTION_MODE": "REDIRECT",
        "ISTIO_VERSION": ISTIO_VERSION,
        "ENVOY_STATUS_PORT": 15021,
        "ENVOY_PROMETHEUS_PORT": 15090,
    }
    topology = settings_of(spec).gateway_topology
    if topology and spec.kind == "router":
        known["PROXY_CONFIG"] = {"gatewayTopology": topology}
    if spec.socket_mark is not None:
        known["SOCKET_MARK"] = spec.socket_mark
    return defaults | _from_env(spec) | known


def _public_annotations(spec: ProxySpec) -> JsonObject:
    """All but what kubectl stores of the whole object, which would travel with every stream."""
    hidden = ("kubectl.kubernetes.io/last-applied-configuration", "sidecar.istio.io/status")
    return {name: value for name, value in spec.annotations.items() if name not in hidden}


def _from_env(spec: ProxySpec) -> JsonObject:
    found: JsonObject = {}
    for name, value in sorted(spec.env.items()):
        if name.startswith(_META_JSON):
            parsed = _parsed(spec, name, value)
            if isinstance(parsed, dict):
                found.update(parsed)
        elif name.startswith(_META):
            key = name.removeprefix(_META)
            found[key] = _parsed(spec, name, value) if key in _JSON_METADATA else value
    return found


def _parsed(spec: ProxySpec, name: str, value: str) -> Json:
    try:
        return json.loads(value) if value else None
    except ValueError as e:
        raise BadSpec(f"pod {spec.name}.{spec.namespace}: env {name} is not JSON: {e}") from e

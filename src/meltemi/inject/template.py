"""What is added to a pod: istio-init, istio-proxy and their volumes."""

from collections.abc import Mapping, Sequence

import msgspec

from meltemi.api import names
from meltemi.api.meta import Json

JsonObject = dict[str, Json]


class InjectConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the mesh says about its proxies."""

    image: str = "docker.io/meltemi/proxyv2:1"
    root_namespace: str = "istio-system"
    cluster: str = "Kubernetes"
    domain: str = "cluster.local"
    trust_domain: str = "cluster.local"
    discovery: str = "istiod.istio-system.svc:15012"
    token_seconds: int = 43200
    drain_seconds: int = 5


class PodFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the templates need to know of the pod."""

    namespace: str
    workload: str
    owner: str
    annotations: Mapping[str, str]
    app_containers: Sequence[str]
    ports: Sequence[JsonObject]
    probers: Mapping[str, Json]
    scrape: Mapping[str, str] | None


def init_container(config: InjectConfig, facts: PodFacts) -> JsonObject:
    """Sets the capture rules in the pod's network; the arguments are istio-iptables'."""
    said = facts.annotations
    prefix = "traffic.sidecar.istio.io/"
    never = f"{names.ENVOY_METRICS_PORT},{names.HEALTH_PORT},{names.METRICS_PORT}"
    excluded = said.get(f"{prefix}excludeInboundPorts", "")
    args = [
        *("-p", str(names.OUTBOUND_PORT)),
        *("-z", str(names.INBOUND_PORT)),
        *("-u", str(names.PROXY_USER)),
        *("-m", "REDIRECT"),
        *("-i", said.get(f"{prefix}includeOutboundIPRanges", "*")),
        *("-x", said.get(f"{prefix}excludeOutboundIPRanges", "")),
        *("-b", said.get(f"{prefix}includeInboundPorts", "*")),
        *("-d", f"{never},{excluded}" if excluded else never),
    ]
    for flag, name in (("-q", "includeOutboundPorts"), ("-o", "excludeOutboundPorts"),
                       ("-k", "kubevirtInterfaces")):  # fmt: skip
        if said.get(prefix + name):
            args += [flag, said[prefix + name]]
    return {
        "name": names.INIT_CONTAINER,
        "image": _image(config, facts),
        "args": ["istio-iptables", *args],
        "resources": _resources(facts),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": False,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "runAsUser": 0,
        },
    }


def proxy_container(config: InjectConfig, facts: PodFacts, kind: str) -> JsonObject:
    """The proxy itself; `kind` is sidecar or router."""
    said = facts.annotations
    period = int(said.get("readiness.status.sidecar.istio.io/periodSeconds", "15"))
    probe = {"httpGet": {"path": "/healthz/ready", "port": names.HEALTH_PORT}}
    return {
        "name": names.PROXY_CONTAINER,
        "image": _image(config, facts),
        "args": [
            "proxy",
            kind,
            "--domain",
            f"$(POD_NAMESPACE).svc.{config.domain}",
            f"--proxyLogLevel={said.get('sidecar.istio.io/logLevel', 'warning')}",
            "--log_output_level=default:info",
        ],
        "ports": [
            {
                "containerPort": names.ENVOY_METRICS_PORT,
                "name": "http-envoy-prom",
                "protocol": "TCP",
            }
        ],
        "env": _env(config, facts),
        "startupProbe": {
            **probe,
            "initialDelaySeconds": 0,
            "periodSeconds": 1,
            "timeoutSeconds": 3,
            "failureThreshold": 600,
        },
        "readinessProbe": {
            **probe,
            "periodSeconds": period,
            "timeoutSeconds": 3,
            "failureThreshold": 4,
        },
        "resources": _resources(facts),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsGroup": names.PROXY_USER,
            "runAsNonRoot": True,
            "runAsUser": names.PROXY_USER,
        },
        "volumeMounts": [
            {"mountPath": "/var/run/secrets/istio", "name": "istiod-ca-cert"},
            {"mountPath": "/var/lib/istio/data", "name": "istio-data"},
            {"mountPath": "/etc/istio/proxy", "name": "istio-envoy"},
            {"mountPath": "/var/run/secrets/tokens", "name": "istio-token"},
            {"mountPath": "/etc/istio/pod", "name": "istio-podinfo"},
        ],
    }


def volumes(config: InjectConfig) -> list[JsonObject]:
    labels = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
    annotations = {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}}
    token = {
        "path": "istio-token",
        "audience": "istio-ca",
        "expirationSeconds": config.token_seconds,
    }
    return [
        {"name": "istio-envoy", "emptyDir": {"medium": "Memory"}},
        {"name": "istio-data", "emptyDir": {}},
        {"name": "istio-podinfo", "downwardAPI": {"items": [labels, annotations]}},
        {"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}},
    ]


def _image(config: InjectConfig, facts: PodFacts) -> str:
    return facts.annotations.get("sidecar.istio.io/proxyImage", config.image)


def _resources(facts: PodFacts) -> JsonObject:
    said, prefix = facts.annotations, "sidecar.istio.io/proxy"
    requests = {
        "cpu": said.get(f"{prefix}CPU", "100m"),
        "memory": said.get(f"{prefix}Memory", "128Mi"),
    }
    limits = {
        "cpu": said.get(f"{prefix}CPULimit", "2000m"),
        "memory": said.get(f"{prefix}MemoryLimit", "1024Mi"),
    }
    return {"requests": requests, "limits": limits}


def _env(config: InjectConfig, facts: PodFacts) -> list[JsonObject]:
    fields = {
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
        "INSTANCE_IP": "status.podIP",
        "SERVICE_ACCOUNT": "spec.serviceAccountName",
        "HOST_IP": "status.hostIP",
        "ISTIO_META_NODE_NAME": "spec.nodeName",
    }
    values = {
        "PILOT_CERT_PROVIDER": "istiod",
        "CA_ADDR": config.discovery,
        "TRUST_DOMAIN": config.trust_domain,
        "PROXY_CONFIG": _proxy_config(config, facts),
        "ISTIO_META_POD_PORTS": _json(list(facts.ports)),
        "ISTIO_META_APP_CONTAINERS": ",".join(facts.app_containers),
        "ISTIO_META_CLUSTER_ID": config.cluster,
        "ISTIO_META_INTERCEPTION_MODE": "REDIRECT",
        "ISTIO_META_WORKLOAD_NAME": facts.workload,
        "ISTIO_META_OWNER": facts.owner,
        "ISTIO_META_MESH_ID": config.trust_domain,
        "EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "",
    }
    if facts.probers:
        values["ISTIO_KUBE_APP_PROBERS"] = _json(dict(facts.probers))
    if facts.scrape is not None:
        values["ISTIO_PROMETHEUS_ANNOTATIONS"] = _json(dict(facts.scrape))
    env: list[JsonObject] = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
        for name, path in fields.items()
    ]
    return env + [{"name": name, "value": value} for name, value in values.items() if value]


def _proxy_config(config: InjectConfig, facts: PodFacts) -> str:
    """The mesh's settings under the annotation's (YAML, which JSON is a part of)."""
    import yaml

    said = facts.annotations.get("proxy.istio.io/config", "")
    try:
        asked = yaml.safe_load(said) if said else {}
    except yaml.YAMLError as error:
        raise ValueError(f"annotation proxy.istio.io/config is not YAML: {error}") from error
    if not isinstance(asked, dict):
        raise ValueError("annotation proxy.istio.io/config is not a mapping")
    base = {"terminationDrainDuration": f"{config.drain_seconds}s"}
    return _json({**base, **asked})


def _json(value: Json) -> str:
    return msgspec.json.encode(value, order="sorted").decode()

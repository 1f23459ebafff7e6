"""What is added to a pod: istio-init, istio-proxy and their volumes."""

from collections.abc import Mapping, Sequence

import msgspec

from meltemi.api import names
from meltemi.api.meta import Json
from meltemi.inject.wishes import InjectConfig, JsonObject, Wishes


class PodFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the templates need to know of the pod."""

    workload: str
    owner: str
    app_containers: Sequence[str]
    ports: Sequence[JsonObject]
    probers: Mapping[str, Json]
    scrape: Mapping[str, str] | None


def init_container(wanted: Wishes) -> JsonObject:
    """Sets the capture rules in the pod's network."""
    return {
        "name": names.INIT_CONTAINER,
        "image": wanted.image,
        "args": ["istio-iptables", *wanted.capture],
        "resources": wanted.resources,
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


def proxy_container(config: InjectConfig, wanted: Wishes, facts: PodFacts) -> JsonObject:
    """The proxy itself, a sidecar or a gateway's router."""
    probe = {"httpGet": {"path": "/healthz/ready", "port": names.HEALTH_PORT}}
    container: JsonObject = {
        "name": names.PROXY_CONTAINER,
        "image": wanted.image,
        "args": [
            "proxy",
            "router" if wanted.is_gateway else "sidecar",
            "--domain",
            f"$(POD_NAMESPACE).svc.{config.domain}",
            f"--proxyLogLevel={wanted.log_level}",
            "--log_output_level=default:info",
        ],
        "ports": [
            {
                "containerPort": names.ENVOY_METRICS_PORT,
                "name": "http-envoy-prom",
                "protocol": "TCP",
            }
        ],
        "env": _env(config, wanted, facts),
        "startupProbe": {
            **probe,
            "initialDelaySeconds": 0,
            "periodSeconds": 1,
            "timeoutSeconds": 3,
            "failureThreshold": 600,
        },
        "readinessProbe": {**probe, **wanted.readiness},
        "resources": wanted.resources,
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
    if wanted.is_native:
        container["restartPolicy"] = "Always"
    return container


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


def _env(config: InjectConfig, wanted: Wishes, facts: PodFacts) -> list[JsonObject]:
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
        "PROXY_CONFIG": _json(wanted.config),
        "ISTIO_META_POD_PORTS": _json(facts.ports),
        "ISTIO_META_APP_CONTAINERS": ",".join(facts.app_containers),
        "ISTIO_META_CLUSTER_ID": config.cluster,
        "ISTIO_META_INTERCEPTION_MODE": "REDIRECT",
        "ISTIO_META_WORKLOAD_NAME": facts.workload,
        "ISTIO_META_OWNER": facts.owner,
        "ISTIO_META_MESH_ID": config.trust_domain,
    }
    if config.bootstrap:
        values["MELTEMI_BOOTSTRAP_PATCHES"] = config.bootstrap
    if facts.probers:
        values["ISTIO_KUBE_APP_PROBERS"] = _json(facts.probers)
    if facts.scrape is not None:
        values["ISTIO_PROMETHEUS_ANNOTATIONS"] = _json(facts.scrape)
    more = wanted.config.get("proxyMetadata") or {}
    values |= {str(name): str(value) for name, value in more.items()}
    env: list[JsonObject] = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
        for name, path in fields.items()
        if name not in more
    ]
    return env + [{"name": name, "value": value} for name, value in values.items()]


def _json(value: Json) -> str:
    return msgspec.json.encode(value, order="sorted").decode()

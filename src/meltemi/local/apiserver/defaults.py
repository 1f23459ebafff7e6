"""What the API fills in where an object is silent, as Kubernetes' own defaults do."""

from collections.abc import Callable
from typing import Any

from meltemi.local.apiserver.definitions import definition_defaults

Json = dict[str, Any]

_NO_LIMIT = 2**31 - 1
_REPLACED = "TerminatingOrFailed"


def apply_defaults(kind: str, data: Json) -> None:
    """Fill in an object in place; objects given in are the caller's own copies."""
    default = _DEFAULTS.get(kind)
    if default is not None:
        default(data)


def _spec(data: Json) -> Json:
    spec: Json = data.setdefault("spec", {})
    return spec


def _pod(data: Json) -> None:
    pod_spec(_spec(data))
    data.setdefault("status", {"phase": "Pending", "qosClass": "BestEffort"})


def pod_spec(spec: Json) -> None:
    """Defaults of a pod's spec, in pods and in templates alike."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    for field in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(field) or ():
            _container(container)
    for volume in spec.get("volumes") or ():
        _volume(volume)


def _container(container: Json) -> None:
    image = str(container.get("image", ""))
    tag = image.rpartition("/")[2].partition(":")[2]
    container.setdefault("imagePullPolicy", "Always" if tag in ("", "latest") else "IfNotPresent")
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("resources", {})
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(name):
            _probe(container[name])


def _probe(probe: Json) -> None:
    for field, value in (
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ):
        probe.setdefault(field, value)
    if "httpGet" in probe:
        probe["httpGet"].setdefault("path", "/")
        probe["httpGet"].setdefault("scheme", "HTTP")
    if "grpc" in probe:
        probe["grpc"].setdefault("service", "")


def _volume(volume: Json) -> None:
    for name in ("configMap", "secret", "projected", "downwardAPI"):
        if isinstance(volume.get(name), dict):
            volume[name].setdefault("defaultMode", 420)


def _template(spec: Json) -> None:
    template = spec.setdefault("template", {})
    template.setdefault("metadata", {})
    pod_spec(template.setdefault("spec", {}))


def _deployment(data: Json) -> None:
    spec = _spec(data)
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    strategy = spec.setdefault("strategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxSurge", "25%")
        rolling.setdefault("maxUnavailable", "25%")
    _template(spec)


def _replicas(data: Json) -> None:
    spec = _spec(data)
    spec.setdefault("replicas", 1)
    _template(spec)


def _stateful_set(data: Json) -> None:
    _replicas(data)
    spec = _spec(data)
    spec.setdefault("podManagementPolicy", "OrderedReady")
    spec.setdefault("revisionHistoryLimit", 10)
    strategy = spec.setdefault("updateStrategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        strategy.setdefault("rollingUpdate", {}).setdefault("partition", 0)
    for claim in spec.get("volumeClaimTemplates") or ():
        _spec(claim).setdefault("volumeMode", "Filesystem")


def _daemon_set(data: Json) -> None:
    spec = _spec(data)
    spec.setdefault("revisionHistoryLimit", 10)
    strategy = spec.setdefault("updateStrategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)
    _template(spec)


def _job(data: Json) -> None:
    spec = _spec(data)
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    for field, value in (
        ("parallelism", 1),
        ("backoffLimit", 6 if spec.get("backoffLimitPerIndex") is None else _NO_LIMIT),
        ("completionMode", "NonIndexed"),
        ("suspend", False),
        ("podReplacementPolicy", "Failed" if spec.get("podFailurePolicy") else _REPLACED),
    ):
        if spec.get(field) is None:
            spec[field] = value
    for rule in (spec.get("podFailurePolicy") or {}).get("rules") or ():
        for pattern in rule.get("onPodConditions") or ():
            pattern.setdefault("status", "True")
    _template(spec)
    uid = data["metadata"].get("uid")
    if uid and not spec.get("manualSelector") and not spec.get("selector"):
        _select_own(spec, uid, data["metadata"]["name"])


def _select_own(spec: Json, uid: str, name: str) -> None:
    """A Job finds its pods by labels that no other Job's pods have."""
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    own = {"controller-uid": uid, "job-name": name}
    own |= {f"batch.kubernetes.io/{key}": value for key, value in own.items()}
    meta = spec["template"].setdefault("metadata", {})
    meta["labels"] = {**(meta.get("labels") or {}), **own}


def _claim(data: Json) -> None:
    _spec(data).setdefault("volumeMode", "Filesystem")
    data.setdefault("status", {"phase": "Pending"})


def _service(data: Json) -> None:
    spec = _spec(data)
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if spec["type"] != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if spec["type"] in ("LoadBalancer", "NodePort"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))
    data.setdefault("status", {"loadBalancer": {}})


def _namespace(data: Json) -> None:
    _spec(data).setdefault("finalizers", ["kubernetes"])
    data.setdefault("status", {"phase": "Active"})
    labels = data["metadata"].setdefault("labels", {})
    labels.setdefault("kubernetes.io/metadata.name", data["metadata"]["name"])


def _secret(data: Json) -> None:
    import base64

    data.setdefault("type", "Opaque")
    text = data.pop("stringData", None) or {}
    if text:
        encoded = {k: base64.b64encode(v.encode()).decode() for k, v in text.items()}
        data["data"] = {**(data.get("data") or {}), **encoded}


def _webhooks(data: Json) -> None:
    for hook in data.get("webhooks") or ():
        hook.setdefault("failurePolicy", "Fail")
        hook.setdefault("matchPolicy", "Equivalent")
        hook.setdefault("namespaceSelector", {})
        hook.setdefault("objectSelector", {})
        hook.setdefault("timeoutSeconds", 10)
        service = (hook.get("clientConfig") or {}).get("service")
        if service:
            service.setdefault("port", 443)
        for rule in hook.get("rules") or ():
            rule.setdefault("scope", "*")


def _mutating(data: Json) -> None:
    _webhooks(data)
    for hook in data.get("webhooks") or ():
        hook.setdefault("reinvocationPolicy", "Never")


def _policy(data: Json) -> None:
    _spec(data).setdefault("failurePolicy", "Fail")
    _matched(data["spec"].get("matchConstraints"))


def _policy_binding(data: Json) -> None:
    _matched(_spec(data).get("matchResources"))


def _matched(match: Json | None) -> None:
    """Defaults of what policies and their bindings are about."""
    if match is None:
        return
    match.setdefault("matchPolicy", "Equivalent")
    match.setdefault("namespaceSelector", {})
    match.setdefault("objectSelector", {})
    for field in ("resourceRules", "excludeResourceRules"):
        for rule in match.get(field) or ():
            rule.setdefault("scope", "*")


def _rules(data: Json) -> None:
    data.setdefault("rules", [])


def _binding(data: Json) -> None:
    data.get("roleRef", {}).setdefault("apiGroup", "rbac.authorization.k8s.io")
    for subject in data.get("subjects") or ():
        if subject.get("kind") in ("User", "Group"):
            subject.setdefault("apiGroup", "rbac.authorization.k8s.io")


def _cron_job(data: Json) -> None:
    spec = _spec(data)
    spec.setdefault("concurrencyPolicy", "Allow")
    spec.setdefault("suspend", False)
    spec.setdefault("successfulJobsHistoryLimit", 3)
    spec.setdefault("failedJobsHistoryLimit", 1)
    job = spec.setdefault("jobTemplate", {}).setdefault("spec", {})
    _template(job)


_DEFAULTS: dict[str, Callable[[Json], None]] = {
    "Pod": _pod,
    "Deployment": _deployment,
    "ReplicaSet": _replicas,
    "StatefulSet": _stateful_set,
    "DaemonSet": _daemon_set,
    "Job": _job,
    "PersistentVolumeClaim": _claim,
    "Service": _service,
    "Namespace": _namespace,
    "Secret": _secret,
    "CustomResourceDefinition": definition_defaults,
    "MutatingWebhookConfiguration": _mutating,
    "ValidatingWebhookConfiguration": _webhooks,
    "ValidatingAdmissionPolicy": _policy,
    "ValidatingAdmissionPolicyBinding": _policy_binding,
    "Role": _rules,
    "ClusterRole": _rules,
    "RoleBinding": _binding,
    "ClusterRoleBinding": _binding,
    "CronJob": _cron_job,
}

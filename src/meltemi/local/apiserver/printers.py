"""Rows of `kubectl get` for the kinds that are printed less often."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from meltemi.local.apiserver.ages import Row, age, born, duration, joined

Json = dict[str, Any]
Now = datetime.datetime
_TARGETS_SHOWN = 3


def _name(data: Json) -> str:
    return str(data["metadata"]["name"])


def _status(data: Json) -> Json:
    return data.get("status") or {}


def _template(spec: Json) -> tuple[str, str]:
    containers = spec.get("template", {}).get("spec", {}).get("containers") or []
    return joined(c["name"] for c in containers), joined(c.get("image", "") for c in containers)


def _labels(selector: Json | None) -> str:
    return joined(
        f"{k}={v}" for k, v in sorted(((selector or {}).get("matchLabels") or {}).items())
    )


def _daemon_set(data: Json, now: Now) -> Sequence[Any]:
    status, spec = _status(data), data.get("spec", {})
    node = spec.get("template", {}).get("spec", {}).get("nodeSelector") or {}
    return [
        _name(data),
        status.get("desiredNumberScheduled", 0),
        status.get("currentNumberScheduled", 0),
        status.get("numberReady", 0),
        status.get("updatedNumberScheduled", 0),
        status.get("numberAvailable", 0),
        joined(f"{k}={v}" for k, v in sorted(node.items())),
        born(data, now),
        *_template(spec),
        _labels(spec.get("selector")),
    ]


_JOB_WORDS = (
    *("Complete", "Failed", "Terminating", "Suspended"),
    *("FailureTarget", "SuccessCriteriaMet"),
)


def _job(data: Json, now: Now) -> Sequence[Any]:
    status, spec = _status(data), data.get("spec", {})
    conditions = {c["type"] for c in status.get("conditions") or () if c.get("status") == "True"}
    if "deletionTimestamp" in data["metadata"]:
        conditions.add("Terminating")
    word = next((w for w in _JOB_WORDS if w in conditions), "Running")
    wanted = spec.get("completions")
    done = f"{status.get('succeeded', 0)}/{1 if wanted is None else wanted}"
    return [
        _name(data),
        word,
        done,
        duration(status.get("startTime"), status.get("completionTime"), now),
        born(data, now),
        *_template(spec),
        _labels(spec.get("selector")),
    ]


def _cron_job(data: Json, now: Now) -> Sequence[Any]:
    status, spec = _status(data), data.get("spec", {})
    last = status.get("lastScheduleTime")
    job = spec.get("jobTemplate", {}).get("spec", {})
    return [
        _name(data),
        spec.get("schedule", ""),
        spec.get("timeZone") or "<none>",
        str(bool(spec.get("suspend"))),
        len(status.get("active") or ()),
        age(last, now) if last else "<none>",
        born(data, now),
        *_template(job),
        _labels(job.get("selector")),
    ]


def _endpoints(data: Json, now: Now) -> Sequence[Any]:
    listed = [
        f"{address['ip']}:{port['port']}"
        for subset in data.get("subsets") or ()
        for port in subset.get("ports") or ()
        for address in subset.get("addresses") or ()
    ]
    shown = joined(listed[:_TARGETS_SHOWN])
    if len(listed) > _TARGETS_SHOWN:
        shown += f" + {len(listed) - _TARGETS_SHOWN} more..."
    return [_name(data), shown, born(data, now)]


def _lease(data: Json, now: Now) -> Sequence[Any]:
    return [_name(data), data.get("spec", {}).get("holderIdentity") or "", born(data, now)]


def _ingress(data: Json, now: Now) -> Sequence[Any]:
    spec = data.get("spec", {})
    hosts = joined((r.get("host") or "*" for r in spec.get("rules") or ()), "*")
    listed = (_status(data).get("loadBalancer") or {}).get("ingress") or ()
    address = joined((i.get("ip") or i.get("hostname") or "" for i in listed), "")
    ports = "80, 443" if spec.get("tls") else "80"
    named = spec.get("ingressClassName") or "<none>"
    return [_name(data), named, hosts, address, ports, born(data, now)]


def _ingress_class(data: Json, now: Now) -> Sequence[Any]:
    spec = data.get("spec", {})
    found = spec.get("parameters")
    shown = f"{found.get('kind')}/{found.get('name')}" if found else "<none>"
    return [_name(data), spec.get("controller", ""), shown, born(data, now)]


def _network_policy(data: Json, now: Now) -> Sequence[Any]:
    return [_name(data), _labels(data.get("spec", {}).get("podSelector")), born(data, now)]


def _budget(data: Json, now: Now) -> Sequence[Any]:
    spec = data.get("spec", {})
    return [
        _name(data),
        str(spec.get("minAvailable", "N/A")),
        str(spec.get("maxUnavailable", "N/A")),
        _status(data).get("disruptionsAllowed", 0),
        born(data, now),
    ]


def _autoscaler(data: Json, now: Now) -> Sequence[Any]:
    spec = data.get("spec", {})
    target = spec.get("scaleTargetRef") or {}
    return [
        _name(data),
        f"{target.get('kind', '')}/{target.get('name', '')}",
        joined((_target(m) for m in spec.get("metrics") or ()), "<none>"),
        spec.get("minReplicas", 1),
        spec.get("maxReplicas", 0),
        _status(data).get("currentReplicas", 0),
        born(data, now),
    ]


def _target(metric: Json) -> str:
    resource = metric.get("resource") or {}
    target = resource.get("target") or {}
    if "averageUtilization" in target:
        return f"{resource.get('name')}: <unknown>/{target['averageUtilization']}%"
    return f"<unknown>/{target.get('averageValue', '<auto>')}"


def _role(data: Json, _now: Now) -> Sequence[Any]:
    return [_name(data), data["metadata"].get("creationTimestamp", "")]


def _binding(data: Json, now: Now) -> Sequence[Any]:
    reference = data.get("roleRef") or {}
    listed: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for subject in data.get("subjects") or ():
        name = subject.get("name", "")
        if subject.get("kind") == "ServiceAccount":
            name = f"{subject.get('namespace', '')}/{name}"
        listed.setdefault(subject.get("kind", ""), []).append(name)
    words = (joined(listed[kind], "") for kind in ("User", "Group", "ServiceAccount"))
    role = f"{reference.get('kind', '')}/{reference.get('name', '')}"
    return [_name(data), role, born(data, now), *words]


def _webhooks(data: Json, now: Now) -> Sequence[Any]:
    return [_name(data), len(data.get("webhooks") or ()), born(data, now)]


def _policy(data: Json, now: Now) -> Sequence[Any]:
    spec = data.get("spec") or {}
    kind = spec.get("paramKind")
    written = f"{kind.get('apiVersion', '')}/{kind.get('kind', '')}" if kind else "<unset>"
    return [_name(data), len(spec.get("validations") or ()), written, born(data, now)]


def _policy_binding(data: Json, now: Now) -> Sequence[Any]:
    spec = data.get("spec") or {}
    reference = spec.get("paramRef")
    given = "<unset>"
    if reference:
        given = "/".join(filter(None, (reference.get("namespace"), reference.get("name") or "*")))
    return [_name(data), spec.get("policyName", ""), given, born(data, now)]


def _certificate_request(data: Json, now: Now) -> Sequence[Any]:
    spec, status = data.get("spec") or {}, _status(data)
    words = [c["type"] for c in status.get("conditions") or ()] or ["Pending"]
    if status.get("certificate"):
        words.append("Issued")
    seconds = spec.get("expirationSeconds")
    return [
        _name(data),
        born(data, now),
        spec.get("signerName", ""),
        spec.get("username", ""),
        f"{seconds}s" if seconds else "<none>",
        ",".join(words),
    ]


_MODES = {
    "ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}  # fmt: skip


def _claim(data: Json, now: Now) -> Sequence[Any]:
    status, spec = _status(data), data.get("spec", {})
    modes = status.get("accessModes") or spec.get("accessModes") or ()
    return [
        _name(data),
        status.get("phase", "Pending"),
        spec.get("volumeName", ""),
        (status.get("capacity") or {}).get("storage", ""),
        joined((_MODES.get(mode, mode) for mode in modes), ""),
        spec.get("storageClassName") or "",
        born(data, now),
    ]


_BOUND = "Name Role Age +Users +Groups +ServiceAccounts"
TABLES: Mapping[str, tuple[str, Row]] = {
    "DaemonSet": (
        "Name Desired Current Ready Up-to-date Available Node_Selector Age +Containers +Images "
        "+Selector",
        _daemon_set,
    ),
    "Job": ("Name Status Completions Duration Age +Containers +Images +Selector", _job),
    "CronJob": (
        "Name Schedule Timezone Suspend Active Last_Schedule Age +Containers +Images +Selector",
        _cron_job,
    ),
    "PersistentVolumeClaim": (
        "Name Status Volume Capacity Access_Modes StorageClass Age",
        _claim,
    ),
    "Endpoints": ("Name Endpoints Age", _endpoints),
    "Lease": ("Name Holder Age", _lease),
    "Ingress": ("Name Class Hosts Address Ports Age", _ingress),
    "IngressClass": ("Name Controller Parameters Age", _ingress_class),
    "NetworkPolicy": ("Name Pod-Selector Age", _network_policy),
    "PodDisruptionBudget": (
        "Name Min_Available Max_Unavailable Allowed_Disruptions Age",
        _budget,
    ),
    "HorizontalPodAutoscaler": (
        "Name Reference Targets MinPods MaxPods Replicas Age",
        _autoscaler,
    ),
    "Role": ("Name Created_At", _role),
    "ClusterRole": ("Name Created_At", _role),
    "RoleBinding": (_BOUND, _binding),
    "ClusterRoleBinding": (_BOUND, _binding),
    "MutatingWebhookConfiguration": ("Name Webhooks Age", _webhooks),
    "ValidatingWebhookConfiguration": ("Name Webhooks Age", _webhooks),
    "CertificateSigningRequest": (
        "Name Age SignerName Requestor RequestedDuration Condition",
        _certificate_request,
    ),
    "ValidatingAdmissionPolicy": ("Name Validations ParamKind Age", _policy),
    "ValidatingAdmissionPolicyBinding": ("Name PolicyName ParamRef Age", _policy_binding),
}

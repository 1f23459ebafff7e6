"""What a workload's certificate says about it, so that its peers can label their metrics."""

import re
from collections.abc import Iterable

from meltemi.api.core import Pod
from meltemi.api.workload_entry import WorkloadGroup
from meltemi.ca.sign import Subject

_CRON_JOB = re.compile(r"-[0-9]{8,10}$")


def subject_from_pod(pod: Pod) -> Subject:
    """CN=workload, O=namespace, OU=app, L=version (envoy-data-plane.md, section 4)."""
    labels = pod.metadata.labels
    return Subject(
        workload=workload_name(pod),
        namespace=pod.metadata.namespace,
        app=labels.get("app") or labels.get("service.istio.io/canonical-name", ""),
        version=labels.get("version") or labels.get("service.istio.io/canonical-revision", ""),
    )


def subject_from_groups(groups: Iterable[WorkloadGroup], account: str) -> Subject:
    """Of a member of the one WorkloadGroup with this service account; of several nobody can tell
    whose it is, and an empty subject is better than a wrong one."""
    mine = [g for g in groups if (g.spec.template.service_account or "default") == account]
    if len(mine) != 1:
        return Subject()
    (group,) = mine
    labels = {**group.spec.metadata.labels, **group.spec.template.labels}
    return Subject(
        workload=group.metadata.name,
        namespace=group.metadata.namespace,
        app=labels.get("app") or labels.get("service.istio.io/canonical-name", ""),
        version=labels.get("version") or labels.get("service.istio.io/canonical-revision", ""),
    )


def workload_name(pod: Pod) -> str:
    """The owner people know: the Deployment behind the ReplicaSet, the CronJob behind the Job."""
    owner = next((o for o in pod.metadata.owner_references if o.controller), None)
    if owner is None:
        return pod.metadata.name
    template_hash = pod.metadata.labels.get("pod-template-hash", "")
    if owner.kind == "ReplicaSet" and template_hash:
        return owner.name.removesuffix(f"-{template_hash}")
    if owner.kind == "Job":
        return _CRON_JOB.sub("", owner.name)
    return owner.name

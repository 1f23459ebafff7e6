"""The roles and bindings a new cluster has."""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
_READ = ("get", "list", "watch")
_WRITE = ("create", "delete", "deletecollection", "patch", "update")
_BOOT = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_ROLE_GROUP = "rbac.authorization.k8s.io"
_MESH = (
    "networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io",
    "gateway.networking.k8s.io",
)  # fmt: skip


def _rule(groups: str, resources: str, verbs: tuple[str, ...]) -> Json:
    """Groups and resources are words; `core` is the group without a name."""
    named = ["" if g == "core" else g for g in groups.split()]
    return {"apiGroups": named, "resources": resources.split(), "verbs": list(verbs)}


def _viewed() -> list[Json]:
    core = (
        "bindings configmaps endpoints events limitranges namespaces namespaces/status "
        "persistentvolumeclaims persistentvolumeclaims/status pods pods/log pods/status "
        "replicationcontrollers replicationcontrollers/scale resourcequotas serviceaccounts "
        "services services/status"
    )
    apps = (
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale "
        "deployments/status replicasets replicasets/scale replicasets/status statefulsets "
        "statefulsets/scale statefulsets/status"
    )
    return [
        _rule("core", core, _READ),
        _rule("apps", apps, _READ),
        _rule("batch", "cronjobs cronjobs/status jobs jobs/status", _READ),
        _rule("autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status", _READ),
        _rule("discovery.k8s.io", "endpointslices", _READ),
        _rule("networking.k8s.io", "ingresses ingresses/status networkpolicies", _READ),
        _rule("policy", "poddisruptionbudgets poddisruptionbudgets/status", _READ),
        _rule("metrics.k8s.io", "pods nodes", _READ),
    ]


def _edited() -> list[Json]:
    core = (
        "configmaps endpoints events persistentvolumeclaims pods replicationcontrollers secrets "
        "serviceaccounts services"
    )
    reaching = "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"
    return [
        _rule("core", reaching, _READ),
        _rule("core", "serviceaccounts", ("impersonate",)),
        _rule("core", core, _WRITE),
        _rule("core", "pods/attach pods/exec pods/portforward pods/proxy pods/eviction", _WRITE),
        _rule("core", "serviceaccounts/token", ("create",)),
        _rule(
            "apps",
            "daemonsets deployments deployments/rollback deployments/scale replicasets "
            "replicasets/scale statefulsets statefulsets/scale",
            _WRITE,
        ),
        _rule("batch", "cronjobs jobs", _WRITE),
        _rule("autoscaling", "horizontalpodautoscalers", _WRITE),
        _rule("networking.k8s.io", "ingresses networkpolicies", _WRITE),
        _rule("policy", "poddisruptionbudgets", _WRITE),
        _rule("coordination.k8s.io", "leases", (*_READ, *_WRITE)),
    ]


def _administered() -> list[Json]:
    return [
        _rule("authorization.k8s.io", "localsubjectaccessreviews", ("create",)),
        _rule(_ROLE_GROUP, "roles rolebindings", (*_READ, *_WRITE)),
    ]


def _role(name: str, rules: list[Json], **labels: str) -> Json:
    return {"metadata": {"name": name, "labels": {**_BOOT, **labels}}, "rules": rules}


def _gathering(name: str, *above: str) -> Json:
    """A role that gathers what is labelled for it, and is itself gathered by greater ones."""
    label = f"rbac.authorization.k8s.io/aggregate-to-{name}"
    own = {f"rbac.authorization.k8s.io/aggregate-to-{a}": "true" for a in above}
    selector = {"matchLabels": {label: "true"}}
    role = _role(name, [], **own)
    return {**role, "aggregationRule": {"clusterRoleSelectors": [selector]}}


def _to(name: str) -> dict[str, str]:
    return {f"rbac.authorization.k8s.io/aggregate-to-{name}": "true"}


def cluster_roles() -> Iterator[Json]:
    """ClusterRoles by their usual names."""
    everything = _rule("*", "*", ("*",))
    yield _role("cluster-admin", [everything, {"nonResourceURLs": ["*"], "verbs": ["*"]}])
    yield _gathering("admin")
    yield _gathering("edit", "admin")
    yield _gathering("view", "edit")
    yield _role("system:aggregate-to-view", _viewed(), **_to("view"))
    yield _role("system:aggregate-to-edit", _edited(), **_to("edit"))
    yield _role("system:aggregate-to-admin", _administered(), **_to("admin"))
    mesh = " ".join(_MESH)
    yield _role("meltemi:mesh-view", [_rule(mesh, "*", _READ)], **_to("view"))
    yield _role("meltemi:mesh-edit", [_rule(mesh, "*", _WRITE)], **_to("edit"))
    paths = ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi",
             "/openapi/*", "/readyz", "/version", "/version/"]  # fmt: skip
    yield _role("system:discovery", [{"nonResourceURLs": paths, "verbs": ["get"]}])
    public = ["/healthz", "/livez", "/readyz", "/version", "/version/"]
    yield _role("system:public-info-viewer", [{"nonResourceURLs": public, "verbs": ["get"]}])
    reviews = "selfsubjectaccessreviews selfsubjectrulesreviews"
    yield _role(
        "system:basic-user",
        [
            _rule("authorization.k8s.io", reviews, ("create",)),
            _rule("authentication.k8s.io", "selfsubjectreviews", ("create",)),
        ],
    )
    yield _role(
        "system:auth-delegator",
        [
            _rule("authentication.k8s.io", "tokenreviews", ("create",)),
            _rule("authorization.k8s.io", "subjectaccessreviews", ("create",)),
        ],
    )


def cluster_role_bindings() -> Iterator[Json]:
    """Who has which of them."""
    for role, groups in (
        ("cluster-admin", ("system:masters",)),
        ("system:discovery", ("system:authenticated",)),
        ("system:basic-user", ("system:authenticated",)),
        ("system:public-info-viewer", ("system:authenticated", "system:unauthenticated")),
    ):
        yield {
            "metadata": {"name": role, "labels": dict(_BOOT)},
            "roleRef": {"apiGroup": _ROLE_GROUP, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": _ROLE_GROUP, "kind": "Group", "name": g} for g in groups],
        }

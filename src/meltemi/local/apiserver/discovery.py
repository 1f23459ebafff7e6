"""What is served, in the forms clients ask for."""

from collections import defaultdict
from typing import Any

from meltemi.api.kinds import Kind
from meltemi.local.apiserver import metrics
from meltemi.local.apiserver.registry import VERBS, Registry

Json = dict[str, Any]

_POD_SUBRESOURCES = {
    "log": ("Pod", ("get",)),
    "exec": ("PodExecOptions", ("create", "get")),
    "attach": ("PodAttachOptions", ("create", "get")),
    "portforward": ("PodPortForwardOptions", ("create", "get")),
    "binding": ("Binding", ("create",)),
    "eviction": ("Eviction", ("create",)),
}
_SHOWN_IN = {"eviction": "policy"}
"""Groups of subresources' kinds that are not the pod's own."""
_REVIEWS = {
    "authentication.k8s.io": (
        ("tokenreviews", "TokenReview"),
        ("selfsubjectreviews", "SelfSubjectReview"),
    ),
    "authorization.k8s.io": (
        ("selfsubjectaccessreviews", "SelfSubjectAccessReview"),
        ("subjectaccessreviews", "SubjectAccessReview"),
        ("localsubjectaccessreviews", "LocalSubjectAccessReview"),
        ("selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    ),
}  # fmt: skip


def groups(registry: Registry) -> dict[str, dict[str, list[Kind]]]:
    """Kinds by group and version; the storage version first."""
    found: dict[str, dict[str, list[Kind]]] = defaultdict(dict)
    for kind in registry.kinds():
        for version in kind.versions:
            found[kind.group].setdefault(version, []).append(kind)
    for group in _REVIEWS:
        found[group].setdefault("v1", [])
    found[metrics.GROUP].setdefault(metrics.VERSION, [])
    return dict(found)


def aggregated(registry: Registry, *, core: bool) -> Json:
    """APIGroupDiscoveryList, apidiscovery.k8s.io/v2."""
    items = []
    for group, versions in sorted(groups(registry).items()):
        if (group == "") != core:
            continue
        listed = [
            {
                "version": version,
                "resources": [
                    *(_discovered(kind, version) for kind in kinds),
                    *_unstored(group, version),
                ],
                "freshness": "Current",
            }
            for version, kinds in versions.items()
        ]
        items.append({"metadata": {"name": group}, "versions": listed})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": items}


def _discovered(kind: Kind, version: str) -> Json:
    scope = "Namespaced" if kind.namespaced else "Cluster"
    own = {"group": kind.group, "version": version, "kind": kind.name}
    subresources: list[Json] = []
    for name in kind.subresources:
        shown = (
            own if name != "scale" else {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        )
        subresources.append(
            {"subresource": name, "responseKind": shown, "verbs": ["get", "patch", "update"]}
        )
    if kind.name == "Pod":
        # kubectl drain deletes instead of evicting unless it finds policy's Eviction here.
        subresources += [
            {
                "subresource": n,
                "responseKind": {**own, "kind": shown, "group": _SHOWN_IN.get(n, "")},
                "verbs": list(verbs),
            }
            for n, (shown, verbs) in _POD_SUBRESOURCES.items()
        ]
    if kind.name == "ServiceAccount":
        token = {"group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest"}
        subresources.append({"subresource": "token", "responseKind": token, "verbs": ["create"]})
    return {
        "resource": kind.plural,
        "responseKind": own,
        "scope": scope,
        "singularResource": kind.singular,
        "verbs": list(VERBS),
        "shortNames": list(kind.short_names),
        "categories": list(kind.categories),
        "subresources": subresources,
    }


def _unstored(group: str, version: str) -> list[Json]:
    """What is answered without being stored: reviews and metrics."""
    if (group, version) == (metrics.GROUP, metrics.VERSION):
        return [
            _listed(group, version, plural, name, ("get", "list"), namespaced=namespaced)
            for plural, name, namespaced in metrics.KINDS
        ]
    if version != "v1":
        return []
    return [
        _listed(group, version, plural, name, ("create",), namespaced=plural.startswith("local"))
        for plural, name in _REVIEWS.get(group, ())
    ]


def _listed(
    group: str, version: str, plural: str, name: str, verbs: tuple[str, ...], *, namespaced: bool
) -> Json:
    return {
        "resource": plural,
        "responseKind": {"group": group, "version": version, "kind": name},
        "scope": "Namespaced" if namespaced else "Cluster",
        "singularResource": name.lower() if verbs == ("create",) else "",
        "verbs": list(verbs),
    }


def group_list(registry: Registry) -> Json:
    """The legacy APIGroupList."""
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(g, list(v)) for g, v in sorted(groups(registry).items()) if g],
    }


def _group(group: str, versions: list[str]) -> Json:
    listed = [{"groupVersion": f"{group}/{v}", "version": v} for v in versions]
    return {"name": group, "versions": listed, "preferredVersion": listed[0]}


def group(registry: Registry, name: str) -> Json | None:
    versions = groups(registry).get(name)
    if versions is None:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, list(versions))}


def resource_list(registry: Registry, group_name: str, version: str) -> Json | None:
    """The legacy APIResourceList of one group version."""
    kinds = groups(registry).get(group_name, {}).get(version)
    if kinds is None:
        return None
    resources: list[Json] = []
    for kind in kinds:
        found = _discovered(kind, version)
        base = {"namespaced": kind.namespaced, "kind": kind.name}
        resources.append(
            {
                "name": kind.plural,
                "singularName": kind.singular,
                "verbs": found["verbs"],
                "shortNames": found["shortNames"],
                "categories": found["categories"],
                **base,
            }
        )
        resources += [
            {
                "name": f"{kind.plural}/{s['subresource']}",
                "singularName": "",
                "verbs": s["verbs"],
                "namespaced": kind.namespaced,
                **_foreign(kind, s["responseKind"]),
            }
            for s in found["subresources"]
        ]
    resources += [
        {"name": r["resource"], "singularName": "", "verbs": r["verbs"],
         "namespaced": r["scope"] == "Namespaced", "kind": r["responseKind"]["kind"]}
        for r in _unstored(group_name, version)
    ]  # fmt: skip
    name = f"{group_name}/{version}" if group_name else version
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": name,
        "resources": resources,
    }


def _foreign(kind: Kind, shown: Json) -> Json:
    """The kind of a subresource, with its group and version where they are not the object's."""
    if shown["group"] == kind.group:
        return {"kind": shown["kind"]}
    return {"kind": shown["kind"], "group": shown["group"], "version": shown["version"]}

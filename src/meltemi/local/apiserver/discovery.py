"""What is served, in the forms clients ask for, and the OpenAPI documents kubectl needs."""

import hashlib
from collections import defaultdict
from typing import Any

from meltemi.api.kinds import Kind
from meltemi.local.apiserver.registry import VERBS, Registry

Json = dict[str, Any]

_POD_SUBRESOURCES = ("log", "exec", "portforward", "eviction", "binding")
_REVIEWS = {
    "authentication.k8s.io": (
        ("tokenreviews", "TokenReview"),
        ("selfsubjectreviews", "SelfSubjectReview"),
    ),
    "authorization.k8s.io": (
        ("selfsubjectaccessreviews", "SelfSubjectAccessReview"),
        ("subjectaccessreviews", "SubjectAccessReview"),
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
                "resources": [*map(_discovered, kinds), *_reviews(group, version)],
                "freshness": "Current",
            }
            for version, kinds in versions.items()
        ]
        items.append({"metadata": {"name": group}, "versions": listed})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": items}


def _discovered(kind: Kind) -> Json:
    scope = "Namespaced" if kind.namespaced else "Cluster"
    own = {"group": kind.group, "version": kind.versions[0], "kind": kind.name}
    subresources: list[Json] = []
    for name in kind.subresources:
        shown = (
            own if name == "status" else {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        )
        subresources.append(
            {"subresource": name, "responseKind": shown, "verbs": ["get", "patch", "update"]}
        )
    if kind.name == "Pod":
        subresources += [
            {"subresource": n, "responseKind": own, "verbs": ["create", "get"]}
            for n in _POD_SUBRESOURCES
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


def _reviews(group: str, version: str) -> list[Json]:
    if version != "v1":
        return []
    return [
        {
            "resource": plural,
            "responseKind": {"group": group, "version": "v1", "kind": name},
            "scope": "Cluster",
            "singularResource": name.lower(),
            "verbs": ["create"],
        }
        for plural, name in _REVIEWS.get(group, ())
    ]


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
        found = _discovered(kind)
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
                "kind": s["responseKind"]["kind"],
            }
            for s in found["subresources"]
        ]
    resources += [
        {"name": r["resource"], "singularName": "", "verbs": ["create"], "namespaced": False,
         "kind": r["responseKind"]["kind"]}
        for r in _reviews(group_name, version)
    ]  # fmt: skip
    name = f"{group_name}/{version}" if group_name else version
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": name,
        "resources": resources,
    }


def openapi_index(registry: Registry) -> Json:
    """Where each group's document is; the hash changes with every definition."""
    mark = hashlib.sha256(str(registry.generation).encode()).hexdigest()[:32]
    paths = {}
    for name, versions in groups(registry).items():
        for version in versions:
            path = f"apis/{name}/{version}" if name else f"api/{version}"
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={mark}"}
    return {"paths": paths}


def openapi_document(registry: Registry, group_name: str, version: str) -> Json | None:
    """Paths with their kinds and the parameters kubectl looks for; schemas where we have them."""
    kinds = groups(registry).get(group_name, {}).get(version)
    if kinds is None:
        return None
    root = f"/apis/{group_name}/{version}" if group_name else f"/api/{version}"
    paths: Json = {}
    schemas: Json = {}
    for kind in kinds:
        where = "/namespaces/{namespace}" if kind.namespaced else ""
        known = {"group": group_name, "version": version, "kind": kind.name}
        name = ".".join((*reversed(group_name.split(".")), version, kind.name)).lstrip(".")
        schemas[name] = registry.schema(kind, version) or _open_schema()
        schemas[name] = {**schemas[name], "x-kubernetes-group-version-kind": [known]}
        operations = {verb: _operation(verb, known) for verb in ("get", "put", "patch", "delete")}
        paths[f"{root}{where}/{kind.plural}/{{name}}"] = operations
        paths[f"{root}{where}/{kind.plural}"] = {"post": _operation("post", known)}
    info = {"title": "Meltemi", "version": "v1.32.0"}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def _open_schema() -> Json:
    text = {"type": "string"}
    free: Json = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "type": "object",
        "properties": {
            "apiVersion": text,
            "kind": text,
            "metadata": free,
            "spec": free,
            "status": free,
        },
        "x-kubernetes-preserve-unknown-fields": True,
    }


def _operation(verb: str, known: Json) -> Json:
    """Strategic merge is not named: kubectl would then want every field's schema, and without
    it works out such patches from the types it was built with."""
    action = {"get": "get", "put": "put", "patch": "patch", "delete": "delete", "post": "post"}
    names = ("dryRun", "fieldManager", "fieldValidation", "force", "pretty")
    operation: Json = {
        "x-kubernetes-action": action[verb],
        "x-kubernetes-group-version-kind": known,
        "parameters": [{"name": n, "in": "query", "schema": {"type": "string"}} for n in names],
        "responses": {"200": {"description": "OK"}},
    }
    if verb == "patch":
        kinds = ["json-patch+json", "merge-patch+json", "apply-patch+yaml"]
        content = {f"application/{k}": {"schema": {"type": "object"}} for k in kinds}
        operation["requestBody"] = {"content": content}
    return operation

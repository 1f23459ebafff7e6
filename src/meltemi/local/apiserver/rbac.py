"""Who may do what: Roles, ClusterRoles and their bindings, evaluated.

Nothing is allowed that no rule allows, except to `system:masters`. Nobody may grant what they do
not hold, unless they may `escalate` or `bind`.
https://kubernetes.io/docs/reference/access-authn-authz/rbac/
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from meltemi.api.kinds import Kind
from meltemi.local.apiserver.errors import StatusError, resource_name
from meltemi.local.apiserver.operations import User, Write
from meltemi.local.apiserver.selectors import matches_selector
from meltemi.local.apiserver.store import Change, Resource, Store

Json = dict[str, Any]
GROUP = "rbac.authorization.k8s.io"
_ROLES = Resource(GROUP, "roles")
_CLUSTER_ROLES = Resource(GROUP, "clusterroles")
_BINDINGS = Resource(GROUP, "rolebindings")
_CLUSTER_BINDINGS = Resource(GROUP, "clusterrolebindings")
_ALL = frozenset((_ROLES, _CLUSTER_ROLES, _BINDINGS, _CLUSTER_BINDINGS))
MASTERS = "system:masters"


class Attributes(msgspec.Struct, frozen=True):
    """What is about to be done: to objects, or to a path that is none."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    @property
    def full_resource(self) -> str:
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


class Grant(msgspec.Struct, frozen=True):
    """A rule that somebody has, and where: everywhere, or in one namespace."""

    rule: Json
    namespace: str
    source: str
    """Which binding and role, for whoever asks why."""


class Authorizer:
    """Answers from the objects in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._grants: dict[str, list[Grant]] | None = None
        store.listeners.append(self._note)

    def _note(self, resource: Resource, _change: Change) -> None:
        if resource in _ALL:
            self._grants = None

    def decide(self, user: User, asked: Attributes) -> str | None:
        """Why something is allowed; None when nothing allows it."""
        if MASTERS in user.groups:
            return ""
        for grant in self.grants(user, asked.namespace):
            if allows(grant.rule, asked):
                return f"RBAC: allowed by {grant.source}"
        return None

    def require(self, user: User, asked: Attributes) -> str:
        """The reason that something is allowed. Raises the 403 that names what is missing."""
        reason = self.decide(user, asked)
        if reason is None:
            raise refused(user, asked)
        return reason

    def grants(self, user: User, namespace: str) -> Iterator[Grant]:
        """The rules a user has in a namespace, those for everywhere included."""
        if self._grants is None:
            self._grants = self._index()
        for subject in subjects(user):
            for grant in self._grants.get(subject, ()):
                if not grant.namespace or grant.namespace == namespace:
                    yield grant

    def _index(self) -> dict[str, list[Grant]]:
        found: dict[str, list[Grant]] = {}
        for resource in (_CLUSTER_BINDINGS, _BINDINGS):
            for entry in self._store.durable_entries(resource):
                for subject in entry.data.get("subjects") or ():
                    found.setdefault(_subject(subject, entry.namespace), []).extend(
                        self._bound(entry.data, entry.namespace, subject)
                    )
        return found

    def _bound(self, binding: Json, namespace: str, subject: Json) -> Iterator[Grant]:
        reference = binding["roleRef"]
        word = "RoleBinding" if namespace else "ClusterRoleBinding"
        where = f"{binding['metadata']['name']}/{namespace}".rstrip("/")
        source = (
            f'{word} "{where}" of {reference["kind"]} "{reference["name"]}" to '
            f'{subject.get("kind", "")} "{subject.get("name", "")}"'
        )
        for rule in self.rules_of(reference, namespace):
            yield Grant(rule, namespace, source)

    def rules_of(self, reference: Json, namespace: str) -> Sequence[Json]:
        """The rules of the role that a binding names."""
        is_cluster = reference.get("kind") == "ClusterRole"
        resource = _CLUSTER_ROLES if is_cluster else _ROLES
        found = self._store.durable(resource, "" if is_cluster else namespace, reference["name"])
        return (found.data.get("rules") or []) if found is not None else []

    def guard(self, kind: Kind, data: Json, before: Json | None, write: Write) -> None:
        """Refuse to grant more than the writer holds. Raises a 403."""
        if kind.group != GROUP or MASTERS in write.user.groups:
            return
        if before is not None and _granting(before) == _granting(data):
            return
        namespace = data["metadata"].get("namespace", "")
        name = data["metadata"]["name"]
        if kind.name in ("Role", "ClusterRole"):
            asked = Attributes("escalate", GROUP, kind.plural, "", namespace, name)
            rules = data.get("rules") or []
        else:
            reference = data["roleRef"]
            plural = "clusterroles" if reference["kind"] == "ClusterRole" else "roles"
            asked = Attributes("bind", GROUP, plural, "", namespace, reference["name"])
            rules = self.rules_of(reference, namespace)
        if self.decide(write.user, asked) is not None:
            return
        missing = [r for r in rules if not self._holds(write.user, r, namespace)]
        if missing:
            listed = "\n".join(_shown(rule) for rule in missing)
            raise StatusError(
                403,
                "Forbidden",
                f'{resource_name(kind.plural, GROUP)} "{name}" is forbidden: user '
                f'"{write.user.name}" (groups={list(write.user.groups)}) is attempting to grant '
                f"RBAC permissions not currently held:\n{listed}",
                details={"name": name, "group": GROUP, "kind": kind.plural},
            )

    def _holds(self, user: User, rule: Json, namespace: str) -> bool:
        """Whether each single thing a rule allows is allowed to the user already."""
        held = [grant.rule for grant in self.grants(user, namespace)]
        return all(any(_covers(mine, single) for mine in held) for single in _singles(rule))


def subjects(user: User) -> Iterator[str]:
    yield f"User:{user.name}"
    for group in user.groups:
        yield f"Group:{group}"


def _subject(subject: Json, namespace: str) -> str:
    if subject.get("kind") == "ServiceAccount":
        home = subject.get("namespace") or namespace
        return f"User:system:serviceaccount:{home}:{subject.get('name')}"
    return f"{subject.get('kind')}:{subject.get('name')}"


def allows(rule: Json, asked: Attributes) -> bool:
    """Whether one rule allows something."""
    if not _has(rule.get("verbs"), asked.verb):
        return False
    if asked.path:
        return any(_path_matches(p, asked.path) for p in rule.get("nonResourceURLs") or ())
    if not _has(rule.get("apiGroups"), asked.group):
        return False
    listed = rule.get("resources") or ()
    wanted = {"*", asked.full_resource}
    if asked.subresource:
        wanted.add(f"*/{asked.subresource}")
    if not wanted & set(listed):
        return False
    names = rule.get("resourceNames") or ()
    return not names or asked.name in names


def _has(listed: Sequence[str] | None, wanted: str) -> bool:
    return listed is not None and ("*" in listed or wanted in listed)


def _path_matches(pattern: str, path: str) -> bool:
    if pattern.endswith("*"):
        return path.startswith(pattern[:-1])
    return pattern == path


def _singles(rule: Json) -> Iterator[Json]:
    """A rule as rules of one verb, group, resource and name each."""
    for verb in rule.get("verbs") or ():
        for path in rule.get("nonResourceURLs") or ():
            yield {"verbs": [verb], "nonResourceURLs": [path]}
        for group in rule.get("apiGroups") or ():
            for resource in rule.get("resources") or ():
                single = {"verbs": [verb], "apiGroups": [group], "resources": [resource]}
                names = rule.get("resourceNames") or ()
                if not names:
                    yield single
                for name in names:
                    yield {**single, "resourceNames": [name]}


def _covers(mine: Json, single: Json) -> bool:
    if not _has(mine.get("verbs"), single["verbs"][0]):
        return False
    if "nonResourceURLs" in single:
        wanted = single["nonResourceURLs"][0]
        return any(_path_matches(p, wanted) for p in mine.get("nonResourceURLs") or ())
    resource = single["resources"][0]
    _, slash, below = resource.partition("/")
    listed = set(mine.get("resources") or ())
    if not {"*", resource, f"*/{below}" if slash else resource} & listed:
        return False
    if not _has(mine.get("apiGroups"), single["apiGroups"][0]):
        return False
    names = mine.get("resourceNames") or ()
    return not names or set(single.get("resourceNames") or ("",)) <= set(names)


def _granting(data: Json) -> Any:
    return [data.get(f) for f in ("rules", "aggregationRule", "roleRef", "subjects")]


def _shown(rule: Json) -> str:
    fields = ("apiGroups", "resources", "resourceNames", "nonResourceURLs", "verbs")
    words = {"apiGroups": "APIGroups", "resources": "Resources", "verbs": "Verbs",
             "resourceNames": "ResourceNames", "nonResourceURLs": "NonResourceURLs"}  # fmt: skip
    parts = []
    for field in fields:
        listed = ", ".join(f'"{value}"' for value in rule.get(field) or ())
        if listed:
            parts.append(f"{words[field]}:[{listed}]")
    return "{" + ", ".join(parts) + "}"


def aggregated_rules(role: Json, roles: Sequence[Json]) -> list[Json] | None:
    """The rules a ClusterRole gathers from others; None when it gathers none."""
    selectors = (role.get("aggregationRule") or {}).get("clusterRoleSelectors")
    if not selectors:
        return None
    gathered: list[Json] = []
    for other in roles:
        labels = other["metadata"].get("labels") or {}
        is_itself = other["metadata"]["name"] == role["metadata"]["name"]
        if not is_itself and any(matches_selector(s, labels) for s in selectors):
            gathered += [r for r in other.get("rules") or () if r not in gathered]
    return gathered


def refused(user: User, asked: Attributes) -> StatusError:
    """The 403 of something that no rule allows."""
    if asked.path:
        return StatusError(
            403,
            "Forbidden",
            f'forbidden: User "{user.name}" cannot {asked.verb} path "{asked.path}"',
        )
    where = f' in the namespace "{asked.namespace}"' if asked.namespace else " at the cluster scope"
    name = f' "{asked.name}"' if asked.name else ""
    full = resource_name(asked.resource, asked.group)
    return StatusError(
        403,
        "Forbidden",
        f'{full}{name} is forbidden: User "{user.name}" cannot {asked.verb} resource '
        f'"{asked.full_resource}" in API group "{asked.group}"{where}',
        details={"name": asked.name, "group": asked.group, "kind": asked.resource},
    )

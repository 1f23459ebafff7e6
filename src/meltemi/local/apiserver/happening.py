"""What is about to be written or deleted: what is meant by it, and what is told of it."""

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from meltemi.api.kinds import Kind
from meltemi.local.apiserver.convert import converted
from meltemi.local.apiserver.operations import Write
from meltemi.local.apiserver.reviews import described
from meltemi.local.apiserver.selectors import matches_selector
from meltemi.local.apiserver.store import Resource, Store

Json = dict[str, Any]


class Happening(msgspec.Struct, frozen=True):
    """What is about to happen, as webhooks and policies match it and are told of it."""

    kind: Kind
    operation: str
    before: Json | None
    write: Write
    subresource: str

    @property
    def version(self) -> str:
        return self.write.version or self.kind.versions[0]

    def matched(
        self, match: Json, data: Json | None, store: Store, *, without_rules: bool = False
    ) -> str | None:
        """The version in which something wants to see this; None when it is not meant.

        `match`: a webhook, or what a policy or its binding is about. `without_rules`: it means
        everything when it has no rules.
        """
        name = str((data or self.before or {}).get("metadata", {}).get("name", ""))
        rules = match.get("rules") or match.get("resourceRules") or ()
        version: str | None = self.version
        if rules or not without_rules:
            version = self._version_for(match, rules, name)
        excluded = match.get("excludeResourceRules") or ()
        if version is None or any(self._matches(rule, version, name) for rule in excluded):
            return None
        labels = self._namespace_labels(data, store)
        if labels is not None and not matches_selector(match.get("namespaceSelector"), labels):
            return None
        objects = [o for o in (data, self.before) if o is not None]
        found = [o["metadata"].get("labels") or {} for o in objects]
        if not any(matches_selector(match.get("objectSelector"), own) for own in found):
            return None
        return version

    def _version_for(self, match: Json, rules: Sequence[Json], name: str) -> str | None:
        """The version asked for where a rule names it; else, with Equivalent, another one."""
        versions = [self.version]
        if match.get("matchPolicy", "Equivalent") == "Equivalent":
            versions += [v for v in self.kind.versions if v != self.version]
        for version in versions:
            if any(self._matches(rule, version, name) for rule in rules):
                return version
        return None

    def namespace(self, data: Json | None, store: Store) -> Json | None:
        """The namespace it happens in; None for what is in no namespace."""
        if not self.kind.namespaced:
            return None
        meta = (data or self.before or {}).get("metadata", {})
        found = store.get(Resource("", "namespaces"), "", meta.get("namespace", ""))
        return found.data if found else None

    def _namespace_labels(self, data: Json | None, store: Store) -> Json | None:
        """None for what is in no namespace: the selector does not count there."""
        if self.kind.name == "Namespace":
            return (data or self.before or {}).get("metadata", {}).get("labels") or {}
        if not self.kind.namespaced:
            return None
        found = self.namespace(data, store)
        return (found["metadata"].get("labels") or {}) if found else {}

    def _matches(self, rule: Json, version: str, name: str) -> bool:
        for field, own in (
            ("operations", self.operation),
            ("apiGroups", self.kind.group),
            ("apiVersions", version),
        ):
            listed = rule.get(field) or ()
            if "*" not in listed and own not in listed:
                return False
        if not set(self._resources()) & set(rule.get("resources") or ()):
            return False
        names = rule.get("resourceNames")
        if names and name not in names:
            return False
        scope = rule.get("scope", "*")
        return bool(scope == "*" or (scope == "Namespaced") == self.kind.namespaced)

    def _resources(self) -> Iterator[str]:
        plural, below = self.kind.plural, self.subresource
        yield "*/*"
        if below:
            yield from (f"{plural}/{below}", f"*/{below}", f"{plural}/*")
        else:
            yield from (plural, "*")

    def review(self, version: str, data: Json | None) -> Json:
        kind, meta = self.kind, (data or self.before or {}).get("metadata", {})
        request: Json = {
            "uid": str(uuid.uuid4()),
            **self._named(version, "kind", "resource"),
            **self._named(self.version, "requestKind", "requestResource"),
            "name": meta.get("name", ""),
            "namespace": meta.get("namespace", ""),
            "operation": self.operation,
            "userInfo": described(self.write.user),
            "object": self._shown(version, data),
            "oldObject": self._shown(version, self.before),
            "dryRun": self.write.dry_run,
            "options": {
                "kind": f"{self.operation.title()}Options",
                "apiVersion": "meta.k8s.io/v1",
                **self.write.options,
            },
        }
        if kind.name == "Namespace":
            request["namespace"] = meta.get("name", "")
        if self.subresource:
            request["subResource"] = request["requestSubResource"] = self.subresource
        return {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": request,
        }

    def _named(self, version: str, kind: str, resource: str) -> Json:
        base = {"group": self.kind.group, "version": version}
        return {
            kind: {**base, "kind": self.kind.name},
            resource: {**base, "resource": self.kind.plural},
        }

    def _shown(self, version: str, data: Json | None) -> Json | None:
        if data is None or version == self.kind.versions[0]:
            return data
        written = f"{self.kind.group}/{version}" if self.kind.group else version
        return {**converted(self.kind, version, data), "apiVersion": written}

"""The kinds that are served: the built-in table, and what CustomResourceDefinitions add."""

from collections.abc import Iterable
from typing import Any

from meltemi.api.kinds import KINDS, Kind
from meltemi.local.apiserver.store import Resource

Json = dict[str, Any]

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


class Registry:
    """Looks kinds up by path or name. Custom kinds come and go with their definitions."""

    def __init__(self) -> None:
        self._custom: dict[str, Kind] = {}
        self._schemas: dict[str, Json] = {}
        self.generation = 0
        """Grows with every change: discovery documents carry it."""
        self._index()

    def _index(self) -> None:
        self._kinds = {**{k.name: k for k in KINDS.values()}}
        self._kinds |= {f"{k.name}.{k.group}": k for k in self._custom.values()}
        self._by_path = {
            (k.group, v, k.plural): k for k in self._kinds.values() for v in k.versions
        }
        self.generation += 1

    def kinds(self) -> Iterable[Kind]:
        return self._kinds.values()

    def at(self, group: str, version: str, plural: str) -> Kind | None:
        return self._by_path.get((group, version, plural))

    def named(self, api_version: str, kind: str) -> Kind | None:
        """The kind an object's own words mean."""
        group, _, version = api_version.rpartition("/")
        for found in self._kinds.values():
            if found.name == kind and found.group == group and version in found.versions:
                return found
        return None

    def is_custom(self, kind: Kind) -> bool:
        """Strategic merge does not exist for custom resources."""
        return kind.group.endswith(".istio.io") or f"{kind.name}.{kind.group}" in self._kinds

    def define(self, definition: Json) -> None:
        """Serve what a CustomResourceDefinition describes; built-in kinds keep their own."""
        spec, names = definition["spec"], definition["spec"]["names"]
        if self._is_built_in(spec["group"], names["plural"]):
            return
        served = [v for v in spec["versions"] if v.get("served")]
        ordered = sorted(served, key=lambda v: not v.get("storage"))
        subresources = {s for v in served for s in v.get("subresources") or {}}
        self._custom[definition["metadata"]["name"]] = Kind(
            name=names["kind"],
            group=spec["group"],
            versions=tuple(v["name"] for v in ordered),
            plural=names["plural"],
            singular=names.get("singular") or names["kind"].lower(),
            short_names=tuple(names.get("shortNames") or ()),
            categories=tuple(names.get("categories") or ()),
            namespaced=spec["scope"] == "Namespaced",
            subresources=tuple(sorted(subresources & {"status", "scale"})),
        )
        for version in served:
            schema = (version.get("schema") or {}).get("openAPIV3Schema")
            if schema:
                self._schemas[f"{names['kind']}.{spec['group']}/{version['name']}"] = schema
        self._index()

    def forget(self, name: str) -> None:
        if self._custom.pop(name, None) is not None:
            self._index()

    def schema(self, kind: Kind, version: str) -> Json | None:
        return self._schemas.get(f"{kind.name}.{kind.group}/{version}")

    @staticmethod
    def _is_built_in(group: str, plural: str) -> bool:
        return any(k.group == group and k.plural == plural for k in KINDS.values())


def resource_of(kind: Kind) -> Resource:
    return Resource(kind.group, kind.plural)

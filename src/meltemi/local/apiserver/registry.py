"""The kinds that are served: the built-in table, and what CustomResourceDefinitions add."""

from collections.abc import Iterable, Sequence
from typing import Any

import jsonschema_rs
import msgspec

from meltemi.api.kinds import KINDS, Column, Kind
from meltemi.local.apiserver.cel.rules import Rules
from meltemi.local.apiserver.schema.definitions import definition_node
from meltemi.local.apiserver.schema.node import Node
from meltemi.local.apiserver.schema.structs import struct_node
from meltemi.local.apiserver.schema.tables import kind_node, object_meta, with_identity
from meltemi.local.apiserver.store import Resource

Json = dict[str, Any]

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


class Custom(msgspec.Struct, frozen=True):
    """One version of a custom kind."""

    schema: Json
    node: Node
    rules: Rules
    columns: Sequence[Column]
    validator: Any
    scale: Json | None


class Registry:
    """Looks kinds up by path or name. Custom kinds come and go with their definitions."""

    def __init__(self) -> None:
        self._custom: dict[str, Kind] = {}
        self._versions: dict[tuple[str, str, str], Custom] = {}
        self._nodes: dict[tuple[str, str, str], Node | None] = {}
        self.documents: dict[tuple[str, str], bytes] = {}
        """OpenAPI documents that were asked for, until the kinds change."""
        self.generation = 0
        """Grows with every change: discovery documents carry it."""
        self._index()

    def _index(self) -> None:
        self._kinds = {**{k.name: k for k in KINDS.values()}}
        self._kinds |= {f"{k.name}.{k.group}": k for k in self._custom.values()}
        self._by_path = {
            (k.group, v, k.plural): k for k in self._kinds.values() for v in k.versions
        }
        self._by_resource = {resource_of(k): k for k in self._kinds.values()}
        self._nodes.clear()
        self.documents.clear()
        self.generation += 1

    def kinds(self) -> Iterable[Kind]:
        return self._kinds.values()

    def at(self, group: str, version: str, plural: str) -> Kind | None:
        return self._by_path.get((group, version, plural))

    def of(self, resource: Resource) -> Kind | None:
        """The kind that a collection holds."""
        return self._by_resource.get(resource)

    def named(self, api_version: str, kind: str) -> Kind | None:
        """The kind an object's own words mean."""
        group, _, version = api_version.rpartition("/")
        for found in self._kinds.values():
            if found.name == kind and found.group == group and version in found.versions:
                return found
        return None

    def is_custom(self, kind: Kind) -> bool:
        """Strategic merge does not exist for custom resources, which the mesh's kinds are too."""
        return is_mesh(kind) or f"{kind.name}.{kind.group}" in self._kinds

    def node(self, kind: Kind, version: str) -> Node | None:
        """What an object of a kind looks like; None when nothing is known of it."""
        key = (kind.group, kind.name, version)
        if key not in self._nodes:
            self._nodes[key] = self._describe(kind, version)
        return self._nodes[key]

    def _describe(self, kind: Kind, version: str) -> Node | None:
        custom = self.custom(kind, version)
        if custom is not None:
            return custom.node
        if is_mesh(kind):
            return struct_node(kind.struct) if kind.struct is not None else _open(kind.name)
        return kind_node(kind.group, version, kind.name)

    def custom(self, kind: Kind, version: str) -> Custom | None:
        """What a definition says of one version."""
        return self._versions.get((kind.group, kind.name, version))

    def columns(self, kind: Kind, version: str) -> Sequence[Column]:
        custom = self.custom(kind, version)
        return custom.columns if custom is not None else kind.columns

    def define(self, definition: Json) -> None:
        """Serve what a CustomResourceDefinition describes; built-in kinds keep their own."""
        spec, names = definition["spec"], definition["spec"]["names"]
        if is_built_in(spec["group"], names["plural"]):
            return
        served = [v for v in spec["versions"] if v.get("served")]
        ordered = sorted(served, key=lambda v: not v.get("storage"))
        subresources = {s for v in served for s in v.get("subresources") or {}}
        self._forget_versions(spec["group"], names["kind"])
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
            key = (spec["group"], names["kind"], version["name"])
            self._versions[key] = _custom(version, names["kind"])
        self._index()

    def forget(self, name: str) -> None:
        kind = self._custom.pop(name, None)
        if kind is not None:
            self._forget_versions(kind.group, kind.name)
            self._index()

    def _forget_versions(self, group: str, kind: str) -> None:
        for key in [k for k in self._versions if k[:2] == (group, kind)]:
            del self._versions[key]


def _custom(version: Json, kind: str) -> Custom:
    schema = (version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"}
    columns = [
        Column(
            name=c["name"],
            json_path=c["jsonPath"],
            type=c["type"],
            description=c.get("description", ""),
            priority=c.get("priority", 0),
        )
        for c in version.get("additionalPrinterColumns") or ()
    ]
    return Custom(
        schema=schema,
        node=definition_node(schema, kind),
        rules=Rules(schema),
        columns=columns or [Column("Age", ".metadata.creationTimestamp", "date")],
        validator=jsonschema_rs.validator_for(
            plain_schema(schema), pattern_options=jsonschema_rs.RegexOptions()
        ),
        scale=(version.get("subresources") or {}).get("scale"),
    )


def compiled(schema: Json) -> Any:
    """A validator for a structural schema; patterns run in linear time. Raises ValueError."""
    return jsonschema_rs.validator_for(
        plain_schema(schema), pattern_options=jsonschema_rs.RegexOptions()
    )


def plain_schema(schema: Any, *, named: bool = False) -> Any:
    """A structural schema as JSON Schema: Kubernetes' own keywords are taken out.

    `named`: the keys are fields' names, not keywords.
    """
    if isinstance(schema, list):
        return [plain_schema(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    if named:
        return {k: plain_schema(v) for k, v in schema.items()}
    skipped = ("description", "default", "example", "format", "nullable", "enum")
    plain = {
        k: plain_schema(v, named=k in ("properties", "patternProperties"))
        for k, v in schema.items()
        if not k.startswith("x-kubernetes-") and k not in skipped
    }
    if "enum" in schema:
        plain["enum"] = schema["enum"]
    if schema.get("x-kubernetes-int-or-string"):
        plain.pop("type", None)
        plain["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("nullable") and isinstance(plain.get("type"), str):
        plain["type"] = [plain["type"], "null"]
    for limit in ("Maximum", "Minimum"):
        if plain.pop(f"exclusive{limit}", False) and limit.lower() in plain:
            plain[f"exclusive{limit}"] = plain.pop(limit.lower())
    return plain


def _open(name: str) -> Node:
    """A mesh kind that has no Struct yet: any spec."""
    spec = Node(word="any", keeps_unknown=True, doc="What is wanted; its fields are not described.")
    status = Node(word="any", keeps_unknown=True, doc="What the control plane reports.")
    fields = {"metadata": object_meta(), "spec": spec, "status": status}
    return with_identity(Node(name=name, fields=fields))


def is_mesh(kind: Kind) -> bool:
    return kind.group.endswith(".istio.io")


def is_built_in(group: str, plural: str) -> bool:
    return any(k.group == group and k.plural == plural for k in KINDS.values())


def resource_of(kind: Kind) -> Resource:
    return Resource(kind.group, kind.plural)

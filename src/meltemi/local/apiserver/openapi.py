"""OpenAPI v3, a document for each group and version, made from the descriptions in `schema`.

kubectl reads it to explain kinds and to learn which of them are patched how.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from meltemi.api.kinds import Kind
from meltemi.local.apiserver.discovery import groups
from meltemi.local.apiserver.registry import Registry, is_mesh
from meltemi.local.apiserver.schema.node import Node

Json = dict[str, Any]
_SCALARS: Mapping[str, Json] = {
    "string": {"type": "string"},
    "int": {"type": "integer", "format": "int64"},
    "number": {"type": "number", "format": "double"},
    "bool": {"type": "boolean"},
    "bytes": {"type": "string", "format": "byte"},
    "time": {"type": "string", "format": "date-time"},
    "microtime": {"type": "string", "format": "date-time"},
    "quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    "intorstring": {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"},
}
_CONTENT = "application/json"


def index(registry: Registry) -> Json:
    """Where each group's document is; the hash changes with every definition."""
    mark = hashlib.sha256(str(registry.generation).encode()).hexdigest()[:32]
    paths = {}
    for name, versions in groups(registry).items():
        for version in versions:
            path = f"apis/{name}/{version}" if name else f"api/{version}"
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={mark}"}
    return {"paths": paths}


def document(registry: Registry, group: str, version: str) -> bytes | None:
    """The document of a group version; None when it is not served."""
    kept = registry.documents.get((group, version))
    if kept is not None:
        return kept
    kinds = groups(registry).get(group, {}).get(version)
    if kinds is None:
        return None
    root = f"/apis/{group}/{version}" if group else f"/api/{version}"
    paths: Json = {}
    schemas = _Schemas(group, version)
    for kind in kinds:
        known = {"group": group, "version": version, "kind": kind.name}
        name = schemas.add_kind(registry, kind, known)
        paths.update(_paths(registry, root, kind, known, name))
    found = {
        "openapi": "3.0.0",
        "info": {"title": "Meltemi", "version": "v1.32.0"},
        "paths": paths,
        "components": {"schemas": schemas.found},
    }
    raw = registry.documents[group, version] = orjson.dumps(found)
    return raw


def _paths(registry: Registry, root: str, kind: Kind, known: Json, schema: str) -> Json:
    where = "/namespaces/{namespace}" if kind.namespaced else ""
    one = f"{root}{where}/{kind.plural}/{{name}}"
    verbs = ("get", "put", "patch", "delete")
    paths: Json = {
        one: {verb: _operation(verb, known, schema) for verb in verbs},
        f"{root}{where}/{kind.plural}": {
            "post": _operation("post", known, schema),
            "get": _operation("list", known, schema),
        },
    }
    if "status" in kind.subresources:
        paths[f"{one}/status"] = {v: _operation(v, known, schema) for v in verbs[:3]}
    return paths


def _operation(verb: str, known: Json, schema: str) -> Json:
    """Strategic merge is not named: kubectl would then work out patches from these documents,
    and without it does so from the types it was built with, which is what it is tested with."""
    reference = {"$ref": f"#/components/schemas/{schema}"}
    names = ("dryRun", "fieldManager", "fieldValidation", "force", "pretty")
    answers = {"description": "OK", "content": {_CONTENT: {"schema": reference}}}
    operation: Json = {
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": known,
        "parameters": [{"name": n, "in": "query", "schema": {"type": "string"}} for n in names],
        "responses": {"200": answers},
    }
    if verb == "patch":
        forms = ("json-patch+json", "merge-patch+json", "apply-patch+yaml")
        content = {f"application/{form}": {"schema": {"type": "object"}} for form in forms}
        operation["requestBody"] = {"content": content}
    elif verb in ("put", "post"):
        operation["requestBody"] = {"content": {_CONTENT: {"schema": reference}}}
    return operation


_V2_ASKED = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
_V2_ANSWERED = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""Clients ask with an @, which is no media type that they could read in an answer."""


def second(accept: str) -> tuple[bytes, str]:
    """OpenAPI v2 without any kinds, and its media type.

    kubectl asks for it before it applies a `kind: List`, and goes on without schemas when it finds
    none: the server checks fields itself. Everything that is described is in v3.
    """
    if _V2_ASKED in accept:
        # Document: swagger = 1, info = 2 (title = 1, version = 2), paths = 8.
        info = b"\x0a\x07Meltemi\x12\x07v1.32.0"
        return b"\x0a\x032.0\x12" + bytes((len(info),)) + info + b"\x42\x00", _V2_ANSWERED
    info_json = {"title": "Meltemi", "version": "v1.32.0"}
    return orjson.dumps({"swagger": "2.0", "info": info_json, "paths": {}}), _CONTENT


class _Schemas:
    """Collects schemas under names; types that contain themselves are named once."""

    def __init__(self, group: str, version: str) -> None:
        self.found: Json = {}
        self._prefix = ".".join((*reversed((group or "core").split(".")), version))
        self._names: dict[int, str] = {}
        self._kept: list[Node] = []

    def add_kind(self, registry: Registry, kind: Kind, known: Json) -> str:
        name = f"{self._prefix}.{kind.name}"
        custom = registry.custom(kind, known["version"])
        node = registry.node(kind, known["version"])
        if custom is not None:
            schema = {**custom.schema, "properties": {
                **_identity(), **(custom.schema.get("properties") or {}),
                "metadata": self.of(custom.node.fields["metadata"]),
            }}  # fmt: skip
        elif node is None:
            schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        else:
            schema = self._object(node)
            if is_mesh(kind) and not schema.get("description"):
                schema["description"] = f"A {kind.name} of the mesh."
        self.found[name] = {**schema, "x-kubernetes-group-version-kind": [known]}
        return name

    def of(self, node: Node) -> Json:
        """A value's schema: named types by reference."""
        schema = self._bare(node)
        if "$ref" in schema:
            if not node.doc and node.default is msgspec.UNSET:
                return schema
            schema = {"allOf": [schema]}
        else:
            schema = dict(schema)
        if node.doc:
            schema["description"] = node.doc
        if node.default is not msgspec.UNSET:
            schema["default"] = node.default
        if node.enum:
            schema["enum"] = list(node.enum)
        return schema

    def _bare(self, node: Node) -> Json:
        match node.word:
            case "object" if node.name:
                return {"$ref": f"#/components/schemas/{self._named(node)}"}
            case "object":
                return self._object(node)
            case "map":
                assert node.item is not None
                schema: Json = {"type": "object", "additionalProperties": self.of(node.item)}
                return {**schema, "x-kubernetes-map-type": "atomic"} if node.is_atomic else schema
            case "list":
                return self._list(node)
            case "any":
                return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        return _SCALARS[node.word]

    def _list(self, node: Node) -> Json:
        assert node.item is not None
        schema: Json = {"type": "array", "items": self.of(node.item),
                        "x-kubernetes-list-type": node.list_type}  # fmt: skip
        if node.list_type == "map":
            schema["x-kubernetes-list-map-keys"] = list(node.keys)
        if node.merge_key is not None:
            schema["x-kubernetes-patch-strategy"] = "merge"
            if node.merge_key:
                schema["x-kubernetes-patch-merge-key"] = node.merge_key
        return schema

    def _named(self, node: Node) -> str:
        """The name of a type's schema; types with one name but other fields are numbered."""
        known = self._names.get(id(node.fields))
        if known is not None:
            return known
        name = base = f"{self._prefix}.{node.name}"
        number = 2
        while name in self.found:
            name, number = f"{base}{number}", number + 1
        self._names[id(node.fields)] = name
        self._kept.append(node)
        self.found[name] = {}
        self.found[name] = self._object(node)
        return name

    def _object(self, node: Node) -> Json:
        schema: Json = {
            "type": "object",
            "properties": {name: self.of(field) for name, field in node.fields.items()},
        }
        required = [name for name, field in node.fields.items() if field.is_required]
        if required:
            schema["required"] = required
        if node.doc:
            schema["description"] = node.doc
        if node.is_atomic:
            schema["x-kubernetes-map-type"] = "atomic"
        if node.keeps_unknown:
            schema["x-kubernetes-preserve-unknown-fields"] = True
        return schema


def _identity() -> Json:
    return {
        "apiVersion": {"type": "string", "description": "The version the object is written in."},
        "kind": {"type": "string", "description": "What the object is."},
    }

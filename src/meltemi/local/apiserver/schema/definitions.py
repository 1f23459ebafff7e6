"""Custom kinds: Nodes from the structural schemas of their definitions."""

from typing import Any

import msgspec

from meltemi.local.apiserver.schema.node import ANY, Node, Word
from meltemi.local.apiserver.schema.tables import object_meta, with_identity

Json = dict[str, Any]
_WORDS: dict[str, Word] = {
    "string": "string", "integer": "int", "number": "number", "boolean": "bool",
    "object": "object", "array": "list",
}  # fmt: skip
_BASE = "x-kubernetes-"


def definition_node(schema: Json, name: str) -> Node:
    """The description of a custom kind at one version."""
    node = _of_schema(schema)
    fields = {k: v for k, v in node.fields.items() if k not in ("apiVersion", "kind")}
    fields["metadata"] = object_meta()
    node = msgspec.structs.replace(node, word="object", name=name, fields=fields, item=None)
    return with_identity(node)


def _of_schema(schema: Json) -> Node:
    if schema.get(_BASE + "int-or-string"):
        return _common(Node(word="intorstring"), schema)
    if "type" not in schema and not schema.get("properties"):
        return _common(msgspec.structs.replace(ANY), schema)
    node = _common(Node(word=_WORDS.get(schema.get("type", "object"), "any")), schema)
    if node.word == "object":
        _fill_object(node, schema)
    elif node.word == "list":
        node.item = _of_schema(schema.get("items") or {})
        node.list_type = schema.get(_BASE + "list-type", "atomic")
        node.keys = tuple(schema.get(_BASE + "list-map-keys") or ())
    return node


def _fill_object(node: Node, schema: Json) -> None:
    node.is_atomic = schema.get(_BASE + "map-type") == "atomic"
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict) and not schema.get("properties"):
        node.word, node.item = "map", _of_schema(extra)
        return
    node.keeps_unknown = bool(schema.get(_BASE + "preserve-unknown-fields")) or extra is True
    for name, inner in (schema.get("properties") or {}).items():
        node.fields[name] = _of_schema(inner)
        node.fields[name].is_required = name in (schema.get("required") or ())
    if schema.get(_BASE + "embedded-resource"):
        node.fields.setdefault("apiVersion", Node(word="string"))
        node.fields.setdefault("kind", Node(word="string"))
        node.fields["metadata"] = object_meta()


def _common(node: Node, schema: Json) -> Node:
    node.doc = str(schema.get("description", ""))
    node.is_nullable = bool(schema.get("nullable"))
    if "default" in schema:
        node.default = schema["default"]
    if all(isinstance(v, str) for v in schema.get("enum") or ()):
        node.enum = tuple(schema.get("enum") or ())
    return node

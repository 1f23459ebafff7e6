"""The mesh's kinds: Nodes from the Structs that the control plane reads, docstrings included."""

import ast
import inspect
import itertools
import sys
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

import msgspec
from msgspec import inspect as types

from meltemi.api.meta import Duration, Object
from meltemi.local.apiserver.schema.node import ANY, STRING, Node
from meltemi.local.apiserver.schema.tables import object_meta, with_identity

_SPEC_ONLY = frozenset({"kind", "apiVersion", "metadata"})


@cache
def struct_node(struct: type[Object]) -> Node:
    """The description of a kind that has a Struct."""
    node = _of_struct(struct, {})
    fields = {k: v for k, v in node.fields.items() if k not in _SPEC_ONLY}
    fields.setdefault("status", Node(keeps_unknown=True, doc="What the control plane reports."))
    meta = msgspec.structs.replace(object_meta(), doc="Name, labels and the like.")
    return with_identity(msgspec.structs.replace(node, fields={"metadata": meta, **fields}))


def _of_struct(struct: type[msgspec.Struct], known: dict[type, Node]) -> Node:
    if struct in known:
        return known[struct]
    name, words = struct.__name__, _words()
    node = known[struct] = Node(name=name, doc=_plain(struct.__doc__) or words.get(name, ""))
    docs = _field_docs(struct)
    for field in msgspec.structs.fields(struct):
        found = _of_type(types.type_info(field.type), known)
        doc = docs.get(field.name) or words.get(f"{name}.{field.encode_name}") or found.doc
        node.fields[field.encode_name] = msgspec.structs.replace(
            found, doc=doc, is_required=field.required
        )
    return node


def _of_type(found: types.Type, known: dict[type, Node]) -> Node:
    match found:
        case types.StructType():
            return _of_struct(found.cls, known)
        case types.StrType():
            return STRING
        case types.BoolType():
            return Node(word="bool")
        case types.IntType():
            return Node(word="int")
        case types.FloatType():
            return Node(word="number")
        case types.VarTupleType() | types.ListType() | types.SetType() | types.FrozenSetType():
            return Node(word="list", item=_of_type(found.item_type, known))
        case types.DictType():
            return Node(word="map", item=_of_type(found.value_type, known))
        case types.EnumType():
            return Node(word="string", enum=tuple(str(m.value) for m in found.cls))
        case types.LiteralType():
            return Node(word="string", enum=tuple(str(v) for v in found.values))
        case types.CustomType() if found.cls is Duration:
            return Node(word="string")
        case types.UnionType():
            return _of_union(found, known)
    return ANY


def _of_union(found: types.UnionType, known: dict[type, Node]) -> Node:
    left = [t for t in found.types if not isinstance(t, types.NoneType)]
    if len(left) == 1:
        return _of_type(left[0], known)
    if {type(t) for t in left} == {types.IntType, types.StrType}:
        return Node(word="intorstring")
    return ANY


@cache
def _words() -> dict[str, str]:
    """`mesh.txt`: `STRUCT : text` and `STRUCT.field : text`."""
    text = resources.files(__package__).joinpath("mesh.txt").read_text()
    lines = (line.partition(" : ") for line in text.splitlines() if not line.startswith("#"))
    return {head: doc for head, _, doc in lines}


def _field_docs(struct: type[Any]) -> dict[str, str]:
    """The docstrings that stand below fields, those of bases included."""
    docs: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            docs |= _module_docs(base.__module__).get(base.__name__, {})
    return docs


@cache
def _module_docs(module: str) -> dict[str, dict[str, str]]:
    """Field docstrings by class."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    found: dict[str, dict[str, str]] = {}
    for struct in tree.body:
        if isinstance(struct, ast.ClassDef):
            found[struct.name] = dict(_documented(struct.body))
    return found


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, after in itertools.pairwise(body):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        value = after.value if isinstance(after, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield field.target.id, _plain(value.value)


def _plain(doc: str | None) -> str:
    if doc is None or doc.startswith("msgspec"):
        return ""
    return " ".join(doc.split())

"""Kubernetes' own kinds, from the tables beside this file.

A table is one API group. A type begins at the margin; each field is a line below it: its
protobuf number, its name, its type, marks, and after ` : ` what it means, in our words.

    Container : A program that runs in a pod.
     1 name string required : Its name, unique within the pod.
     6 ports [ContainerPort] map(containerPort,protocol) merge(containerPort) : Ports it serves.

Types: a scalar, `A|B|C` for one of these words, `[T]` for a list, `{T}` for a map, or a type of
this table, of core or of meta. A name in angle brackets is a part written into the object itself.
Marks: `required`, `atomic`, `set`, `map(KEYS)`, `merge(KEY)`, `=DEFAULT`, and `zero` where zero is
not the same as unset.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

import msgspec

from meltemi.local.apiserver.schema.node import ANY, STRING, Node

_SCALARS = {
    "string", "int", "number", "bool", "bytes", "time", "microtime", "quantity", "intorstring",
}  # fmt: skip
_SHARED = ("core", "meta")
_FILES = {"autoscaling/v1": "autoscalingv1"}


@cache
def types(table: str) -> Mapping[str, Node]:
    """All types of one table by name."""
    text = resources.files(__package__).joinpath(f"{table}.txt").read_text()
    found: dict[str, Node] = {}
    for line in text.splitlines():
        if line and line[0] not in " #":
            head, _, doc = line.partition(" : ")
            name, *marks = head.split()
            found[name] = Node(name=name, doc=doc, is_atomic="atomic" in marks)
    current = Node()
    for line in text.splitlines():
        if line.startswith(" "):
            _read_field(line, current, found, table)
        elif line and line[0] != "#":
            current = found[line.split()[0]]
    for node in found.values():
        for part in node.parts.values():
            node.fields.update({k: v for k, v in part.fields.items() if k not in node.fields})
    return found


def _read_field(line: str, owner: Node, own: Mapping[str, Node], table: str) -> None:
    head, _, doc = line.partition(" : ")
    number, name, written, *marks = head.split()
    owner.numbers[int(number)] = name
    known = _type(written, own, table)
    node = msgspec.structs.replace(
        known,
        doc=doc.strip() or known.doc,
        is_required="required" in marks,
        keeps_zero="zero" in marks,
    )
    if name.startswith("<"):
        owner.parts[name] = node
        return
    for mark in marks:
        _mark(node, mark)
    if node.merge_key is not None and node.list_type == "atomic":
        node.list_type = "map" if node.merge_key else "set"
        node.keys = (node.merge_key,) if node.merge_key else ()
    owner.fields[name] = node


def _mark(node: Node, mark: str) -> None:
    if mark == "atomic":
        node.is_atomic = True
    elif mark == "set":
        node.list_type = "set"
    elif mark.startswith("map("):
        node.list_type, node.keys = "map", tuple(mark[4:-1].split(","))
    elif mark.startswith("merge("):
        node.merge_key = mark[6:-1]
    elif mark.startswith("="):
        node.default = msgspec.json.decode(mark[1:])


def _type(written: str, own: Mapping[str, Node], table: str) -> Node:
    if written[0] in "[{":
        item = _type(written[1:-1], own, table)
        return Node(word="list" if written[0] == "[" else "map", item=item)
    if "|" in written:
        return Node(word="string", enum=tuple(written.split("|")))
    if written in _SCALARS:
        return STRING if written == "string" else Node(word=written)  # type: ignore[arg-type]
    if written == "any":
        return ANY
    if written in own:
        return own[written]
    if written in ("schemaorlist", "schemaorbool"):
        return msgspec.structs.replace(ANY, name=own["JSONSchemaProps"].name)
    for shared in _SHARED:
        if shared != table and written in _names(shared):
            return types(shared)[written]
    raise ValueError(f"{table}.txt: no type is called {written}")


@cache
def _names(table: str) -> frozenset[str]:
    text = resources.files(__package__).joinpath(f"{table}.txt").read_text()
    return frozenset(re.findall(r"^(\w+)", text, re.MULTILINE))


def object_meta() -> Node:
    return types("meta")["ObjectMeta"]


@cache
def kind_node(group: str, version: str, name: str) -> Node | None:
    """The description of a kind of Kubernetes' own; None when no table has it."""
    table = _FILES.get(f"{group}/{version}", group.partition(".")[0] or "core")
    if not resources.files(__package__).joinpath(f"{table}.txt").is_file():
        return None
    found = types(table).get(name)
    if found is None and group in ("", "autoscaling"):
        found = types("meta").get(name)
    if found is None:
        return None
    return with_identity(found)


def with_identity(node: Node) -> Node:
    """A kind has `apiVersion` and `kind` besides what its type lists."""
    identity = {
        "apiVersion": Node(word="string", doc="The group and version the object is written in."),
        "kind": Node(word="string", doc="What the object is."),
    }
    return msgspec.structs.replace(node, fields={**identity, **node.fields})

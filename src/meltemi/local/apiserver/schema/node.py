"""Node: the description of one value of the API."""

from typing import Any, Literal

import msgspec

Word = Literal[
    "object", "map", "list", "any", "string", "int", "number", "bool", "bytes", "time",
    "microtime", "quantity", "intorstring",
]  # fmt: skip


class Node(msgspec.Struct, kw_only=True, eq=False):
    """One value: an object with fields, a map, a list or a scalar.

    Built once and then only read. Nodes of one type share `fields`, so that types may contain
    themselves.
    """

    word: Word = "object"
    name: str = ""
    """The type's name, for objects that have one."""
    fields: dict[str, "Node"] = msgspec.field(default_factory=dict)
    numbers: dict[int, str] = msgspec.field(default_factory=dict)
    """Field names by protobuf number; a name in angle brackets is part of the object itself."""
    parts: dict[str, "Node"] = msgspec.field(default_factory=dict)
    """The types of such parts, by the name in brackets."""
    item: "Node | None" = None
    """What a map's values or a list's items are."""
    list_type: Literal["atomic", "set", "map"] = "atomic"
    keys: tuple[str, ...] = ()
    """The fields that tell the items of a list of type map apart."""
    is_atomic: bool = False
    """The object or map is owned and replaced as a whole."""
    merge_key: str | None = None
    """Strategic merge: items merge by this field; empty for lists of plain values."""
    keeps_unknown: bool = False
    is_nullable: bool = False
    is_required: bool = False
    keeps_zero: bool = False
    """Zero is not the same as unset, which protobuf does not tell apart by itself."""
    default: Any = msgspec.UNSET
    enum: tuple[str, ...] = ()
    doc: str = ""

    def child(self, name: str) -> "Node | None":
        """The description of a field or a map's value; None when nothing is known of it."""
        if self.word == "map":
            return self.item
        return self.fields.get(name)


ANY = Node(word="any", keeps_unknown=True)
STRING = Node(word="string")

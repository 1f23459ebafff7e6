"""Merging messages as EnvoyFilter's MERGE means it.

Protobuf's merge with three differences: durations and wrapped values are scalars and replace,
`Any`s of one type are merged inside, and lists may replace instead of append.
"""

from typing import Any

from google.protobuf.message import Message

from meltemi.base.resource import TYPE_PREFIX
from meltemi.protos.pool import Protos

_SCALARS = frozenset(
    f"google.protobuf.{name}"
    for name in (
        *("Duration", "BoolValue", "BytesValue", "DoubleValue", "FloatValue"),
        *("Int32Value", "Int64Value", "StringValue", "UInt32Value", "UInt64Value"),
    )
)
_ANY = "google.protobuf.Any"


def merge(protos: Protos, target: Any, patch: Any, *, replace_lists: bool = False) -> None:
    """Merge `patch` into `target`, a message of the same type."""
    for field, value in patch.ListFields():
        name = field.name
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _merge_map(protos, getattr(target, name), value, field, replace_lists)
        elif field.is_repeated:
            if replace_lists:
                target.ClearField(name)
            getattr(target, name).MergeFrom(value)
        elif field.message_type is None:
            setattr(target, name, value)
        else:
            _merge_message(protos, target, name, value, replace_lists)


def _merge_message(protos: Protos, target: Any, name: str, value: Any, replace_lists: bool) -> None:
    kind = value.DESCRIPTOR.full_name
    if kind in _SCALARS or not target.HasField(name):
        getattr(target, name).CopyFrom(value)
    elif kind == _ANY:
        merge_any(protos, getattr(target, name), value, replace_lists=replace_lists)
    else:
        merge(protos, getattr(target, name), value, replace_lists=replace_lists)


def _merge_map(protos: Protos, target: Any, value: Any, field: Any, replace_lists: bool) -> None:
    inner = field.message_type.fields_by_name["value"].message_type
    for key in value:
        if inner is None:
            target[key] = value[key]
        elif inner.full_name == _ANY and key in target:
            merge_any(protos, target[key], value[key], replace_lists=replace_lists)
        else:
            target[key].CopyFrom(value[key])


def merge_any(protos: Protos, target: Any, patch: Any, *, replace_lists: bool = False) -> None:
    """Merge inside when both hold the same type; otherwise the patch replaces."""
    if target.type_url != patch.type_url:
        target.CopyFrom(patch)
        return
    inside, more = unpack(protos, target), unpack(protos, patch)
    merge(protos, inside, more, replace_lists=replace_lists)
    pack(target, inside)


def unpack(protos: Protos, packed: Any) -> Any:
    """The message inside an Any. Raises UnknownMessage."""
    message: Message = protos.message(packed.type_url.removeprefix(TYPE_PREFIX))()
    message.ParseFromString(packed.value)
    return message


def pack(target: Any, message: Any) -> None:
    target.type_url = TYPE_PREFIX + message.DESCRIPTOR.full_name
    target.value = message.SerializeToString(deterministic=True)

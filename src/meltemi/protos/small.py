"""Message classes for a handful of fields, without Envoy's descriptors and their memory."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2
from google.protobuf.message import Message

Schema = Mapping[str, Mapping[str, tuple[int, str]]]
"""Message, field: (number, type). A star repeats it; `Struct` is google.protobuf.Struct."""

_SCALARS = {"string": 9, "bytes": 12, "int32": 5, "int64": 3, "uint32": 13, "bool": 8, "double": 1}
_MESSAGE = 11
_OPTIONAL, _REPEATED = 1, 3


def message_classes(package: str, schema: Schema) -> Mapping[str, type[Message]]:
    """Build classes for a schema, in a pool of their own; field numbers are the wire's truth."""
    pool = descriptor_pool.DescriptorPool()
    struct = descriptor_pb2.FileDescriptorProto()
    struct_pb2.DESCRIPTOR.CopyToProto(struct)
    pool.Add(struct)
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto3", dependency=[struct.name]
    )
    for name, fields in schema.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _field(message.field.add(name=field, number=number), kind, package)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in schema
    }


def _field(target: Any, kind: str, package: str) -> None:
    target.label = _REPEATED if kind.endswith("*") else _OPTIONAL
    name = kind.rstrip("*")
    if name in _SCALARS:
        target.type = _SCALARS[name]
        return
    target.type = _MESSAGE
    target.type_name = ".google.protobuf.Struct" if name == "Struct" else f".{package}.{name}"

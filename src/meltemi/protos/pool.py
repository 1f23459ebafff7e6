"""A descriptor pool that grows as messages are asked for."""

import hashlib
import importlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

from meltemi.base.resource import TYPE_PREFIX
from meltemi.protos.extract import extract

_REMEMBERED = 2048
"""Converted messages kept, a few kilobytes each."""


class UnknownMessage(KeyError):
    """The installed Envoy has no message of this name."""


def load(binary: Path, cache_dir: Path) -> "Protos":
    """The messages of an Envoy binary; the cache is keyed by the binary's path, size and time."""
    stat = binary.stat()
    mark = f"{binary}:{stat.st_size}:{stat.st_mtime_ns}"
    cached = cache_dir / f"envoy-{hashlib.blake2b(mark.encode(), digest_size=8).hexdigest()}.pb"
    files = descriptor_pb2.FileDescriptorSet()
    try:
        files.ParseFromString(cached.read_bytes())
    except FileNotFoundError:
        files = extract(binary)
        cache_dir.mkdir(parents=True, exist_ok=True)
        partial = cached.with_suffix(".partial")
        partial.write_bytes(files.SerializeToString())
        partial.rename(cached)
    return Protos(files)


class Protos:
    """Message classes by full name."""

    def __init__(self, files: descriptor_pb2.FileDescriptorSet) -> None:
        self._files = {file.name: file for file in files.file}
        self._homes = {
            f"{file.package}.{message.name}": file.name
            for file in files.file
            for message in file.message_type
        }
        self._pool = descriptor_pool.DescriptorPool()
        self._added: set[str] = set()
        self._converted: dict[tuple[str, bytes], bytes] = {}
        self.message = lru_cache(maxsize=None)(self._message)
        """The class of a message by its full name, `envoy.config.cluster.v3.Cluster`."""

    def _message(self, name: str) -> type[Message]:
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            home = self._homes.get(".".join(parts[:end]))
            if home is not None:
                self._add(home)
                return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name))
        raise UnknownMessage(name)

    def _add(self, name: str) -> None:
        if name in self._added:
            return
        self._added.add(name)
        file = self._files.get(name) or _installed(name)
        for dependency in file.dependency:
            self._add(dependency)
        self._pool.Add(file)

    def new(self, name: str, /, **fields: Any) -> Any:
        """A message with fields set; its type is only known at run time."""
        return self.message(name)(**fields)

    def from_dict(self, name: str, data: Mapping[str, Any]) -> Any:
        """A message from its JSON form; nested `@type`s become Anys. Raises json_format.ParseError.

        Converting is slow, and proxies share most of their filter chains: equal data is converted
        once, and then read from bytes.
        """
        mark = hashlib.blake2b(msgspec.json.encode(data), digest_size=16).digest()
        body = self._converted.get((name, mark))
        if body is None:
            if len(self._converted) >= _REMEMBERED:
                self._converted.clear()
            body = self._converted[name, mark] = self._convert(name, data)
        message = self.message(name)()
        message.ParseFromString(body)
        return message

    def _convert(self, name: str, data: Mapping[str, Any]) -> bytes:
        message = self.message(name)()
        self._know_types(data)
        json_format.ParseDict(dict(data), message, descriptor_pool=self._pool)
        return serialize(message)

    def _know_types(self, data: Any) -> None:
        if isinstance(data, Mapping):
            url = data.get("@type")
            if isinstance(url, str):
                self.message(url.removeprefix(TYPE_PREFIX))
            for value in data.values():
                self._know_types(value)
        elif isinstance(data, list | tuple):
            for value in data:
                self._know_types(value)

    def to_dict(self, message: Message) -> dict[str, Any]:
        """The JSON form, Anys expanded."""
        data: dict[str, Any] = json_format.MessageToDict(
            message, preserving_proto_field_name=True, descriptor_pool=self._pool
        )
        return data

    def pack(self, message: Message) -> any_pb2.Any:
        """Put a message into an Any, with deterministic bytes."""
        return any_pb2.Any(
            type_url=TYPE_PREFIX + message.DESCRIPTOR.full_name, value=serialize(message)
        )


def serialize(message: Message) -> bytes:
    """Deterministic bytes."""
    return message.SerializeToString(deterministic=True)


def _installed(name: str) -> descriptor_pb2.FileDescriptorProto:
    """A file that comes with the protobuf library itself."""
    module = importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    return file

"""The few shapes that every builder needs. Messages come from the installed Envoy's descriptors,
so their types are only known at run time: `Any` is honest here."""

import datetime
from collections.abc import Callable, Hashable
from typing import Any

from meltemi.base.resource import TYPE_PREFIX
from meltemi.compile.envoy.structs import struct_bytes
from meltemi.model.route import Exact, Matcher, Prefix, Regex
from meltemi.protos import Protos

ADS = {"ads": {}, "resource_api_version": "V3"}
_REMEMBERED = 2048
"""Messages kept as bytes, a few kilobytes each."""


class Kit:
    """Message classes, and helpers that fill fields in place."""

    def __init__(self, protos: Protos) -> None:
        self.protos = protos
        self._remembered: dict[Hashable, bytes] = {}

    def new(self, message: str, /, **fields: Any) -> Any:
        return self.protos.new(message, **fields)

    def from_dict(self, name: str, data: dict[str, Any]) -> Any:
        return self.protos.from_dict(name, data)

    def remembered(self, key: Hashable, make: Callable[[], Any]) -> bytes:
        """The bytes of the message that `make` writes; `key` is all that it depends on."""
        body = self._remembered.get(key)
        if body is None:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            body = self._remembered[key] = make().SerializeToString(deterministic=True)
        return body

    def pack(self, target: Any, message: Any) -> None:
        """Put a message into an Any field."""
        target.type_url = TYPE_PREFIX + message.DESCRIPTOR.full_name
        target.value = message.SerializeToString(deterministic=True)

    def named(self, target: Any, name: str, message: Any) -> None:
        """Fill a `name` + `typed_config` pair: a filter, an access logger, a transport socket."""
        target.name = name
        self.pack(target.typed_config, message)


def set_duration(target: Any, value: datetime.timedelta | float) -> None:
    """Fill a protobuf Duration from a timedelta or seconds."""
    span = value if isinstance(value, datetime.timedelta) else datetime.timedelta(seconds=value)
    target.seconds = span // datetime.timedelta(seconds=1)
    target.nanos = span.microseconds * 1000
    target.SetInParent()


UNIX = "unix://"


def set_address(target: Any, address: str, port: int) -> None:
    """An IP address or a name, or the path of a unix socket."""
    if address.startswith(UNIX):
        target.pipe.path = address.removeprefix(UNIX)
        return
    target.socket_address.address = address
    target.socket_address.port_value = port


def set_matcher(target: Any, matcher: Matcher, *, ignore_case: bool = False) -> None:
    """Fill a StringMatcher; Present has no such form and is the caller's to write."""
    match matcher:
        case Exact(value):
            target.exact = value
        case Prefix(value):
            target.prefix = value
        case Regex(value):
            target.safe_regex.regex = value
            return
        case _:
            raise TypeError(f"{matcher} is not a string matcher")
    target.ignore_case = ignore_case


def per_million(percent: float) -> int:
    """A percentage in Envoy's finest unit."""
    return round(percent * 10_000)


def set_fraction(target: Any, percent: float) -> None:
    """Fill a FractionalPercent."""
    target.numerator = per_million(percent)
    target.denominator = 2


def set_struct(target: Any, data: dict[str, Any]) -> None:
    """Fill a protobuf Struct from plain data."""
    target.MergeFromString(struct_bytes(data))

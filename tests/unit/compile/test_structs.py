"""Structs that are written directly are what protobuf writes."""

from typing import Any

from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from meltemi.compile.envoy.structs import element, joined, struct_bytes

_LEAVES = st.text(max_size=300) | st.booleans() | st.integers(-1000, 1000) | st.floats(-10, 10)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
_STRUCTS = st.dictionaries(st.text(), _VALUES, max_size=6)


@given(_STRUCTS)
def test_bytes_are_read_as_the_data(data: dict[str, Any]) -> None:
    message = struct_pb2.Struct()
    message.update(data)
    assert struct_pb2.Struct.FromString(struct_bytes(data)) == message


@given(_STRUCTS)
def test_the_order_of_keys_changes_nothing(data: dict[str, Any]) -> None:
    assert struct_bytes(dict(reversed(data.items()))) == struct_bytes(data)


def test_a_list_may_be_joined_from_elements_that_were_kept() -> None:
    kept = [element({"name": "a"}), element("b")]
    assert struct_bytes({"all": joined(kept)}) == struct_bytes({"all": [{"name": "a"}, "b"]})

"""Protobuf's wire format, for what is joined from prepared pieces instead of built as messages."""


def varint(value: int) -> bytes:
    """An unsigned number, seven bits a byte."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def head(number: int, length: int) -> bytes:
    """What stands before the bytes of a string, of a message or of bytes; `number` is below 16."""
    if length < 0x80:
        return bytes((number << 3 | 2, length))
    return bytes((number << 3 | 2,)) + varint(length)


def field(number: int, value: bytes) -> bytes:
    """A field that holds bytes: a string, a message or bytes."""
    return head(number, len(value)) + value


def text(number: int, value: str) -> bytes:
    """A string; proto3 leaves an empty one out."""
    return field(number, value.encode()) if value else b""

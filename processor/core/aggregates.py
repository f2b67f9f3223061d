"""Records of the Kinesis Producer Library, which packs many user records into one of the stream's.

The format (KPL, aggregation-format.md): 4 bytes of magic, a protobuf message, and the MD5 of that message. Of the message only
field 3, the records, and of these field 3, the payload, are read here: 40 lines instead of a protobuf library.
"""

import hashlib
from collections.abc import Iterator

MAGIC = b"\xf3\x89\x9a\xc2"
_DIGEST_BYTES = 16

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_RECORDS = _PAYLOAD = 3

VARINT_BYTES_MAX = 10


def split_aggregate(payload: bytes) -> list[bytes] | None:
    """The payloads in an aggregated record, in order; one of another kind comes back alone. None where it is broken."""
    if not payload.startswith(MAGIC):
        return [payload]
    message, digest = payload[len(MAGIC) : -_DIGEST_BYTES], payload[-_DIGEST_BYTES:]
    if hashlib.md5(message, usedforsecurity=False).digest() != digest:
        return [payload]  # No aggregate: KPL's own deaggregator takes it as a plain record, too.
    try:
        return [
            payload
            for number, record in _read_fields(message)
            if number == _RECORDS
            for inner, payload in _read_fields(record)
            if inner == _PAYLOAD
        ]
    except (IndexError, ValueError):
        return None


def _read_fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each field that has a length; others are passed over. Raises IndexError or ValueError."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        kind = key & 7
        if kind == _LENGTH:
            size, at = _read_varint(message, at)
            if at + size > len(message):
                raise ValueError("a field is longer than its message")
            yield key >> 3, message[at : at + size]
            at += size
        elif kind == _VARINT:
            _, at = _read_varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of kind {kind}")


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(VARINT_BYTES_MAX):
        byte = message[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number is longer than it may be")

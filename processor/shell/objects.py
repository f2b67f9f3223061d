"""Log files in S3 -> decoded slices with their positions.

A file is known by a hash of bucket, key and ETag: it is applied once, whoever names it how often, and one that was written anew is
another one. The day of its reading stands behind its position, so that a long-running process can forget it: what comes again
later than that is older than the duplicates' horizon, and adds to no count.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO, cast

from xxhash import xxh3_128

from processor.core.batches import Decoded
from processor.core.notifications import LogObject
from processor.core.records import Rejected
from processor.core.stream import decode_stream
from processor.shell.feeds import Positions, Slice
from processor.shell.files import Source, SourceReader
from processor.shell.follow import count_rows
from processor.shell.layout import Position, unpack_position

HELD_BYTES_MAX = 32 * 1024 * 1024
"""A larger file is put into a temporary one: CloudTrail's own have a few MB at most."""

CHUNK_BYTES = 1024 * 1024


FORGET_DAYS = 3
"""A long-running process remembers files for so long, some 100 bytes each; what comes again within the horizon is a duplicate."""

NEVER = 0xFFFF
"""The day of a file that is remembered for the store's life, as backfill wants it."""

_DAY_BYTES = 2


def pack_place(position: Position, day: int) -> bytes:
    """A file's position, with the day (since 1970) of its reading."""
    return position.pack() + day.to_bytes(_DAY_BYTES, "little")


def unpack_place(packed: bytes | None) -> Position:
    """The position of `pack_place`; the beginning where there is none."""
    return unpack_position(packed[:-_DAY_BYTES] if packed else None)


def find_forgettable(positions: Positions, day: int) -> tuple[bytes, ...]:
    """The names of the files that were read FORGET_DAYS before `day`, or earlier."""
    size = len(pack_place(Position(0, whole=True), 0))
    oldest = day - FORGET_DAYS
    return tuple(
        name
        for name, packed in positions.items()
        if len(packed) == size and int.from_bytes(packed[-_DAY_BYTES:], "little") <= oldest
    )


def name_object(log: LogObject) -> bytes:
    """The name that a file's position is stored under, of 16 bytes."""
    return xxh3_128(f"s3\0{log.bucket}\0{log.key}\0{log.etag.strip(chr(34))}".encode()).digest()


def is_applied(log: LogObject, positions: Positions) -> bool:
    """Whether a file is known to be applied, as far as that can be said without asking for it."""
    return bool(log.etag) and unpack_place(positions.get(name_object(log))).whole


async def fetch_object(client: Any, log: LogObject) -> tuple[LogObject, BinaryIO]:
    """A file's bytes as S3 has them, and it with its ETag. Raises what the calls raise."""
    answer = await client.get_object(Bucket=log.bucket, Key=log.key)
    file = cast("BinaryIO", tempfile.SpooledTemporaryFile(HELD_BYTES_MAX))  # noqa: SIM115 - closed by the reader
    size = 0
    async with answer["Body"] as body:
        while chunk := await body.read(CHUNK_BYTES):
            file.write(chunk)
            size += len(chunk)
    file.seek(0)
    return replace(log, etag=str(answer.get("ETag", log.etag)).strip('"'), size=size), file


def read_object(log: LogObject, file: BinaryIO, positions: Positions, day: int) -> Iterator[Slice]:
    """A file's slices from where it is applied to; the last one says that it is whole. None where all of it is applied.
    Positions are looked up when the first slice is asked for."""
    name = name_object(log)
    origin = f"s3://{log.bucket}/{log.key}"
    before = unpack_place(positions.get(name))
    reader = SourceReader(Source(origin, 0), file)
    try:
        if before.whole:
            return
        index = rows = 0
        for decoded in decode_stream(reader):
            index += decoded.read
            start, rows = rows, rows + count_rows(decoded)
            if index > before.index:
                yield Slice(origin, decoded, name, pack_place(Position(index, whole=False), day), start=start)
        damage = [Rejected("damaged_file", b"")] if reader.damage else []
        position = pack_place(Position(index, whole=True), day)
        yield Slice(origin, Decoded([], [], damage), name, position, reader.damage, start=rows, ends=True)
    finally:
        reader.close()

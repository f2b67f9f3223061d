"""Where the records of a stream's shard stand, and how far a shard is read.

A record's place is its number among the shard's records, counted from a `base`: the sequence number of the record that was read
first when counting began. Records are counted, not answers or slices: read again from a stored position, each has the place that it
had before, however often and in whichever pieces the shard is read. Where records may have gone unread (the stream has trimmed
them) counting begins anew, from a greater base: what follows is beyond all that was counted before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from struct import Struct as Packer

import numpy as np

from processor.core.compiled import Numbers

END = b"end"
"""The position of a shard that was split or merged, and is applied whole."""

BASE_BYTES = 28
"""A sequence number of Kinesis, big-endian, so that bytes are in the order of the numbers: of 56 digits, where 67 fit."""

ROW_BITS = 20
"""A record of a stream may hold many of CloudTrail: fewer than so many bits count, as 10 MB are the most that it has."""

TRIMMED_SECONDS = 23 * 3_600
"""A stream keeps records for a day at least: a position that was read within so long has missed none."""

_MARK = b"k"
_POSITION = Packer(f">c{BASE_BYTES}sQI")


class SequenceError(ValueError):
    """A sequence number that is none of Kinesis' own."""


@dataclass(frozen=True, slots=True)
class ShardPosition:
    """Behind the record `sequence` (empty: at the beginning), the `count`-th from `base` (empty: counting begins with the next
    record); it was read at the time `read_at`, in seconds since 1970."""

    sequence: str = ""
    base: bytes = b""
    count: int = 0
    read_at: int = 0

    @property
    def order(self) -> tuple[bytes, int]:
        """Greater for what comes later in a shard."""
        return self.base, self.count

    def pack(self) -> bytes:
        return _POSITION.pack(_MARK, self.base, self.count, self.read_at) + self.sequence.encode()

    def go_on(self, now: int) -> "ShardPosition":
        """The position to read on from at a time: what may have been trimmed meanwhile was never counted."""
        return self if now - self.read_at < TRIMMED_SECONDS else self.restart()

    def restart(self) -> "ShardPosition":
        """The same, but counting begins anew."""
        return replace(self, base=b"", count=0)

    def move(self, sequences: Sequence[str], now: int) -> "ShardPosition":
        """Behind some more records. Raises SequenceError."""
        return ShardPosition(
            sequences[-1], self.base or pack_sequence(sequences[0]), self.count + len(sequences), now
        )  # fmt: skip

    def number_rows(self, rows: Numbers) -> Numbers:
        """The places of CloudTrail's records in the records that come next: `rows` are how many each of them holds."""
        within = np.arange(int(rows.sum())) - np.repeat(np.cumsum(rows) - rows, rows)
        numbers = np.repeat(np.arange(self.count, self.count + len(rows)), rows)
        return (numbers << ROW_BITS) + np.minimum(within, (1 << ROW_BITS) - 1)


def unpack_place(packed: bytes) -> ShardPosition:
    """The position of `pack`; the beginning for none. One that an earlier gapwatch stored is a sequence number alone."""
    if not packed.startswith(_MARK):
        return ShardPosition(packed.decode())
    _, base, count, read_at = _POSITION.unpack_from(packed)
    return ShardPosition(packed[_POSITION.size :].decode(), base.strip(b"\0") and base, count, read_at)


def pack_sequence(sequence: str) -> bytes:
    """A sequence number as bytes that are in its order. Raises SequenceError."""
    try:
        return int(sequence).to_bytes(BASE_BYTES, "big")
    except (ValueError, OverflowError) as error:
        raise SequenceError(f"{sequence!r} is no sequence number of at most 67 digits") from error

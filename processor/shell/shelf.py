"""Spans of the duplicates' horizon on disk: a temporary file without a name, which is gone with the process, however that ends.

A place is a number of blocks from the beginning of the file; places are of 2^n blocks, and one that is free again is given to the
next span that needs as much, so that the file is at most twice as large as what is kept in it.
"""

import os
import tempfile

import numpy as np

from processor.core.compiled import Words

BLOCK_BYTES = 4_096


class FileShelf:
    """Hashes of spans, each put once and taken once. The file lives as long as the shelf."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="gapwatch-horizon-", buffering=0)  # noqa: SIM115 - as said above
        self._end = 0
        self._free: dict[int, list[int]] = {}

    def __del__(self) -> None:
        self._file.close()

    @property
    def size_bytes(self) -> int:
        """How long the file is."""
        return self._end * BLOCK_BYTES

    def put(self, hashes: Words) -> int | None:
        """As core.horizon.Shelf: where they are, None on a disk that is full."""
        blocks = size_place(len(hashes))
        free = self._free.get(blocks)
        place = free.pop() if free else self._end
        try:
            self._write(hashes, place * BLOCK_BYTES)
        except OSError:
            if place < self._end:
                self._free.setdefault(blocks, []).append(place)
            return None
        self._end = max(self._end, place + blocks)
        return place

    def _write(self, hashes: Words, offset: int) -> None:
        rest = np.ascontiguousarray(hashes).data.cast("B")
        while rest:
            written = os.pwrite(self._file.fileno(), rest, offset)
            rest, offset = rest[written:], offset + written

    def take(self, place: int, count: int) -> Words:
        """As core.horizon.Shelf. Raises OSError for a disk that does not give back what it took."""
        found = np.empty(count, np.uint64)
        rest, offset = found.data.cast("B"), place * BLOCK_BYTES
        while rest:
            read = os.preadv(self._file.fileno(), [rest], offset)
            if not read:
                raise OSError("the temporary file of the duplicates' horizon is shorter than what was written to it")
            rest, offset = rest[read:], offset + read
        self._free.setdefault(size_place(count), []).append(place)
        return found


def size_place(count: int) -> int:
    """Blocks for so many hashes, a power of two of them."""
    return 1 << max(0, (8 * count - 1) // BLOCK_BYTES).bit_length()

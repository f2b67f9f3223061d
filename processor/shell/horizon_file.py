"""Slots of a duplicates' horizon: in memory up to a bound, above it in a file that the kernel pages in and out."""

import mmap
import tempfile
from typing import cast

from processor.core.horizon import Slots, allocate_memory

SLOTS_IN_MEMORY_MAX = 1 << 25
"""256 MB; a table of more slots (some 18 million uses) lies in an unnamed temporary file."""


def allocate_slots(size: int) -> Slots:
    """`size` zeroed slots of 64 bits."""
    if size <= SLOTS_IN_MEMORY_MAX:
        return allocate_memory(size)
    with tempfile.TemporaryFile(prefix="gapwatch-horizon-") as file:
        file.truncate(8 * size)
        mapped = mmap.mmap(file.fileno(), 8 * size)
    return cast("Slots", memoryview(mapped).cast("Q"))

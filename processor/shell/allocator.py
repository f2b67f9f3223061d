"""Memory that was freed goes back to the system: glibc keeps what lies between blocks in use, and that grows with every burst."""

import ctypes
import time
from collections.abc import Callable

TRIM_SECONDS = 2.0
"""What is given back must be had again: some ms for 50 MB."""


def find_trim() -> Callable[[int], object] | None:
    """glibc's malloc_trim; None under another C library."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    found: Callable[[int], object] = trim
    return found


class Trimmer:
    """Gives free memory back, not too often. `clock` counts seconds, and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._trim = find_trim()
        self._clock = clock
        self._trimmed_at = clock()

    def trim_if_due(self, *, at_once: bool = False) -> bool:
        """Give back what is free, where that was not done lately, or `at_once`; whether it was."""
        now = self._clock()
        if self._trim is None or (now - self._trimmed_at < TRIM_SECONDS and not at_once):
            return False
        self._trimmed_at = now
        self._trim(0)
        return True

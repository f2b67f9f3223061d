"""Freed memory goes back to the system."""

from pathlib import Path

import pytest

from processor.shell.allocator import TRIM_SECONDS, Trimmer, find_trim


def read_anonymous_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_memory_is_given_back_now_and_then() -> None:
    if find_trim() is None:
        pytest.skip("this C library has no malloc_trim")
    now = [0.0]
    trimmer = Trimmer(lambda: now[0])
    # Every second block stays: what is free lies between blocks in use, where glibc itself leaves it.
    blocks = [b"x" * 65_536 for _ in range(1_600)]
    full = read_anonymous_kb()
    del blocks[::2]
    assert not trimmer.trim_if_due(), "too soon"
    now[0] = TRIM_SECONDS
    assert trimmer.trim_if_due()
    assert read_anonymous_kb() < full - 30_000
    assert not trimmer.trim_if_due()
    assert trimmer.trim_if_due(at_once=True)

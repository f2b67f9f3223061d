"""The garbage collector of a process that lives long and holds much: it never walks over what is here to stay.

Python's own full collections come whenever what is held has grown by a quarter, and walk over all of it in one go: with
10,000 principals they held the event loop up for 0.2 s each. Here what has outlived the young generations is put aside
(gc.freeze), so that a collection costs as much as what is new. A cycle that was put aside and dies later is only found by a walk
over everything, which is taken when what is held has doubled since the last one: memory stays bounded, and it comes some
times in a process' life.
"""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

from processor import early

SETTLED_AFTER = 5
"""Collections of the middle generation, each of some 7,000 new objects, before what is left of them is put aside."""

LOOKED_SECONDS = 60.0
"""How often it is counted what was put aside: that takes a tenth of a walk."""

NEVER = 1_000_000_000
WALKED_MIN = 100_000
"""Objects below which a walk over everything takes no more than some 10 ms."""


class Collecting:
    """Made before all is loaded. `note_loaded` says when that is done; `settle` is called again and again then, between two turns
    of the loop."""

    def __init__(self) -> None:
        gc.set_threshold(*gc.get_threshold()[:2], NEVER)
        self.walks = 0
        self._known = 0
        self._looked_at = time.monotonic()
        if gc.get_freeze_count() > early.frozen:  # What was loaded before is gone, and was put aside.
            self._walk()
        gc.freeze()

    def note_loaded(self) -> None:
        """Put aside all that was loaded. What of it is a dead cycle is found by the first walk."""
        gc.freeze()
        self._known = gc.get_freeze_count()

    def _walk(self) -> None:
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self.walks += 1
        self._known = gc.get_freeze_count()

    def settle(self) -> None:
        """Put aside what has lived for a while, if there is enough of it."""
        if gc.get_count()[2] < SETTLED_AFTER:
            return
        gc.collect(1)
        gc.freeze()
        # What is new is not counted by gc.get_objects: who has a list of all objects may break what another thread makes (a tuple
        # that is still growing must have no other owner).
        now = time.monotonic()
        if now - self._looked_at >= LOOKED_SECONDS:
            self._looked_at = now
            if gc.get_freeze_count() > 2 * max(self._known, WALKED_MIN):
                self._walk()


@contextmanager
def collect_the_young() -> Iterator[Collecting]:
    """A Collecting in place of Python's full collections while the block runs."""
    before = gc.get_threshold()
    try:
        yield Collecting()
    finally:
        gc.set_threshold(*before)

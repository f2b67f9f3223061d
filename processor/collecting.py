"""The garbage collector of a process that lives long and holds much: it never walks over what is here to stay.

Python's own full collections come whenever what is held has grown by a quarter, and walk over all of it in one go: with
10,000 principals they held the event loop up for 0.2 s each. Here what has outlived the young generations is put aside
(gc.freeze), so that a collection costs as much as what is new. A cycle that was put aside and dies later is only found by a walk
over everything, which is taken when what is held has doubled since the last one: memory stays bounded, and it comes some
times in a process' life.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SETTLED_AFTER = 5
"""Collections of the middle generation, each of some 7,000 new objects, before what is left of them is put aside."""

NEVER = 1_000_000_000
WALKED_MIN = 100_000
"""Objects below which a walk over everything takes no more than some 10 ms."""


class Collecting:
    """Made when all is loaded; `settle` is called again and again, between two turns of the loop."""

    def __init__(self) -> None:
        gc.set_threshold(*gc.get_threshold()[:2], NEVER)
        self.walks = 0
        self._known = 0
        self._added = 0
        self._walk()

    def _walk(self) -> None:
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self.walks += 1
        self._known = gc.get_freeze_count()
        self._added = 0

    def settle(self) -> None:
        """Put aside what has lived for a while, if there is enough of it."""
        if gc.get_count()[2] < SETTLED_AFTER:
            return
        gc.collect(1)
        self._added += len(gc.get_objects(generation=2))
        gc.freeze()
        if self._added > max(self._known, WALKED_MIN):
            # Most of what was put aside may be gone again. To count what is there costs a tenth of a walk.
            if gc.get_freeze_count() > 2 * max(self._known, WALKED_MIN):
                self._walk()
            self._added = 0


@contextmanager
def collect_the_young() -> Iterator[Collecting]:
    """A Collecting in place of Python's full collections while the block runs."""
    before = gc.get_threshold()
    try:
        yield Collecting()
    finally:
        gc.set_threshold(*before)

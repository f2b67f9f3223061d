"""What a ledger holds in memory beside its cells, all of which the store has, too: bounded here, after each flush."""

from processor.core.ledger import Ledger
from processor.core.usage import Cell
from processor.shell.allocator import Trimmer

FACETS_HELD_MAX = 131_072
"""Values of facets that are kept in memory once they are stored, some 14 MB: what comes new to a cell without them is put to those
that the store has, as after a start."""

CHANGED_MANY = 1_000
"""Principals that one flush writes: what it took for that is given back at once."""


class Sparing:
    """Forgets what is stored where there is much of it, and gives freed memory back."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._facets: dict[Cell, int] = {}
        self._held = 0
        self._trimmer = Trimmer()

    def note_facets(self, cell: Cell) -> None:
        """Take notice that a cell's facets are being stored."""
        count = cell.facets_count
        self._held += count - self._facets.pop(cell, 0)
        self._facets[cell] = count

    def spare(self, changed: int) -> None:
        """Forget what is too much; a flush that wrote `changed` principals is over."""
        self._ledger.days.spare()
        if self._held > FACETS_HELD_MAX:
            self._spare_facets()
        self._trimmer.trim_if_due(at_once=changed > CHANGED_MANY)

    def _spare_facets(self) -> None:
        """Forget those of the half that nothing came to for the longest time."""
        for cell, count in list(self._facets.items()):
            if not cell.facets_dirty:
                cell.forget_facets()
                del self._facets[cell]
                self._held -= count
                if self._held <= FACETS_HELD_MAX // 2:
                    break

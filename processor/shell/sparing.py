"""What a ledger holds in memory beside its cells, all of which the store has, too: bounded here, after each flush."""

from processor.core.ledger import Ledger
from processor.core.usage import Cell
from processor.shell.allocator import Trimmer

FACETS_HELD_MAX = 131_072
"""Values of facets that are kept in memory once they are stored, some 14 MB: what comes new to a cell without them is put to those
that the store has, as after a start."""

FACETS_LOOK_WRITES = 8_192
"""Cells written with facets before it is counted again how many values are held."""

CHANGED_MANY = 1_000
"""Principals that one flush writes: what it took for that is given back at once."""


class Sparing:
    """Forgets what is stored where there is much of it, and gives freed memory back."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._facets: dict[Cell, None] = {}
        self._facets_writes = 0
        self._trimmer = Trimmer()

    def note_facets(self, cell: Cell) -> None:
        """Take notice that a cell's facets are being stored."""
        self._facets.pop(cell, None)
        self._facets[cell] = None
        self._facets_writes += 1

    def spare(self, changed: int) -> None:
        """Forget what is too much; a flush that wrote `changed` principals is over."""
        self._ledger.days.spare()
        if self._facets_writes >= FACETS_LOOK_WRITES:
            self._facets_writes = 0
            self._spare_facets()
        self._trimmer.trim_if_due(at_once=changed > CHANGED_MANY)

    def _spare_facets(self) -> None:
        """Where there are many, forget those of the half that nothing came to for the longest time."""
        held = sum(cell.facets_count for cell in self._facets)
        if held <= FACETS_HELD_MAX:
            return
        for cell in [cell for cell in self._facets if not cell.facets_dirty]:
            held -= cell.facets_count
            cell.forget_facets()
            del self._facets[cell]
            if held <= FACETS_HELD_MAX // 2:
                break

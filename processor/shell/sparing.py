"""What a ledger holds in memory beside its cells, all of which the store has, too: bounded here, after each flush."""

from processor.core.ledger import Ledger
from processor.core.usage import Cell
from processor.shell.allocator import Trimmer

FACETS_HELD_MAX = 3 * 2**20
FACETS_A_CELL = 128
"""Bytes of packed facets that are kept in memory once they are stored, or where there are many cells, for each: what comes new to a
cell without them is put to those that the store has, as after a start. Most cells have less, and keep them: an alert on a first use
names its operator by them."""

SIZES = (1_024, 512, 256, 128, 0)
"""Those of cells with more bytes than the first are forgotten first, and so on."""

CHANGED_MANY = 1_000
"""Principals that one flush writes: what it took for that is given back at once."""


class Sparing:
    """Forgets what is stored where there is much of it, and gives freed memory back."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._held = 0
        self._trimmer = Trimmer()

    def hold_facets(self, cell: Cell, packed: bytes | None) -> None:
        """Give a cell the facets that the store has of it, or is given now; None leaves them to the store."""
        self._held += len(packed or b"") - len(cell.facets or b"")
        cell.facets = packed

    def spare(self, changed: int) -> None:
        """Forget what is too much; a flush that wrote `changed` principals is over."""
        self._ledger.days.spare()
        bound = max(FACETS_HELD_MAX, FACETS_A_CELL * self._ledger.rows)
        if self._held > bound:
            self._spare_facets(bound * 3 // 4)
        self._trimmer.trim_if_due(at_once=changed > CHANGED_MANY)

    def _spare_facets(self, kept: int) -> None:
        """Forget all but so many bytes: of the cells that have many first, as one that must be read again brings back as much as
        many others do, and what is full seldom changes."""
        usages = self._ledger.principals.values()
        cells = [cell for usage in usages for cell in usage.cells.values() if cell.facets and not cell.fresh]
        for least in SIZES:
            for cell in cells:
                if len(cell.facets or b"") > least:
                    self.hold_facets(cell, None)
                    if self._held <= kept:
                        return

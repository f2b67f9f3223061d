"""Counts of days that are over, of all cells of a ledger: what of them a flush must write, and as many as memory allows.

A day's key is its cell's row in the ledger, one more, above 20 bits of the day (days since 1970, UTC).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from processor.core.compiled import Flags, Numbers, Read, Words, compiled
from processor.core.key_tables import EMPTY, KeyTable, find_slot

DAY_BITS = 20
DAY_MAX = (1 << DAY_BITS) - 1

WHOLE = 1
"""The low bit of a count in the table of changes, which is doubled: it is the day's whole count, not only what is to be added."""

HELD_MAX = 50_000
"""Counts that are kept in memory, some 1 MB: late uses of other days cost a read of the store."""

_BITS = np.uint64(DAY_BITS)
_DAY = np.uint64(DAY_MAX)


class Days(NamedTuple):
    """Counts by day of rows of cells, a column each."""

    cells: Numbers
    days: Numbers
    counts: Numbers


@compiled
def merge_days(changed: Read[Words], doubled: Read[Numbers], keys: Words, values: Numbers, counts: Numbers) -> int:
    """Bring a table, which has room, up to what changed, and say what each count is now; answers how many keys were new."""
    new = 0
    for at in range(len(changed)):
        slot = find_slot(keys, changed[at])
        if keys[slot] == EMPTY:
            keys[slot] = changed[at]
            values[slot] = 0
            new += 1
        values[slot] = (doubled[at] >> 1) + (0 if doubled[at] & WHOLE else values[slot])
        counts[at] = values[slot]
    return new


class DayCounts:
    """`changes` is what the counting loop wrote since the last `take`. `forgotten`: the store may have more than memory knows."""

    def __init__(self) -> None:
        self.changes = KeyTable()
        self.forgotten = False
        self._held = KeyTable()

    def find_behind(self, loaded: Flags) -> Days:
        """The changes (their counts doubled, as in the table) that are only to be added to a count, which the store may have, and
        memory has not. `loaded` says of cells that they came from a store."""
        keys, doubled = self._read_changes()
        cells = (keys >> _BITS).astype(np.int64) - 1
        unknown = (doubled & WHOLE == 0) & (loaded[cells] | self.forgotten)
        asked = np.flatnonzero(unknown)
        asked = asked[[self._held.find(key) < 0 for key in keys[asked].tolist()]] if len(asked) else asked
        return _divide(keys[asked], doubled[asked])

    def learn(self, days: Days, counts: Iterable[int]) -> None:
        """Take in what the store has of days that `find_behind` gave."""
        keys = ((days.cells + 1).astype(np.uint64) << _BITS) | days.days.astype(np.uint64)
        self._held.put_all(keys.tolist(), list(counts))

    def take(self) -> Days:
        """What changed, as whole counts."""
        keys, doubled = self._read_changes()
        self.changes = KeyTable()
        self._held.reserve(len(keys))
        counts = np.empty(len(keys), np.int64)
        self._held.count += int(merge_days(keys, doubled, self._held.keys, self._held.values, counts))
        return _divide(keys, counts)

    def spare(self) -> None:
        """Forget what is stored where there is much of it: a flush is over."""
        if self._held.count > HELD_MAX:
            self._held = KeyTable()
            self.forgotten = True

    def read(self, cells: Iterable[int]) -> Iterator[tuple[int, int, int, bool]]:
        """(cell, day, count, whether that is all) of some rows' days in memory; where it is not, it comes on top of what the store
        has, or of what was given before it."""
        wanted = np.fromiter(cells, np.int64)
        held = _choose(self._held, wanted)
        for cell, day, count in zip(*(column.tolist() for column in held), strict=True):
            yield cell, day, count, True
        changes = _choose(self.changes, wanted)
        for cell, day, doubled in zip(*(column.tolist() for column in changes), strict=True):
            yield cell, day, doubled >> 1, bool(doubled & WHOLE)

    def _read_changes(self) -> tuple[Words, Numbers]:
        held = np.flatnonzero(self.changes.keys)
        return self.changes.keys[held], self.changes.values[held]


def _divide(keys: Words, counts: Numbers) -> Days:
    return Days((keys >> _BITS).astype(np.int64) - 1, (keys & _DAY).astype(np.int64), counts)


def _choose(table: KeyTable, cells: Numbers) -> Days:
    held = np.flatnonzero(table.keys)
    found = _divide(table.keys[held], table.values[held])
    chosen = np.isin(found.cells, cells)
    return Days(*(column[chosen] for column in found))

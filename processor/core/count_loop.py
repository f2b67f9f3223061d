"""The compiled loop that counts uses: duplicates found, cells moved, and what is rare handed back.

A cell is one (principal, action) pair; its numbers are a row here while the process runs.
"""

import numpy as np

from processor.core.compiled import Halves, Numbers, Octets, Read, Table, Words, compiled, inner
from processor.core.day_counts import DAY_BITS, WHOLE
from processor.core.facets import FACETS_MAX, OPERATOR, REGION, RESOURCE, VIA
from processor.core.key_tables import EMPTY, combine, find_slot
from processor.core.sessions import DENIED, SUCCEEDED

COUNT, DENIED_COUNT, FIRST, LAST, FIRST_SUCCESS, LAST_SUCCESS, DAY_COUNT, REGIONS = range(8)
CELL_NUMBERS = 8
"""Columns of a cell; REGIONS is a bit for each region that was met, of those that have one."""

REGION_BITS = 63

CHANGED = 128
"""Of a cell's marks: it is in the list of changed ones. The low bits say which facets overflowed."""

FACETS_OF_USE_MAX = FACETS_MAX + 4
"""What one use may add to one cell: an operator, a region, a via, and resources up to the one that overflows."""

(
    USES, DENIALS, DUPLICATES, BEYOND, SEEN, CHANGES, DAYS, MET, NEW_FACETS, NEXT,
) = range(10)  # fmt: skip
NOTES = 10
"""Counts of a run of the loop; SEEN and CHANGES go on from what they were. NEXT is the use that it ended before."""

_ONE = np.uint64(1)
_DAY_BITS = np.uint64(DAY_BITS)
_DAY_SECONDS = 86_400


@inner
def keep_facet(cell: int, facet: int, marks: Octets, facet_counts: Table[Octets]) -> bool:
    """Whether there is room for one more value of a cell's facet; it is taken, or a mark made that there were more."""
    if facet_counts[cell, facet] >= FACETS_MAX:
        marks[cell] |= np.uint8(1 << facet)
        return False
    facet_counts[cell, facet] += np.uint8(1)
    return True


@inner
def note_facet(
    cell: int, facet: int, hashed: np.uint64, marks: Octets, facet_counts: Table[Octets], met: Words, notes: Numbers
) -> bool:
    """Whether a value is new to a cell's facet, and must be kept, or marks that there were more than are kept."""
    if marks[cell] >> np.uint8(facet) & np.uint8(1):
        return False
    key = combine(np.uint64(4 * cell + facet + 1), hashed)
    key = key if key != EMPTY else _ONE
    slot = find_slot(met, key)
    if met[slot] != EMPTY:
        return False
    if keep_facet(cell, facet, marks, facet_counts):
        met[slot] = key
        notes[MET] += 1
    return True


@inner
def note_region(
    cell: int,
    bit: int,
    hashed: np.uint64,
    cells: Table[Numbers],
    marks: Octets,
    facet_counts: Table[Octets],
    met: Words,
    notes: Numbers,
) -> bool:
    """As `note_facet`, of a region: it is looked at by nearly every use, and the first ones that a ledger meets have a bit."""
    if bit < 0:
        return note_facet(cell, REGION, hashed, marks, facet_counts, met, notes)
    if cells[cell, REGIONS] >> bit & 1 or marks[cell] >> np.uint8(REGION) & np.uint8(1):
        return False
    if keep_facet(cell, REGION, marks, facet_counts):
        cells[cell, REGIONS] |= 1 << bit
    return True


@inner
def count_day(cell: int, day: int, doubled: int, keys: Words, counts: Numbers, notes: Numbers) -> None:
    """Add to the count of a day that is not its cell's newest."""
    key = (np.uint64(cell + 1) << _DAY_BITS) | np.uint64(day)
    slot = find_slot(keys, key)
    if keys[slot] == EMPTY:
        keys[slot] = key
        counts[slot] = 0
        notes[DAYS] += 1
    counts[slot] += doubled


@inner
def move_cell(
    cell: int,
    time: int,
    succeeded: bool,
    late: bool,
    cells: Table[Numbers],
    day_keys: Words,
    day_counts: Numbers,
    notes: Numbers,
) -> None:
    """Count one use in a cell's numbers; one that is `late` moves its times only."""
    day = time // _DAY_SECONDS
    more = 0 if late else 1
    cells[cell, COUNT] += more
    newest = cells[cell, LAST] // _DAY_SECONDS
    if day == newest:
        cells[cell, DAY_COUNT] += more
    elif day > newest:
        if cells[cell, DAY_COUNT]:
            count_day(cell, newest, 2 * cells[cell, DAY_COUNT] + WHOLE, day_keys, day_counts, notes)
        cells[cell, DAY_COUNT] = more
    elif not late:
        count_day(cell, day, 2, day_keys, day_counts, notes)
    cells[cell, FIRST] = min(cells[cell, FIRST], time)
    cells[cell, LAST] = max(cells[cell, LAST], time)
    if succeeded:
        cells[cell, FIRST_SUCCESS] = min(cells[cell, FIRST_SUCCESS], time)
        cells[cell, LAST_SUCCESS] = max(cells[cell, LAST_SUCCESS], time)


@compiled
def count_loop(
    order: Read[Numbers], begin: int, end: int, late: bool, until: int,
    calls: Read[Numbers], sessions: Read[Numbers], where: Read[Numbers], times: Read[Numbers], events: Read[Words],
    arns_from: Read[Numbers], arns_to: Read[Numbers], arn_hashes: Read[Words],
    outcomes: Read[Octets], cells_from: Read[Halves], cells_to: Read[Halves], call_cells: Read[Halves],
    operators: Read[Words], origins: Read[Halves], vias: Read[Words], regions: Read[Words], region_bits: Read[Numbers],
    seen: Words, log: Words,
    cells: Table[Numbers], marks: Octets, facet_counts: Table[Octets], met: Words,
    changed: Halves, day_keys: Words, day_counts: Numbers, facets: Table[Numbers], notes: Numbers,
) -> None:  # fmt: skip
    """Count the uses `order[begin:end]`, all of one span of the horizon (`late`: of one that it has forgotten). Ends early
    where there may be no room for what one more use would hand back."""
    for at in range(begin, end):
        use = order[at]
        call = calls[use]
        first_cell, last_cell = cells_from[call], cells_to[call]
        wanted = (last_cell - first_cell) * min(3 + arns_to[use] - arns_from[use], FACETS_OF_USE_MAX)
        if notes[NEW_FACETS] + wanted > len(facets):
            notes[NEXT] = at
            return
        denied = outcomes[call] == DENIED
        if not late:
            event = events[use] if events[use] != EMPTY else _ONE
            slot = find_slot(seen, event)
            if seen[slot] != EMPTY:
                notes[DUPLICATES] += 1
                continue
            seen[slot] = event
            log[notes[SEEN]] = event
            notes[SEEN] += 1
        notes[DENIALS if denied else USES] += 1
        time = times[use]
        if time > until:
            notes[BEYOND] += 0 if late else 1
            continue
        if denied and late:
            continue
        for place in range(first_cell, last_cell):
            cell = call_cells[place]
            if marks[cell] & np.uint8(CHANGED) == 0:
                marks[cell] |= np.uint8(CHANGED)
                changed[notes[CHANGES]] = cell
                notes[CHANGES] += 1
            if denied:
                cells[cell, DENIED_COUNT] += 1
                continue
            move_cell(cell, times[use], outcomes[call] == SUCCEEDED, late, cells, day_keys, day_counts, notes)
            session = sessions[use]
            if note_facet(cell, OPERATOR, operators[session], marks, facet_counts, met, notes):
                row = notes[NEW_FACETS]
                facets[row, 0], facets[row, 1], facets[row, 2] = cell, OPERATOR, session
                notes[NEW_FACETS] = row + 1
            place_bit, region = region_bits[where[use]], regions[where[use]]
            if note_region(cell, place_bit, region, cells, marks, facet_counts, met, notes):
                row = notes[NEW_FACETS]
                facets[row, 0], facets[row, 1], facets[row, 2] = cell, REGION, where[use]
                notes[NEW_FACETS] = row + 1
            via = vias[origins[session]]
            if via != EMPTY and note_facet(cell, VIA, via, marks, facet_counts, met, notes):
                row = notes[NEW_FACETS]
                facets[row, 0], facets[row, 1], facets[row, 2] = cell, VIA, session
                notes[NEW_FACETS] = row + 1
            for arn in range(arns_from[use], arns_to[use]):
                if note_facet(cell, RESOURCE, arn_hashes[arn], marks, facet_counts, met, notes):
                    row = notes[NEW_FACETS]
                    facets[row, 0], facets[row, 1], facets[row, 2] = cell, RESOURCE, arn
                    notes[NEW_FACETS] = row + 1
    notes[NEXT] = end

"""Uses -> usage: the state of the shards that one writer holds, in memory, and what of it a flush must write.

Classes 7 to 9 of a record are decided here. Everything that is written is an absolute value, so that a flush may be
repeated; only the late counts of days that are over are added to what the store holds, under the store's own guard.

The numbers of the cells that are in use stand in arrays, which the loop in count_loop.py moves; `settle` puts what changed
into the cells themselves, and is called by everything that hands them out.
"""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from processor.core.attached import Attached
from processor.core.compiled import Flags, Halves, Numbers, Octets
from processor.core.count_loop import (
    BEYOND,
    CELL_NUMBERS,
    CHANGED,
    CHANGES,
    DAYS,
    DENIALS,
    DUPLICATES,
    FACETS_OF_USE_MAX,
    MET,
    NEW_FACETS,
    NEXT,
    NOTES,
    REGIONS,
    SEEN,
    USES,
    count_loop,
)
from processor.core.day_counts import DayCounts
from processor.core.facets import OPERATOR, REGION, RESOURCE, VIA
from processor.core.horizon import Horizon, Span
from processor.core.key_tables import KeySet, grow
from processor.core.principals import Principal
from processor.core.records import TIME_MAX
from processor.core.sessions import Call, Calls, Sessions, key_of, shard_of
from processor.core.tally import Tally
from processor.core.usage import Cell, PrincipalUsage
from processor.core.uses import Uses

HANDED_BACK = 8_192
"""Facets that the loop may hand back at a time."""


class Ledger:
    """Usage of all principals by key. `until` as in Intake: what is newer is counted by class, and no more.

    `usages` are all by their number; `owners`, `actions` and `loaded` say of a cell's row whose it is, of which action, and
    whether it came from a store.
    """

    def __init__(self, horizon: Horizon, tally: Tally, until: int = TIME_MAX) -> None:
        self.horizon = horizon
        self.tally = tally
        self.until = until
        self.beyond_until = 0
        self.days = DayCounts()
        self.usages: list[PrincipalUsage] = []
        self.owners: Halves = np.zeros(64, np.int32)
        self.actions: Halves = np.zeros(64, np.int32)
        self.loaded: Flags = np.zeros(64, np.bool_)
        self._principals: dict[int, PrincipalUsage] = {}
        self._usages: dict[int, PrincipalUsage] = {}
        self._dirty: list[PrincipalUsage] = []
        self._attached = Attached(Calls(), Sessions(), [], {})
        self._cells: list[Cell] = []
        self._numbers: Numbers = np.zeros((64, CELL_NUMBERS), np.int64)
        self._marks: Octets = np.zeros(64, np.uint8)
        self._facet_counts: Octets = np.zeros((64, 4), np.uint8)
        self._met = KeySet()
        self._changed: Halves = np.zeros(64, np.int32)
        self._changes = 0

    @property
    def principals(self) -> dict[int, PrincipalUsage]:
        """Usage by key of principal, settled."""
        self.settle()
        return self._principals

    @property
    def rows(self) -> int:
        """How many cells have rows: those of which a use was met."""
        return len(self._cells)

    @property
    def dirty(self) -> list[PrincipalUsage]:
        """The principals that have changed since the last `take_dirty`, settled."""
        self.settle()
        return self._dirty

    def open_usage(self, principal: Principal) -> PrincipalUsage:
        """The usage of a principal, made where there is none yet."""
        number = key_of(principal)
        found = self._reach_usage(number, principal)
        if number not in self._principals:
            self._principals[number] = found
            self._dirty.append(found)
        return found

    def _reach_usage(self, number: int, principal: Principal) -> PrincipalUsage:
        """As `open_usage`, but one that is new is nobody's business before something is counted there."""
        found = self._usages.get(number)
        if found is None:
            found = self._usages[number] = PrincipalUsage(
                principal, number.to_bytes(8, "big"), shard_of(number), {}, [], len(self.usages)
            )
            self.usages.append(found)
        return found

    def take_dirty(self) -> Iterator[PrincipalUsage]:
        """The principals that changed; the caller reads their `dirty` actions and clears them."""
        changed = self.dirty
        self._dirty = []
        return iter(changed)

    def apply_uses(self, batches: Iterable[Uses]) -> None:
        """Count uses, batch by batch."""
        for uses in batches:
            if len(uses.call):
                self._attach(uses)
                self._apply_batch(uses)

    def _apply_batch(self, uses: Uses) -> None:
        """Span by span of the horizon, older ones first: a use is then looked for before a newer one moves the horizon."""
        numbers = uses.time // self.horizon.span_seconds
        order = (
            np.arange(len(numbers))
            if numbers[0] == numbers.min() == numbers.max()
            else np.argsort(numbers, kind="stable")
        )
        ordered = numbers[order]
        bounds = [0, *(np.flatnonzero(np.diff(ordered)) + 1).tolist(), len(order)]
        for begin, end in itertools.pairwise(bounds):
            span = self.horizon.span_at(int(ordered[begin]) * self.horizon.span_seconds)
            if span is None:
                self.tally.late += end - begin
            self._run_loop(uses, order, begin, end, span)

    def _run_loop(self, uses: Uses, order: Numbers, begin: int, end: int, span: Span | None) -> None:
        attached = self._attached
        room = max(HANDED_BACK, FACETS_OF_USE_MAX * attached.widest)
        facets = np.empty((room, 3), np.int64)
        while begin < end:
            notes = np.zeros(NOTES, np.int64)
            notes[CHANGES] = self._changes
            seen = log = np.empty(1, np.uint64)
            if span is not None:
                seen = span.open(end - begin)
                log = span.log
                notes[SEEN] = span.fresh
            self._met.reserve(room)
            self.days.changes.reserve((end - begin) * attached.widest)
            count_loop(
                order, begin, end, span is None, self.until, uses.call, uses.session, uses.place, uses.time, uses.event,
                uses.arns_from, uses.arns_to, uses.arn_hashes, attached.outcomes, attached.cells_from, attached.cells_to,
                attached.cells, attached.operators, uses.sessions.origin_numbers, attached.vias, attached.regions,
                attached.region_bits, seen, log, self._numbers, self._marks,
                self._facet_counts, self._met.keys, self._changed, self.days.changes.keys,
                self.days.changes.values,
                facets, notes,
            )  # fmt: skip
            if span is not None:
                span.count_fresh(int(notes[SEEN]))
            self._met.count += int(notes[MET])
            self.days.changes.count += int(notes[DAYS])
            self._changes = int(notes[CHANGES])
            begin = int(notes[NEXT])
            self._keep_facets(uses, facets[: notes[NEW_FACETS]])
            self._count(notes)

    def _count(self, notes: Numbers) -> None:
        classes = self.tally.classes
        classes["use"] += int(notes[USES])
        classes["denied"] += int(notes[DENIALS])
        classes["duplicate"] += int(notes[DUPLICATES])
        self.beyond_until += int(notes[BEYOND])

    def _keep_facets(self, uses: Uses, facets: Numbers) -> None:
        """Keep the values that are new to a cell in the cell itself."""
        cells, sessions, places, batch = self._cells, uses.sessions, uses.places, uses.batch
        of_resource = facets[:, 1] == RESOURCE
        if len(resources := facets[of_resource]):
            assert batch is not None  # noqa: S101 - ARNs come with the batch that has their texts
            for index, arn in zip(resources[:, 0].tolist(), batch.read_arns(resources[:, 2]), strict=True):
                cells[index].note_facet(RESOURCE, arn)
        of_operator = facets[:, 1] == OPERATOR
        for index, _, place in facets[of_operator].tolist():
            cells[index].note_facet(OPERATOR, sessions.operators[place])
        for index, facet, place in facets[~of_resource & ~of_operator].tolist():
            if facet == REGION:
                cells[index].note_facet(REGION, places[place].region or "")
            else:
                cells[index].note_facet(VIA, sessions.origin_of(place).via)

    def _attach(self, uses: Uses) -> None:
        """Find or make the cells of calls that are new to this ledger."""
        attached = self._attached
        if attached.calls is not uses.calls:
            attached = self._attached = Attached(uses.calls, uses.sessions, uses.places, attached.bits)
        attached.add_sessions()
        attached.reach(len(uses.calls))
        fresh = uses.call[attached.cells_to[uses.call] == 0]
        if len(fresh):
            new: list[tuple[int, bool]] = []
            numbers = list(set(fresh.tolist()))
            attached.add_calls(numbers, [self._find_cells(uses.calls[number], new) for number in numbers])
            if new:
                self._write_cells(new)

    def _find_cells(self, call: Call, new: list[tuple[int, bool]]) -> list[int]:
        """The rows of a call's cells. To `new` comes of each new row whose it is, and whether it is that of a stored cell."""
        actor = call.actor
        if actor.usage is None:
            assert actor.principal is not None  # noqa: S101 - an actor without one is excluded before
            actor.usage = self._reach_usage(key_of(actor.principal), actor.principal)
        usage: PrincipalUsage = actor.usage
        indexes = []
        for action in call.effect.actions:
            cell = usage.cells.get(action) or usage.fresh.get(action)
            if cell is None:
                cell = usage.fresh[action] = Cell(action)
            if cell.index < 0:
                cell.index = len(self._cells)
                self._cells.append(cell)
                new.append((usage.number, action in usage.cells))
            indexes.append(cell.index)
        return indexes

    def _write_cells(self, new: list[tuple[int, bool]]) -> None:
        """Rows for the numbers of the cells that came last, of which `_find_cells` gave the rest."""
        size = len(self._cells)
        known = size - len(new)
        fresh = self._cells[known:]
        self._numbers, self._marks = grow(self._numbers, size), grow(self._marks, size)
        self._facet_counts, self._changed = grow(self._facet_counts, size), grow(self._changed, size)
        self._numbers[known:size] = [
            (c.count, c.denied, c.first, c.last, c.first_success, c.last_success, c.day_count, 0) for c in fresh
        ]
        self._marks[known:size], self._facet_counts[known:size] = 0, 0
        for row, cell in enumerate(fresh, known):
            if cell.facets:
                *values, self._marks[row] = cell.read_facets()
                self._facet_counts[row] = list(map(len, values))
        self.owners, self.actions = grow(self.owners, size), grow(self.actions, size)
        self.loaded = grow(self.loaded, size)
        self.owners[known:size] = [owner for owner, _ in new]
        self.actions[known:size] = [cell.action for cell in fresh]
        self.loaded[known:size] = [is_stored for _, is_stored in new]

    def settle(self) -> None:
        """Put the numbers that changed into their cells."""
        if not self._changes:
            return
        changed = self._changed[: self._changes]
        self._marks[changed] &= CHANGED - 1
        owners = self.owners[changed].tolist()
        for index, owner, numbers in zip(
            changed.tolist(), owners, self._numbers[changed, :REGIONS].tolist(), strict=True
        ):
            cell = self._cells[index]
            (
                cell.count, cell.denied, cell.first, cell.last, first_success, last_success, cell.day_count,
            ) = numbers  # fmt: skip
            # Mostly they are the same: one number takes half the memory of two.
            if cell.last == cell.first:
                cell.last = cell.first
            cell.first_success = cell.first if first_success == cell.first else first_success
            cell.last_success = cell.last if last_success == cell.last else last_success
            if not cell.dirty:
                usage = self.usages[owner]
                if cell.action in usage.fresh:
                    if not usage.cells:
                        self._principals[int.from_bytes(usage.key, "big")] = usage
                    usage.cells[cell.action] = usage.fresh.pop(cell.action)
                    if not usage.fresh:
                        usage.fresh.clear()  # An empty dict has room for as many as it had.
                if not usage.dirty:
                    self._dirty.append(usage)
                cell.dirty = True
                usage.dirty.append(cell.action)
        self._changes = 0

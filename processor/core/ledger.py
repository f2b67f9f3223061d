"""Uses -> usage: the state of the shards that one writer holds, in memory, and what of it a flush must write.

Classes 7 to 9 of a record are decided here. Everything that is written is an absolute value, so that a flush may be
repeated; only the late counts of days that are over are added to what the store holds, under the store's own guard.
"""

from collections.abc import Iterable, Iterator

from processor.core.horizon import Horizon
from processor.core.intake import Use
from processor.core.principals import Principal
from processor.core.records import DAY_SECONDS, TIME_MAX, Resource
from processor.core.sessions import DENIED, SUCCEEDED, Call, Session, key_of, shard_of
from processor.core.tally import Tally
from processor.core.usage import OPERATOR, REGION, RESOURCE, VIA, Cell, PrincipalUsage


class Ledger:
    """Usage of all principals by key. `until` as in Intake: what is newer is counted by class, and no more.

    `dirty` lists the principals that have changed since the last `take_dirty`.
    """

    def __init__(self, horizon: Horizon, tally: Tally, until: int = TIME_MAX) -> None:
        self.principals: dict[int, PrincipalUsage] = {}
        self.horizon = horizon
        self.tally = tally
        self.until = until
        self.dirty: list[PrincipalUsage] = []
        self.beyond_until = 0

    def open_usage(self, principal: Principal) -> PrincipalUsage:
        """The usage of a principal, made where there is none yet."""
        number = key_of(principal)
        found = self.principals.get(number)
        if found is None:
            found = self.principals[number] = PrincipalUsage(
                principal, number.to_bytes(8, "big"), shard_of(number), {}, {}, set(), {}, []
            )
            self.dirty.append(found)
        return found

    def take_dirty(self) -> Iterator[PrincipalUsage]:
        """The principals that changed; the caller reads their `dirty` actions and clears them."""
        changed, self.dirty = self.dirty, []
        return iter(changed)

    def apply_uses(self, uses: Iterable[Use]) -> None:
        """Count uses. The hot loop: what is rare is in methods of its own."""
        count_use = count_denied = count_duplicate = 0
        until = self.until
        start = end = 0
        seen: dict[int, None] = {}
        for session, call, time, event, resources in uses:
            if not start <= time < end:
                span = self.horizon.span_at(time)
                if span is None:
                    start = end = 0
                    count_denied += call.outcome == DENIED
                    count_use += call.outcome != DENIED
                    self._apply_late(session, call, time)
                    continue
                start, end, seen = span.start, span.end, span.seen
            if event in seen:
                count_duplicate += 1
                continue
            seen[event] = None
            if call.outcome == DENIED:
                count_denied += 1
            else:
                count_use += 1
            if time > until:
                self.beyond_until += 1
                continue
            day = time // DAY_SECONDS
            for cell in call.cells or self._attach(call):
                if not cell.dirty:
                    self._mark_dirty(call)
                if call.outcome == DENIED:
                    cell.denied += 1
                    continue
                cell.count += 1
                if day == cell.day:
                    cell.day_count += 1
                else:
                    call.actor.usage.roll_day(cell, day)
                if time > cell.last_success:
                    if time > cell.last:
                        cell.last = time
                    if call.outcome == SUCCEEDED:
                        cell.last_success = time
                if time < cell.first_success:
                    if time < cell.first:
                        cell.first = time
                    if call.outcome == SUCCEEDED:
                        cell.first_success = time
                if not cell.overflow & 1 << OPERATOR and session.operator not in cell.operators:
                    cell.note_facet(OPERATOR, session.operator)
                if session.via and session.via not in cell.vias:
                    cell.note_facet(VIA, session.via)
                if resources is not None and not cell.overflow & 1 << RESOURCE:
                    note_resources(cell, resources)
        tally = self.tally
        tally.classes["use"] += count_use
        tally.classes["denied"] += count_denied
        tally.classes["duplicate"] += count_duplicate

    def _attach(self, call: Call) -> tuple[Cell, ...]:
        """Find or make the cells of a call."""
        actor = call.actor
        if actor.usage is None:
            assert actor.principal is not None  # noqa: S101 - an actor without one is excluded before
            actor.usage = self.open_usage(actor.principal)
        cells = actor.usage.cells
        for action in call.actions:
            if action not in cells:
                cells[action] = Cell(action)
            if call.outcome != DENIED:
                cells[action].note_facet(REGION, call.region or "")
        call.cells = tuple(cells[action] for action in call.actions)
        return call.cells

    def _mark_dirty(self, call: Call) -> None:
        usage = call.actor.usage
        if not usage.dirty:
            self.dirty.append(usage)
        for cell in call.cells:
            if not cell.dirty:
                cell.dirty = True
                usage.dirty.append(cell.action)

    def _apply_late(self, session: Session, call: Call, time: int) -> None:
        """A use older than the horizon: it may be a duplicate, so it moves first and last use, but no count."""
        self.tally.late += 1
        if call.outcome == DENIED or time > self.until:
            return
        for cell in call.cells or self._attach(call):
            cell.first = min(cell.first, time)
            cell.note_facet(OPERATOR, session.operator)
            if time > cell.last:
                cell.last = time
                if (day := time // DAY_SECONDS) > cell.day:
                    call.actor.usage.roll_day(cell, day)
                    cell.day_count = 0
            if call.outcome == SUCCEEDED:
                cell.last_success = max(cell.last_success, time)
                cell.first_success = min(cell.first_success, time)
        self._mark_dirty(call)


def note_resources(cell: Cell, resources: list[Resource]) -> None:
    """Keep the ARNs among a record's resources."""
    for resource in resources:
        if resource.ARN is not None and resource.ARN not in cell.resources:
            cell.note_facet(RESOURCE, resource.ARN)

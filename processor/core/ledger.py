"""Uses -> usage: the state of the shards that one writer holds, in memory, and what of it a flush must write.

Classes 7 to 9 of a record are decided here. Everything that is written is an absolute value, so that a flush may be
repeated; only the late counts of days that are over are added to what the store holds, under the store's own guard.
"""

from collections.abc import Iterable, Iterator

from processor.core.horizon import Horizon
from processor.core.intake import DENIED, SUCCEEDED, Session, Tally, Use, key_of, salt_of, shard_of
from processor.core.principals import Principal
from processor.core.records import DAY_SECONDS, TIME_MAX
from processor.core.usage import REGION, RESOURCE, Cell, PrincipalUsage


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
                principal, number.to_bytes(8, "big"), shard_of(number), salt_of(principal), {}, {}, set(), {}, [], set()
            )
            self.dirty.append(found)
        return found

    def take_dirty(self) -> Iterator[PrincipalUsage]:
        """The principals that changed; the caller reads their `dirty` actions and clears them."""
        changed, self.dirty = self.dirty, []
        return iter(changed)

    def apply_uses(self, uses: Iterable[Use]) -> None:
        """Count uses. The hot loop: what is rare is in methods of its own."""
        tally = self.tally
        until = self.until
        count_use = count_denied = count_duplicate = 0
        start = end = mask = added = 0
        span = None
        for session, actions, time, event, outcome, region, resources in uses:
            if not start <= time < end:
                if span is not None:
                    span.count += added
                    added = 0
                span = self.horizon.span_at(time)
                if span is None:
                    start = end = 0
                    count_use += outcome != DENIED
                    count_denied += outcome == DENIED
                    self._apply_late(session, actions, time, outcome)
                    continue
                start, end = span.start, span.end
                span.reserve(len(uses))  # type: ignore[arg-type]  # a list in every caller; Iterable reads better
                slots, mask, fresh = span.slots, span.mask, span.fresh.append
            at = event & mask
            while found := slots[at]:
                if found == event:
                    break
                at = (at + 1) & mask
            if found:
                count_duplicate += 1
                continue
            slots[at] = event
            added += 1
            fresh(event)
            if outcome == DENIED:
                count_denied += 1
            else:
                count_use += 1
            if time > until:
                self.beyond_until += 1
                continue
            usage = session.usage or self._attach(session)
            cells = usage.cells
            day = time // DAY_SECONDS
            for action in actions:
                cell = cells.get(action)
                if cell is None:
                    cell = cells[action] = Cell()
                if not cell.dirty:
                    cell.dirty = True
                    if not usage.dirty:
                        self.dirty.append(usage)
                    usage.dirty.append(action)
                if outcome == DENIED:
                    cell.denied += 1
                    continue
                cell.count += 1
                if time > cell.last:
                    cell.last = time
                if time < cell.first:
                    cell.first = time
                if outcome == SUCCEEDED:
                    if time > cell.last_success:
                        cell.last_success = time
                    if time < cell.first_success:
                        cell.first_success = time
                if day == cell.day:
                    cell.day_count += 1
                else:
                    usage.roll_day(action, cell, day)
                if (caller := session.number + action) not in usage.callers:
                    usage.note_caller(caller, cell, session.operator, session.via)
                if region not in cell.regions and not cell.overflow & 2:
                    cell.note_facet(REGION, region or "")
                if resources is not None and not cell.overflow & 4:
                    for resource in resources:
                        if resource.ARN is not None and resource.ARN not in cell.resources:
                            cell.note_facet(RESOURCE, resource.ARN)
        if span is not None:
            span.count += added
        tally.classes["use"] += count_use
        tally.classes["denied"] += count_denied
        tally.classes["duplicate"] += count_duplicate

    def _attach(self, session: Session) -> PrincipalUsage:
        assert session.principal is not None  # noqa: S101 - a session without one is excluded before
        session.usage = self.open_usage(session.principal)
        usage: PrincipalUsage = session.usage
        return usage

    def _apply_late(self, session: Session, actions: tuple[int, ...], time: int, outcome: int) -> None:
        """A use older than the horizon: it may be a duplicate, so it moves first and last use, but no count."""
        self.tally.late += 1
        if outcome == DENIED:
            return
        usage = session.usage or self._attach(session)
        for action in actions:
            cell = usage.cells.get(action)
            if cell is None:
                cell = usage.cells[action] = Cell()
            cell.first = min(cell.first, time)
            if time > cell.last:
                cell.last = time
                if (day := time // DAY_SECONDS) > cell.day:
                    usage.roll_day(action, cell, day)
                    cell.day_count = 0
            if outcome == SUCCEEDED:
                cell.last_success = max(cell.last_success, time)
                cell.first_success = min(cell.first_success, time)
            if not cell.dirty:
                cell.dirty = True
                if not usage.dirty:
                    self.dirty.append(usage)
                usage.dirty.append(action)

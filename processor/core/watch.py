"""What is told of principals beside their gap: break-glass uses, refusals, learning, silent accounts.

Like the tracker it follows what a flush stored, and builds the same anew from what a store holds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from processor.core.denials import RecentDenials
from processor.core.exemptions import Exemptions
from processor.core.fleet import Fleet, Member
from processor.core.privileged import gravest_risk, risky_mask
from processor.core.records import DAY_SECONDS
from processor.core.usage import PrincipalUsage

LATE_SECONDS_MAX = DAY_SECONDS
"""A use that is met later than this is history, and no news; one that a stalled pipeline brings late is news still."""

LEARNING_DAYS = 7

DENIED_PRINCIPALS_MAX = 10_000
"""Principals whose refusals are told; beyond that new ones are not. Labels are bounded, whatever a log holds."""


@dataclass(frozen=True, slots=True)
class Watching:
    """What a run was told of alerts."""

    exemptions: Exemptions = field(default_factory=Exemptions)
    learning_seconds: int = LEARNING_DAYS * DAY_SECONDS

    def learning_until(self, fleet: Fleet, member: Member) -> int:
        """Until when first uses of a principal are quiet in some way: it is new, or its account's log is."""
        return max(self._young_until(member), self._log_new_until(fleet, member))

    def why_quiet(self, fleet: Fleet, member: Member, time: int) -> str:
        """Why a first use at a time is no news, or less: `new_log`: the account's log had begun so shortly before that every
        use is its first; `learning`: the principal was new. Else `no`."""
        if time < self._log_new_until(fleet, member):
            return "new_log"
        return "learning" if time < self._young_until(member) else "no"

    def _young_until(self, member: Member) -> int:
        """From its creation; of one that no inventory lists, from its first use."""
        if member.granted is not None:
            created = member.granted.created
        else:
            cells = {} if member.usage is None else member.usage.cells
            created = min((cell.first for cell in cells.values() if cell.last), default=0)
        return created + self.learning_seconds if created else 0

    def _log_new_until(self, fleet: Fleet, member: Member) -> int:
        covered = fleet.covered_since(member.principal)
        return covered + self.learning_seconds if covered else 0


NOT_WATCHING = Watching()


def when_seen(time: int, now: int | None) -> int:
    """When a use became news: now, as it is met; its own time, where it comes from a store or is history."""
    return time if now is None or now - time > LATE_SECONDS_MAX else max(time, now)


@dataclass(slots=True)
class BreakGlassUse:
    """The last use of a break-glass principal, and when it was noticed; `key` is the principal's."""

    account_id: str
    arn: str
    time: int
    seen: int
    key: int
    action: int


@dataclass(slots=True)
class Denied:
    """Refused calls of privileged actions of one principal: ever, by gravest class, and lately."""

    account_id: str
    arn: str
    by_risk: dict[str, int]
    recent: RecentDenials


class Watch:
    """Follows the fleet's uses. Times are seconds since 1970.

    By ARN, so that a role deleted and made anew is one. `denied_changed` holds those whose refusals may be other than last
    told; `learning_changes` goes up when somebody begins or ends to learn.
    """

    def __init__(
        self, fleet: Fleet, usages: Iterable[PrincipalUsage], watching: Watching, as_of: int, *, fill: bool = True
    ) -> None:
        self.break_glass: dict[str, BreakGlassUse] = {}
        self.denied: dict[str, Denied] = {}
        self.denied_changed: set[str] = set()
        self.learning_changes = 0
        self.newest: dict[str, int] = {}
        self._fleet = fleet
        self._watching = watching
        self._risky = risky_mask(fleet.catalogue)
        self._counted: dict[tuple[int, int], int] = {}
        self._learning: dict[int, int] = {}
        self._met: set[int] = set()
        if fill:
            for _ in self.fill(usages, as_of):
                pass

    def fill(self, usages: Iterable[PrincipalUsage], as_of: int) -> Iterator[None]:
        """Take in all that are known, one a step, as Tracker.fill."""
        for key, member in self._fleet.find_members():
            self._note_learning(key, member, as_of)
            yield
        for usage in list(usages):
            self._take(usage, list(usage.cells), None, None)
            yield

    def apply_uses(self, usage: PrincipalUsage, actions: Iterable[int], span: tuple[int, int], now: int) -> None:
        """Take in that some cells of a principal changed, in a flush that moves the verdicts' time over `span`, at `now` by
        the clock."""
        key = int.from_bytes(usage.key, "big")
        if key not in self._met:
            self._note_learning(key, self._fleet.member(key), now)
        self._take(usage, actions, span, now)

    def _take(
        self, usage: PrincipalUsage, actions: Iterable[int], span: tuple[int, int] | None, now: int | None
    ) -> None:
        newest = newest_action = 0
        for action in actions:
            cell = usage.cells[action]
            if cell.last > newest:
                newest, newest_action = cell.last, action
            if cell.denied and self._risky >> action & 1:
                self._count_denied(usage, action, cell.denied, span)
        account_id, arn = usage.principal.account_id, usage.principal.arn
        if newest > self.newest.get(account_id, 0):
            self.newest[account_id] = newest
        if newest and self._watching.exemptions.is_break_glass(arn):
            before = self.break_glass.get(arn)
            if before is None or newest > before.time:
                key = int.from_bytes(usage.key, "big")
                self.break_glass[arn] = BreakGlassUse(
                    account_id, arn, newest, when_seen(newest, now), key, newest_action
                )

    def _count_denied(self, usage: PrincipalUsage, action: int, count: int, span: tuple[int, int] | None) -> None:
        key, arn = int.from_bytes(usage.key, "big"), usage.principal.arn
        more = count - self._counted.get((key, action), 0)
        found = self.denied.get(arn)
        if more <= 0 or (found is None and len(self.denied) >= DENIED_PRINCIPALS_MAX):
            return
        if found is None:
            found = self.denied[arn] = Denied(usage.principal.account_id, arn, {}, RecentDenials())
        self.denied_changed.add(arn)
        self._counted[key, action] = count
        risk = gravest_risk(self._fleet.catalogue, action, 0)
        found.by_risk[risk] = found.by_risk.get(risk, 0) + more
        if span is not None:
            found.recent.add(more, *span)

    def rewatch(self, watching: Watching, usages: Iterable[PrincipalUsage]) -> None:
        """Take in other break-glass principals: the last uses of those that are new among them are no news, as at a start."""
        before, self._watching = self._watching.exemptions, watching
        if before.break_glass == watching.exemptions.break_glass:
            return
        self.break_glass = {
            arn: use for arn, use in self.break_glass.items() if watching.exemptions.is_break_glass(arn)
        }
        for usage in usages:
            arn = usage.principal.arn
            if arn not in self.break_glass and watching.exemptions.is_break_glass(arn):
                self._take(usage, list(usage.cells), None, None)

    def _note_learning(self, key: int, member: Member, now: int) -> None:
        self._met.add(key)
        until = self._watching.learning_until(self._fleet, member)
        if until > now:
            self._learning[key] = until
            self.learning_changes += 1

    def note_grants(self, keys: Iterable[int], now: int) -> None:
        """Take in that the inventory has changed for these principals: one that is new there learns, one that is gone does not."""
        for key in keys:
            if self._learning.pop(key, None) is not None:
                self.learning_changes += 1
            self._met.discard(key)
            if self._fleet.has(key):
                self._note_learning(key, self._fleet.member(key), now)

    def end_learning(self, now: int) -> None:
        """Let go of those who have learnt."""
        done = [key for key, until in self._learning.items() if until <= now]
        for key in done:
            del self._learning[key]
        self.learning_changes += bool(done)

    def learning(self) -> Iterator[tuple[Member, int]]:
        """The principals that are learning, and until when."""
        for key, until in self._learning.items():
            if self._fleet.has(key):
                yield self._fleet.member(key), until

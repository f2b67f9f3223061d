"""The gaps of all principals, kept as uses come and time passes."""

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from processor.core.catalogue import mask_of_ids
from processor.core.first_uses import FirstUses
from processor.core.fleet import Coverage, Fleet, Member
from processor.core.gap import (
    Logging,
    PrincipalGap,
    Verdicts,
    advance,
    apply_success,
    apply_use,
)
from processor.core.gap_counts import GapCounts, count_gap
from processor.core.sessions import shard_of
from processor.core.usage import PrincipalUsage
from processor.core.watch import NOT_WATCHING, Watching


@dataclass(frozen=True, slots=True)
class Before:
    """What a principal was before it changed: `why` it did is use, grant, lapse, coverage or catalogue."""

    why: str
    verdicts: Sequence[Verdicts] | None


class Tracker:
    """Follows the fleet from `as_of` on. `changed` holds the keys of principals whose counts may be other than last told;
    with `keep_before` also `before`: why each changed first, and its verdicts then (None: without grants). Without `fill` the
    caller goes through `fill`, before anything else."""

    def __init__(
        self,
        fleet: Fleet,
        usages: Iterable[PrincipalUsage],
        as_of: int,
        watching: Watching = NOT_WATCHING,
        *,
        keep_before: bool = False,
        fill: bool = True,
    ) -> None:
        self.fleet = fleet
        self.as_of = as_of
        self.changed: set[int] = set()
        self.before: dict[int, Before] = {}
        self._keep_before = keep_before
        self._unjudged: dict[int, None] | None = None
        self.found_observable: list[tuple[str, int]] = []
        self._watching = watching
        self._next_expiry = watching.exemptions.next_expiry(as_of)
        self._gaps: dict[int, PrincipalGap] = {}
        self._turns: list[tuple[int, int]] = []
        self._by_account: dict[str, set[int]] = {}
        self.first_uses = FirstUses(fleet, watching)
        if fill:
            for _ in self.fill(usages):
                pass

    def fill(self, usages: Iterable[PrincipalUsage]) -> Iterator[None]:
        """Follow all that are known, one a step, so that the caller can let others go on in between."""
        for key, member in self.fleet.find_members():
            self.add(key, member)
            yield
        self.first_uses.fill(usages)

    def add(self, key: int, member: Member) -> PrincipalGap:
        """Follow a principal from now on, or anew because what is known beside its uses has changed."""
        gap = self._gaps[key] = self.fleet.gap_of(member, self.as_of)
        heapq.heappush(self._turns, (gap.turns_at, key))
        self._by_account.setdefault(member.principal.account_id, set()).add(key)
        self.changed.add(key)
        return gap

    def apply_uses(self, usage: PrincipalUsage, actions: Iterable[int], now: int | None = None) -> None:
        """Take in that some cells of a principal changed. `now` is the clock's time, of which first uses become news."""
        key = int.from_bytes(usage.key, "big")
        gap = self._gaps.get(key)
        if gap is None:
            gap = self.add(key, self.fleet.member(key))
        account_id = usage.principal.account_id
        turned, used = gap.turns_at, list(gap.used)
        as_of, observable = self.fleet.time_of(account_id, self.as_of), self.fleet.observable(account_id)
        size, news = self.fleet.catalogue.size, self.first_uses.actions
        granted = self.fleet.granted_mask(key)
        seen = []
        for action in actions:
            cell = usage.cells[action]
            if action >= size:
                continue
            if cell.last:
                if apply_use(gap, action, cell.last, as_of, self.fleet.windows):
                    self._change(key, "use", used)
                if not observable >> action & 1:
                    seen.append(action)
            if granted is not None and cell.last_success and not granted >> action & 1:
                self.changed.add(key)
                apply_success(gap, cell.last_success, as_of, self.fleet.windows)
            if action in news and cell.last_success:
                self.first_uses.note((key, action), usage, now)
        if seen:
            self.note_seen(account_id, mask_of_ids(seen))
        if gap.turns_at < turned:
            heapq.heappush(self._turns, (gap.turns_at, key))

    def note_seen(self, account_id: str, actions: int) -> int:
        """Take in that actions were used in an account, by whomever; those that were not known to be observable there."""
        new = actions & self.fleet.catalogue.all_mask & ~self.fleet.observable(account_id)
        if new:
            self._change_all(account_id, "use")
            self.fleet.note_seen(account_id, new)
            self.found_observable.append((account_id, new))
        return new

    def _change(self, key: int, why: str, used: Sequence[int] | None = None) -> None:
        """Note that a principal is about to change, or has changed from `used`."""
        self.changed.add(key)
        if self._keep_before and key not in self.before:
            self.before[key] = Before(why, self.verdicts_of(key, used))

    def _change_all(self, account_id: str, why: str) -> None:
        for key in self._by_account.get(account_id, ()):
            self._change(key, why)

    def verdicts_of(self, key: int, used: Sequence[int] | None = None) -> list[Verdicts] | None:
        """The verdicts of a principal as they are, or were when the actions `used` were; None for one without grants."""
        member, gap = self.fleet.member(key), self._gaps[key]
        if member.granted is None:
            return None
        return self.fleet.verdicts_of(member, gap if used is None else PrincipalGap(list(used), 0), self.as_of)

    def apply_grants(self, keys: Iterable[int], change: Callable[[], None] | None = None) -> None:
        """Take in that the inventory has other grants for these principals, or has them no longer. `change` makes it so; without
        it that was done before, and what they were then cannot be told."""
        keys = list(keys)
        if change is not None:
            for key in keys:
                if key in self._gaps:
                    self._change(key, "grant")
                elif self._keep_before:
                    self.before.setdefault(key, Before("grant", None))
            change()
        for key in keys:
            if self.fleet.has(key):
                self.add(key, self.fleet.member(key))
            elif self._gaps.pop(key, None) is not None:
                for listed in self._by_account.values():
                    listed.discard(key)
                self.changed.add(key)

    def rewatch(self, watching: Watching) -> None:
        """Take in other exemptions: all counts may be other ones."""
        self._watching = watching
        self._next_expiry = watching.exemptions.next_expiry(self.as_of)
        self.first_uses.rewatch(watching)
        self.changed.update(self._gaps)

    def set_logging(self, account_id: str, logging: Logging) -> None:
        """Take in what the trails of an account log now, which concerns all verdicts there."""
        if logging != self.fleet.logging_of(account_id):
            self._change_all(account_id, "coverage")
            self.fleet.set_logging(account_id, logging)
            self._judge_again(self._by_account.get(account_id, ()))

    def hold(self, held: Mapping[str, int]) -> None:
        """Have the verdicts of these accounts, and of no others, stay as of a time: uses still close their gaps, but nothing
        lapses and nothing comes of age."""
        before = self.fleet.held
        moved = [account for account in before.keys() | held.keys() if before.get(account) != held.get(account)]
        for account_id in moved:
            self._change_all(account_id, "coverage")
        self.fleet.held = dict(held)
        for account_id in moved:
            self._judge_again(self._by_account.get(account_id, ()))

    def judge_later(self) -> None:
        """From now on leave what concerns whole accounts to `judge_some`: when each turns, and what lapsed while held."""
        self._unjudged = {}

    def judge_some(self, most: int) -> bool:
        """Judge at most so many of those that wait for it. True once none does."""
        waiting = self._unjudged or {}
        for key in list(itertools.islice(waiting, most)):
            del waiting[key]
            if key in self._gaps and self.fleet.has(key):
                self.add(key, self.fleet.member(key))
        return not waiting

    def let_pass(self, as_of: int, most: int) -> Iterator[None]:
        """As `judge_some` and `advance` until nothing is left to do, a step of at most so many principals at a time."""
        while not self.judge_some(most) or not self.advance(as_of, most):
            yield

    def _judge_again(self, keys: Iterable[int]) -> None:
        if self._unjudged is not None:
            self._unjudged.update(dict.fromkeys(keys))
            return
        for key in list(keys):
            self.add(key, self.fleet.member(key))

    def note_coverage(self, accounts: Mapping[str, int]) -> None:
        """Take in since when the accounts' logs are known: a first record, or an older one, concerns all verdicts there."""
        self.cover(replace(self.fleet.coverage, accounts=accounts))

    def cover(self, coverage: Coverage) -> None:
        """Take in another coverage."""
        before = self.fleet.coverage
        if coverage == before:
            return
        moved = [
            key
            for account_id in coverage.accounts
            for key in self._by_account.get(account_id, ())
            if coverage.since_of(account_id, shard_of(key)) != before.since_of(account_id, shard_of(key))
        ]
        for key in moved:
            self._change(key, "coverage")
        self.fleet.coverage = coverage
        self._judge_again(moved)

    def advance(self, as_of: int, most: int | None = None) -> bool:
        """Let time pass: uses lapse, grants come of age, coverage fills windows. False where more than `most` principals turn by
        that: call it again with the same time."""
        if as_of > self.as_of:
            if self._keep_before:
                self._remember_turning(as_of)
            self.as_of = as_of
            if self._next_expiry <= as_of:
                self._next_expiry = self._watching.exemptions.next_expiry(as_of)
                self.changed.update(self._gaps)
        as_of = self.as_of
        while self._turns and self._turns[0][0] <= as_of:
            if most is not None:
                if not most:
                    return False
                most -= 1
            turn, key = heapq.heappop(self._turns)
            gap = self._gaps.get(key)
            if gap is None or turn != gap.turns_at:
                continue  # It is gone, or another turn was found for it since, and has an entry of its own.
            member = self.fleet.member(key)
            time_of = self.fleet.time_of(member.principal.account_id, as_of)
            if time_of < turn:
                continue  # It is held, and all of its account is judged again when it no longer is.
            cells = {} if member.usage is None else member.usage.cells
            account_id = member.principal.account_id
            covered, begins = self.fleet.covered_since(member.principal), self.fleet.begins(account_id)
            if advance(gap, cells, member.granted, covered, time_of, self.fleet.windows, begins):
                self.changed.add(key)
            heapq.heappush(self._turns, (gap.turns_at, key))
        return True

    def _remember_turning(self, as_of: int) -> None:
        """Note the verdicts, as they still are, of all that turns up to a time."""
        for turn, key in self._turns:
            if turn <= as_of and (gap := self._gaps.get(key)) is not None and gap.turns_at == turn:
                self._change(key, "lapse")

    def count(self, key: int) -> tuple[Member, list[GapCounts]]:
        """What the metrics say of a principal; nothing for one without an inventory."""
        member = self.fleet.member(key)
        return member, count_gap(self.fleet, member, self._gaps[key], self.as_of, self._watching)

    def gap_of(self, key: int) -> PrincipalGap:
        return self._gaps[key]

    def __iter__(self) -> Iterator[int]:
        return iter(self._gaps)

    def __contains__(self, key: int) -> bool:
        return key in self._gaps

    def __len__(self) -> int:
        return len(self._gaps)

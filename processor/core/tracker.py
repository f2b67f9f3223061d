"""The gaps of all principals, kept as uses come and time passes."""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from processor.core.catalogue import RISKS
from processor.core.fleet import Fleet, Member
from processor.core.gap import Logging, PrincipalGap, Verdicts, advance, apply_use, count_risks, gap_index
from processor.core.report import count_not_granted, granted_services
from processor.core.sessions import key_of
from processor.core.usage import PrincipalUsage

PRIVILEGED = tuple(risk for risk in RISKS if risk not in ("data_access", "destructive"))
"""The classes whose first use is worth a look: they change who may do what, or hide it."""

FIRST_USES_MAX = 1_000


@dataclass(frozen=True, slots=True)
class GapCounts:
    """What the metrics say of one principal and window. `services` counts unused grants by service."""

    window: str
    verdicts: dict[str, int]
    risks: dict[str, int]
    index: float
    services: dict[str, int]
    not_granted: int


@dataclass(frozen=True, slots=True)
class FirstUse:
    """A privileged action's first successful use by a principal."""

    time: int
    account_id: str
    arn: str
    action: str


class Tracker:
    """Follows the fleet from `as_of` on. `changed` holds the keys of principals whose counts may be other than last told."""

    def __init__(self, fleet: Fleet, usages: Iterable[PrincipalUsage], as_of: int) -> None:
        self.fleet = fleet
        self.as_of = as_of
        self.changed: set[int] = set()
        self.first_uses_evicted = 0
        self._gaps: dict[int, PrincipalGap] = {}
        self._turns: list[tuple[int, int]] = []
        self._by_account: dict[str, set[int]] = {}
        self._first_uses: dict[tuple[int, int], FirstUse] = {}
        self._privileged = 0
        for risk in PRIVILEGED:
            self._privileged |= fleet.catalogue.risk_masks[risk]
        for path in fleet.catalogue.paths:
            self._privileged |= path.mask
        for member in fleet.members():
            self._add(key_of(member.principal), member)
        first = sorted(self._find_first_uses(usages), key=lambda found: found[1].time)
        for place, use in first[-FIRST_USES_MAX:]:
            self._first_uses[place] = use

    def _add(self, key: int, member: Member) -> PrincipalGap:
        gap = self._gaps[key] = self.fleet.gap_of(member, self.as_of)
        heapq.heappush(self._turns, (gap.turns_at, key))
        self._by_account.setdefault(member.principal.account_id, set()).add(key)
        self.changed.add(key)
        return gap

    def apply_uses(self, usage: PrincipalUsage, actions: Iterable[int]) -> None:
        """Take in that some cells of a principal changed."""
        key = int.from_bytes(usage.key, "big")
        gap = self._gaps.get(key)
        if gap is None:
            gap = self._add(key, self.fleet.member(key))
        turned = gap.turns_at
        as_of = self.fleet.time_of(usage.principal.account_id, self.as_of)
        for action in actions:
            cell = usage.cells[action]
            if action >= self.fleet.catalogue.size:
                continue
            if cell.last:
                if apply_use(gap, action, cell.last, as_of, self.fleet.windows):
                    self.changed.add(key)
                if self.fleet.note_seen(usage.principal.account_id, action):
                    self.changed |= self._by_account[usage.principal.account_id]
            if self._privileged >> action & 1 and cell.last_success and (key, action) not in self._first_uses:
                self._note_first_use(key, usage, action)
        if gap.turns_at < turned:
            heapq.heappush(self._turns, (gap.turns_at, key))

    def apply_grants(self, keys: Iterable[int]) -> None:
        """Take in that the inventory has changed for these principals: has other grants for them, or has them no longer."""
        for key in keys:
            if self.fleet.has(key):
                self._add(key, self.fleet.member(key))
            elif self._gaps.pop(key, None) is not None:
                for listed in self._by_account.values():
                    listed.discard(key)
                self.changed.add(key)

    def set_logging(self, account_id: str, logging: Logging) -> None:
        """Take in what the trails of an account log now, which concerns all verdicts there."""
        if logging != self.fleet.logging_of(account_id):
            self.fleet.set_logging(account_id, logging)
            self._judge_again(account_id)

    def hold(self, held: Mapping[str, int]) -> None:
        """Have the verdicts of these accounts, and of no others, stay as of a time: uses still close their gaps, but nothing
        lapses and nothing comes of age."""
        before = self.fleet.held
        self.fleet.held = dict(held)
        for account_id in before.keys() | held.keys():
            if before.get(account_id) != held.get(account_id):
                self._judge_again(account_id)

    def _judge_again(self, account_id: str) -> None:
        for key in list(self._by_account.get(account_id, ())):
            self._add(key, self.fleet.member(key))

    def note_coverage(self, accounts: Mapping[str, int]) -> None:
        """Take in since when the accounts' logs are known: a first record, or an older one, concerns all verdicts there."""
        before = self.fleet.coverage
        now = self.fleet.coverage = replace(before, accounts=accounts)
        for account_id in accounts:
            if now.since_of(account_id) != before.since_of(account_id):
                self._judge_again(account_id)

    def advance(self, as_of: int) -> None:
        """Let time pass: uses lapse, grants come of age, coverage fills windows."""
        if as_of <= self.as_of:
            return
        self.as_of = as_of
        while self._turns and self._turns[0][0] <= as_of:
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
            covered, begins = self.fleet.coverage.since_of(account_id), self.fleet.begins(account_id)
            if advance(gap, cells, member.granted, covered, time_of, self.fleet.windows, begins):
                self.changed.add(key)
            heapq.heappush(self._turns, (gap.turns_at, key))

    def count(self, key: int) -> tuple[Member, list[GapCounts]]:
        """What the metrics say of a principal; nothing for one without an inventory."""
        member = self.fleet.member(key)
        if member.granted is None:
            return member, []
        granted = member.granted.granted
        catalogue = self.fleet.catalogue
        escalation = catalogue.escalation_mask(granted)
        verdicts = self.fleet.verdicts_of(member, self._gaps[key], self.as_of)
        as_of = self.fleet.time_of(member.principal.account_id, self.as_of)
        counts = []
        for window, judged in zip(self.fleet.windows, verdicts, strict=True):
            counts.append(
                GapCounts(
                    window.label,
                    {name: getattr(judged, name).bit_count() for name in _VERDICTS},
                    count_risks(catalogue, judged.unused, escalation),
                    gap_index(catalogue, judged, granted, escalation),
                    self._count_services(judged),
                    count_not_granted(member, as_of - window.seconds),
                )
            )
        return member, counts

    def _count_services(self, judged: Verdicts) -> dict[str, int]:
        return {service: mask.bit_count() for service, mask in granted_services(self.fleet.catalogue, judged.unused)}

    @property
    def first_uses(self) -> Sequence[FirstUse]:
        return list(self._first_uses.values())

    def _find_first_uses(self, usages: Iterable[PrincipalUsage]) -> Iterator[tuple[tuple[int, int], FirstUse]]:
        for usage in usages:
            key = int.from_bytes(usage.key, "big")
            for action, cell in usage.cells.items():
                if self._privileged >> action & 1 and cell.last_success:
                    yield (key, action), self._make_first_use(usage, action)

    def _make_first_use(self, usage: PrincipalUsage, action: int) -> FirstUse:
        name = self.fleet.catalogue.names[action]
        principal = usage.principal
        return FirstUse(usage.cells[action].first_success, principal.account_id, principal.arn, name)

    def _note_first_use(self, key: int, usage: PrincipalUsage, action: int) -> None:
        """Keep it, if it is newer than the oldest kept; a use that an eviction dropped is not new again."""
        found = self._make_first_use(usage, action)
        if len(self._first_uses) >= FIRST_USES_MAX:
            oldest = min(self._first_uses, key=lambda place: self._first_uses[place].time)
            if found.time <= self._first_uses[oldest].time:
                return
            del self._first_uses[oldest]
            self.first_uses_evicted += 1
        self._first_uses[key, action] = found

    def __contains__(self, key: int) -> bool:
        return key in self._gaps

    def __len__(self) -> int:
        return len(self._gaps)


_VERDICTS = ("used", "unused", "unobservable", "too_new", "unproven")

"""The first uses of privileged actions: the newest of them, which the rules alert on."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from processor.core.catalogue import ids_in
from processor.core.fleet import Fleet, Member
from processor.core.privileged import gravest_risk, is_told, privileged_mask
from processor.core.usage import PrincipalUsage
from processor.core.watch import Watching, when_seen

FIRST_USES_MAX = 1_000

NEWS_SECONDS = 3_600
"""How long a first use is news: the rules alert for as long, and one that is dropped before is lost."""


@dataclass(frozen=True, slots=True)
class FirstUse:
    """A privileged action's first successful use by a principal. `risk` is its gravest class there; `quiet` says why it is no
    news: `new_log`, `learning` (then news in the gravest classes), `exempt`, or `no`. `seen` is when it became news, `key` the
    principal's key."""

    key: int
    time: int
    account_id: str
    arn: str
    action: str
    risk: str
    quiet: str
    seen: int


Place = tuple[int, int]
"""A principal's key and an action."""


class FirstUses:
    """The newest FIRST_USES_MAX. `changes` counts what came; `evicted` what went for it, `lost` what of that was still news.
    `actions` are those whose first use is kept."""

    def __init__(self, fleet: Fleet, watching: Watching) -> None:
        self.by_place: dict[Place, FirstUse] = {}
        self.actions = frozenset(ids_in(privileged_mask(fleet.catalogue)))
        self.changes = 1
        self.evicted = 0
        self.lost = 0
        self._oldest: list[tuple[int, Place]] = []
        self._fleet = fleet
        self._watching = watching

    def fill(self, usages: Iterable[PrincipalUsage]) -> None:
        """Take in what was used before: none of it is news."""
        newest = heapq.nlargest(FIRST_USES_MAX, self._find(usages), key=lambda found: found[0])
        for _, usage, action in reversed(newest):
            self._keep((int.from_bytes(usage.key, "big"), action), usage, None)

    def _find(self, usages: Iterable[PrincipalUsage]) -> Iterator[tuple[int, PrincipalUsage, int]]:
        for usage in usages:
            for action, cell in usage.cells.items():
                if action in self.actions and cell.last_success:
                    yield cell.first_success, usage, action

    def note(self, place: Place, usage: PrincipalUsage, now: int | None) -> None:
        """Keep a first use that is newer than the oldest kept; one that an eviction dropped is not new again. `now` is the
        clock's time, at which it becomes news."""
        if place in self.by_place:
            return
        if len(self.by_place) >= FIRST_USES_MAX:
            time, oldest = self._oldest[0]
            if usage.cells[place[1]].first_success <= time:
                self._lose(self._make(place, usage, now), now)
                return
            heapq.heappop(self._oldest)
            self.evicted += 1
            self._lose(self.by_place.pop(oldest), now)
        self._keep(place, usage, now)
        self.changes += 1

    def _keep(self, place: Place, usage: PrincipalUsage, now: int | None) -> None:
        found = self.by_place[place] = self._make(place, usage, now)
        heapq.heappush(self._oldest, (found.time, place))

    def _lose(self, dropped: FirstUse, now: int | None) -> None:
        news = now is not None and dropped.seen > now - NEWS_SECONDS
        self.lost += news and is_told(dropped.risk, dropped.quiet)

    def rewatch(self, watching: Watching) -> None:
        """Say anew of all why they are quiet, under other exemptions."""
        self._watching = watching
        for place, use in self.by_place.items():
            quiet = self._why_quiet(place, self._fleet.member(use.key), use.time)
            if quiet != use.quiet:
                self.by_place[place] = replace(use, quiet=quiet)
                self.changes += 1

    def _why_quiet(self, place: Place, member: Member, time: int) -> str:
        exemptions, arn = self._watching.exemptions, member.principal.arn
        exempt = exemptions.exempt_mask(self._fleet.catalogue, arn, "first_use", time)
        return "exempt" if exempt >> place[1] & 1 else self._watching.why_quiet(self._fleet, member, time)

    def _make(self, place: Place, usage: PrincipalUsage, now: int | None) -> FirstUse:
        key, action = place
        catalogue, principal = self._fleet.catalogue, usage.principal
        member = self._fleet.member(key)
        time = usage.cells[action].first_success
        return FirstUse(
            key,
            time,
            principal.account_id,
            principal.arn,
            catalogue.names[action],
            gravest_risk(catalogue, action, None if member.granted is None else member.granted.granted),
            self._why_quiet(place, member, time),
            when_seen(time, now),
        )

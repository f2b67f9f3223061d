"""The made-up company whole: the inventory, the organisation, the history and the live activity of `gapwatch demo`.

All of it is a pure function of a seed and of the time at which the demo begins (`until`): history lies before it, live
activity after it. Nothing here reads a clock.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import count

from processor.demo.accounts import ACCOUNTS, PROD, Account, Json, build_organization
from processor.demo.activity import Activity, Timed
from processor.demo.calls import Call, build_calls
from processor.demo.inventory import build_document
from processor.demo.jobs import bind_jobs
from processor.demo.principals import DemoPrincipal, build_principals, build_role
from processor.demo.stories import (
    DELETED,
    Cast,
    Story,
    build_stories,
    list_live_plants,
    list_past_plants,
    write_plants,
)
from processor.demo.times import HOUR_SECONDS, RHYTHMS, hour_of_week

RECORDS_PER_WEEK = 6_700
"""At rate 1: about 40,000 in six weeks."""

RATE_MAX = 500.0
LIVE_RATE = 3.0
"""Records a second."""

LIVE_RATE_MAX = 2_000.0
LIVE_SECONDS = 10
"""The slot in which live activity is made."""

HISTORY_GAP_SECONDS, LIVE_GAP_SECONDS = 20, 2
QUIET_SHARE = 0.3
"""How much of the jobs that have their hours is seen live, whatever the hour: a demo at night should not be empty."""


@dataclass(frozen=True, slots=True)
class Company:
    """See `build_company`."""

    seed: int
    until: int
    principals: tuple[DemoPrincipal, ...]
    _calls: dict[str, Call]
    _activity: Activity

    @property
    def accounts(self) -> tuple[Account, ...]:
        return ACCOUNTS

    @property
    def odd_arns(self) -> frozenset[str]:
        """Roles that records name and the inventory does not: one that was deleted."""
        return frozenset((build_role(self.seed, self.until, PROD, DELETED).arn,))

    @property
    def data_events(self) -> dict[str, tuple[str, ...]]:
        """The services whose data events are logged, by account id: what belongs into a run's [logging] settings."""
        return {account.id: account.data_events for account in ACCOUNTS}

    def inventory(self) -> list[Json]:
        """One `get-account-authorization-details` document for each account, in the order of `accounts`."""
        return [build_document(account, self.principals, self.seed, self.until) for account in ACCOUNTS]

    def organization(self) -> Json:
        """The organisation file: {"management_account", "tree", "policies"}."""
        return build_organization()

    def stories(self, now: int | None = None) -> list[Story]:
        """What to point at, in the order of time; live stories count from `now`, which is `until` unless given."""
        return build_stories(Cast(self.principals), self.until, self.until if now is None else now)

    def history(self, since: int, until: int, rate: float = 1.0) -> Iterator[Timed]:
        """Records with eventTime in [since, until), in the order of time, about RECORDS_PER_WEEK * `rate` a week.

        The records of an hour do not depend on where the span begins. Raises ValueError for a rate out of bounds.
        """
        _check_rate(rate, RATE_MAX)
        works = self._activity.works
        weekly = sum(work.per_week * len(work.steps) for work in works)
        scale = RECORDS_PER_WEEK * rate / weekly
        planted = write_plants(
            list_past_plants(Cast(self.principals), self.seed, self.until), self._activity, self._calls
        )
        at_of = [at for at, _ in planted]
        for start in range(since - since % HOUR_SECONDS, until, HOUR_SECONDS):
            hour = hour_of_week(start)
            means = [work.per_week * scale * RHYTHMS[work.rhythm][hour] for work in works]
            made = self._activity.write_slot("history", start, HOUR_SECONDS, means, HISTORY_GAP_SECONDS)
            laid = planted[bisect_left(at_of, start) : bisect_left(at_of, start + HOUR_SECONDS)]
            yield from (timed for timed in merge(made, laid, key=_time_of) if since <= timed[0] < until)

    def live(self, now: int | None = None, rate: float = LIVE_RATE) -> Iterator[Timed]:
        """Records from `now` (`until` unless given) on, without end, about `rate` a second, with the live stories.

        Raises ValueError for a rate out of bounds.
        """
        _check_rate(rate, LIVE_RATE_MAX)
        begin = self.until if now is None else now
        works = self._activity.works
        weights = [
            work.per_week * max(QUIET_SHARE, RHYTHMS[work.rhythm][hour_of_week(begin)] * len(RHYTHMS[work.rhythm]))
            for work in works
        ]
        expected = sum(weight * len(work.steps) for weight, work in zip(weights, works, strict=True))
        means = [weight * rate * LIVE_SECONDS / expected for weight in weights]
        planted = write_plants(list_live_plants(Cast(self.principals), begin), self._activity, self._calls)
        at_of = [at for at, _ in planted]
        for start in count(begin, LIVE_SECONDS):
            made = self._activity.write_slot("live", start, LIVE_SECONDS, means, LIVE_GAP_SECONDS)
            laid = planted[bisect_left(at_of, start) : bisect_left(at_of, start + LIVE_SECONDS)]
            yield from merge(made, laid, key=_time_of)


def build_company(seed: int, until: int) -> Company:
    """The company as it stands at `until` (seconds since 1970), when the demo begins. The same arguments make the same
    company, to the last id."""
    principals = build_principals(seed, until)
    calls = build_calls()
    roles: dict[str, list[DemoPrincipal]] = {}
    for principal in principals:
        roles.setdefault(principal.name, []).append(principal)
    return Company(seed, until, principals, calls, Activity(seed, bind_jobs(principals, calls), roles))


def _time_of(timed: Timed) -> int:
    return timed[0]


def _check_rate(rate: float, rate_max: float) -> None:
    if not 0 < rate <= rate_max:
        raise ValueError(f"a rate of {rate} is out of bounds: give one above 0 and up to {rate_max:g}")

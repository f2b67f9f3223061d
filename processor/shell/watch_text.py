"""The series beside the gap's: first uses, refusals, break-glass, learning, accounts, exemptions.

Most are few. First uses are at most 1,000, twice; of those who learn or were refused there may be as many as principals, and these
are rendered in parts, where they changed.
"""

import gzip
from collections.abc import Iterable, Iterator, Mapping

from processor.core.exemptions import Exemptions
from processor.core.tracker import Tracker
from processor.core.watch import Watch
from processor.shell.gap_text import FirstUsesText
from processor.shell.metrics import Line, pack_family, write_head, write_lines

PARTS = 64
"""The refusals are rendered in so many parts: one that changes costs a few milliseconds with 10,000 principals."""

_DENIED = "gapwatch_denied_privileged_total"


class WatchText:
    """The series as gzip members. What may be many lines is rendered in `refresh`, and only where it changed."""

    def __init__(self, tracker: Tracker, watch: Watch, exemptions: Exemptions, inventoried: Mapping[str, int]) -> None:
        self._tracker = tracker
        self._watch = watch
        self._exemptions = exemptions
        self._inventoried = inventoried
        self._first_uses = FirstUsesText(tracker)
        self._learning = b""
        self._learning_changes = -1
        self._denied = [b""] * PARTS
        self._denied_head = gzip.compress(write_head(_DENIED).encode(), 1)
        watch.denied_changed.update(watch.denied)

    def refresh(self, now: int) -> Iterator[None]:
        """Render what changed, a part at a time, so that the caller can let others go on in between."""
        yield from self._first_uses.refresh()
        self._watch.end_learning(now)
        if self._learning_changes != self._watch.learning_changes:
            self._learning_changes = self._watch.learning_changes
            learning = [((m.principal.account_id, m.principal.arn), until) for m, until in self._watch.learning()]
            self._learning = pack_family("gapwatch_learning_until_timestamp_seconds", _keep_latest(learning))
            yield
        changed, self._watch.denied_changed = self._watch.denied_changed, set()
        for part in sorted({_part_of(arn) for arn in changed}):
            self._render_denied(part)
            yield

    def _render_denied(self, part: int) -> None:
        lines = (
            ((found.account_id, arn, risk), count)
            for arn, found in self._watch.denied.items()
            if _part_of(arn) == part
            for risk, count in found.by_risk.items()
        )
        self._denied[part] = gzip.compress("".join(write_lines(_DENIED, lines)).encode(), 1)

    def members(self, now: int) -> list[bytes]:
        """All series, each family whole; what is of the moment, or short, is rendered here."""
        watch, coverage = self._watch, self._tracker.fleet.coverage
        families: dict[str, Iterable[Line]] = {
            "gapwatch_denied_privileged_recent": (
                ((found.account_id, arn), count)
                for arn, found in watch.denied.items()
                if found.recent.total and (count := found.recent.forget(now))
            ),
            "gapwatch_break_glass_use_timestamp_seconds": (
                ((use.account_id, use.arn), use.time) for use in watch.break_glass.values()
            ),
            "gapwatch_break_glass_seen_timestamp_seconds": (
                ((use.account_id, use.arn), use.seen) for use in watch.break_glass.values()
            ),
            "gapwatch_account_newest_use_timestamp_seconds": (((account,), at) for account, at in watch.newest.items()),
            "gapwatch_account_covered_since_timestamp_seconds": (
                ((account,), since)
                for account in coverage.accounts
                if (since := coverage.since_of_all(account)) is not None
            ),
            "gapwatch_inventory_timestamp_seconds": (((account,), at) for account, at in self._inventoried.items()),
            "gapwatch_exemption_expiry_timestamp_seconds": (
                ((each.name, each.owner), each.expires) for each in self._exemptions.listed
            ),
            "gapwatch_window_seconds": (((window.label,), window.seconds) for window in self._tracker.fleet.windows),
        }
        short = [pack_family(name, sorted(lines)) for name, lines in families.items()]
        return [*self._first_uses.members(), self._learning, self._denied_head, *filter(None, self._denied), *short]


def _keep_latest(lines: Iterable[Line]) -> list[Line]:
    """One line for principals of one ARN: a role deleted and made anew."""
    found: dict[tuple[str, ...], float] = {}
    for values, sample in lines:
        found[values] = max(found.get(values, 0), sample)
    return list(found.items())


def _part_of(arn: str) -> int:
    return hash(arn) % PARTS

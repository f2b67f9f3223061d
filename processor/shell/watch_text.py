"""The series beside the gap's: first uses, refusals, break-glass, learning, accounts, exemptions.

Most are few. First uses are at most 1,000, twice; of those who learn or were refused there may be as many as principals, and these
are rendered in parts, where they changed.
"""

import gzip
from collections.abc import Iterable, Iterator, Mapping

from processor.core.gap import Window
from processor.core.tracker import Tracker
from processor.core.watch import Watch, Watching
from processor.shell.gap_text import FirstUsesText
from processor.shell.metrics import Line, pack_family, write_head, write_lines

PARTS = 64
"""The refusals are rendered in so many parts: one that changes costs a few milliseconds with 10,000 principals."""

_DENIED = "gapwatch_denied_privileged_total"


class WatchText:
    """The series as gzip members, of one tracker and its watch for all shards, or of several, each for some. What may be many lines
    is rendered in `refresh`, and only where it changed. A role that was deleted and made anew may be in two shards: it is one."""

    def __init__(self, watching: Watching, windows: Iterable[Window], inventoried: Mapping[str, int]) -> None:
        self.watching = watching
        self.inventoried = inventoried
        self.first_uses = FirstUsesText()
        self._windows = tuple(windows)
        self._watched: list[tuple[Tracker, Watch]] = []
        self._learning = b""
        self._learning_told: list[int] | None = None
        self._denied = [b""] * PARTS
        self._denied_changed: set[int] = set()
        self._denied_head = gzip.compress(write_head(_DENIED).encode(), 1)

    def add(self, tracker: Tracker, watch: Watch) -> None:
        """Tell of these, too."""
        self.first_uses.add(tracker)
        self._watched.append((tracker, watch))
        self._learning_told = None
        watch.denied_changed.update(watch.denied)

    def remove(self, tracker: Tracker, watch: Watch) -> None:
        """Tell of these no more, from the next refresh on."""
        self.first_uses.remove(tracker)
        if (tracker, watch) in self._watched:
            self._watched.remove((tracker, watch))
            self._learning_told = None
            self._denied_changed |= {_part_of(arn) for arn in watch.denied}

    def refresh(self, now: int) -> Iterator[None]:
        """Render what changed, a part at a time, so that the caller can let others go on in between."""
        yield from self.first_uses.refresh()
        for _, watch in self._watched:
            watch.end_learning(now)
        changes = [watch.learning_changes for _, watch in self._watched]
        if self._learning_told != changes:
            self._learning_told = changes
            learning = (
                ((m.principal.account_id, m.principal.arn), until)
                for _, watch in self._watched
                for m, until in watch.learning()
            )
            self._learning = pack_family("gapwatch_learning_until_timestamp_seconds", _keep_latest(learning))
            yield
        for _, watch in self._watched:
            changed, watch.denied_changed = watch.denied_changed, set()
            self._denied_changed |= {_part_of(arn) for arn in changed}
        while self._denied_changed:
            self._render_denied(self._denied_changed.pop())
            yield

    def _render_denied(self, part: int) -> None:
        lines = (
            ((found.account_id, arn, risk), count)
            for _, watch in self._watched
            for arn, found in watch.denied.items()
            if _part_of(arn) == part
            for risk, count in found.by_risk.items()
        )
        self._denied[part] = gzip.compress("".join(write_lines(_DENIED, _add_up(lines))).encode(), 1)

    def members(self, now: int) -> list[bytes]:
        """All series, each family whole; what is of the moment, or short, is rendered here."""
        watches = [watch for _, watch in self._watched]
        uses = [use for watch in watches for use in watch.break_glass.values()]
        families: dict[str, Iterable[Line]] = {
            "gapwatch_denied_privileged_recent": _add_up(
                ((found.account_id, arn), count)
                for watch in watches
                for arn, found in watch.denied.items()
                if found.recent.total and (count := found.recent.forget(now))
            ),
            "gapwatch_break_glass_use_timestamp_seconds": _keep_latest(
                ((use.account_id, use.arn), use.time) for use in uses
            ),
            "gapwatch_break_glass_seen_timestamp_seconds": _keep_latest(
                ((use.account_id, use.arn), use.seen) for use in uses
            ),
            "gapwatch_account_newest_use_timestamp_seconds": _keep_latest(
                ((account,), at) for watch in watches for account, at in watch.newest.items()
            ),
            "gapwatch_account_covered_since_timestamp_seconds": _keep_latest(
                ((account,), since)
                for tracker, _ in self._watched
                for account in tracker.fleet.coverage.accounts
                if (since := tracker.fleet.coverage.since_of_all(account)) is not None
            ),
            "gapwatch_inventory_timestamp_seconds": (((account,), at) for account, at in self.inventoried.items()),
            "gapwatch_exemption_expiry_timestamp_seconds": (
                ((each.name, each.owner), each.expires) for each in self.watching.exemptions.listed
            ),
            "gapwatch_window_seconds": (((window.label,), window.seconds) for window in self._windows),
        }
        short = [pack_family(name, sorted(lines)) for name, lines in families.items()]
        return [*self.first_uses.members(), self._learning, self._denied_head, *filter(None, self._denied), *short]


def _keep_latest(lines: Iterable[Line]) -> list[Line]:
    """One line for each set of labels."""
    found: dict[tuple[str, ...], float] = {}
    for values, sample in lines:
        found[values] = max(found.get(values, 0), sample)
    return list(found.items())


def _add_up(lines: Iterable[Line]) -> list[Line]:
    found: dict[tuple[str, ...], float] = {}
    for values, sample in lines:
        found[values] = found.get(values, 0) + sample
    return list(found.items())


def _part_of(arn: str) -> int:
    return hash(arn) % PARTS

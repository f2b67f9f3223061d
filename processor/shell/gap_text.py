"""The gap's series as the text that /metrics serves.

They are rendered one shard at a time, when a principal of it changed, and kept as gzip members: a scrape joins what is
there, and Prometheus reads members one after another as one text.
"""

import gzip
import heapq
from collections.abc import Callable, Iterable, Iterator

from processor.core.first_uses import FIRST_USES_MAX, FirstUse
from processor.core.fleet import Member
from processor.core.gap_counts import GapCounts
from processor.core.sessions import SHARDS, key_of, shard_of
from processor.core.tracker import Tracker
from processor.shell.metrics import CATALOGUE, ROWS, Line, escape, pack_family, write_head, write_lines

STEP_PRINCIPALS = 2
"""An administrator's counts take some milliseconds."""

_GAP_FAMILIES = tuple(row.name for row in CATALOGUE[:5])
_KEYED = "gapwatch_principal_info"
_FAMILIES = (*_GAP_FAMILIES, _KEYED)

Note = Callable[[int, Member, list[GapCounts]], None]


def note_nothing(key: int, member: Member, counts: list[GapCounts]) -> None:
    """For who wants no counts told."""


def forget_nothing(key: int) -> None:
    """For who was told none."""


class GapText:
    """The gap's series as text, by family and shard: of one tracker for all shards, or of several, each for some. `note` is told
    each principal's counts when they are rendered, `forget` the key of one that is gone."""

    def __init__(
        self, *trackers: Tracker, note: Note = note_nothing, forget: Callable[[int], None] = forget_nothing
    ) -> None:
        self._trackers = list(trackers)
        self._note = note
        self._forget = forget
        self._rendered: dict[int, tuple[str, ...]] = {}
        self._keys: dict[int, set[int]] = {shard: set() for shard in range(SHARDS)}
        self._members: dict[tuple[str, int], bytes] = {}
        self._services: dict[str, dict[tuple[str, str], int]] = {}
        self._service_parts: dict[int, tuple[str, dict[tuple[str, str], int]]] = {}
        self._services_changed: set[str] = set()
        self._services_members: dict[str, bytes] = {}
        self._heads = {name: gzip.compress(write_head(name).encode(), 1) for name in ROWS}

    def add(self, tracker: Tracker) -> None:
        """Render a tracker's principals, too."""
        self._trackers.append(tracker)

    def remove(self, tracker: Tracker, shard: int) -> None:
        """Forget the series of a shard, and the tracker that they were of."""
        if tracker not in self._trackers:
            return
        self._trackers.remove(tracker)
        for key in self._keys[shard]:
            self._drop(key)
        self._keys[shard] = set()
        for at in range(len(_FAMILIES)):
            self._join(shard, at)
        while self._services_changed:
            self._join_services(self._services_changed.pop())

    def refresh(self) -> Iterator[None]:
        """Render what changed, some principals of one shard a step, so that the caller can let others go on in between."""
        for tracker in list(self._trackers):
            changed, tracker.changed = tracker.changed, set()
            by_shard: dict[int, list[int]] = {}
            for key in changed:
                by_shard.setdefault(shard_of(key), []).append(key)
            for shard, keys in by_shard.items():
                for at in range(0, len(keys), STEP_PRINCIPALS):
                    self._render_keys(tracker, shard, keys[at : at + STEP_PRINCIPALS])
                    yield
                for at in range(len(_FAMILIES)):
                    self._join(shard, at)
                    yield
        while self._services_changed:
            self._join_services(self._services_changed.pop())
            yield

    def _render_keys(self, tracker: Tracker, shard: int, keys: Iterable[int]) -> None:
        for key in keys:
            if tracker in self._trackers and key in tracker:
                self._render(tracker, key)
                self._keys[shard].add(key)
            else:
                self._drop(key)
                self._keys[shard].discard(key)

    def _render(self, tracker: Tracker, key: int) -> None:
        member, counts = tracker.count(key)
        self._note(key, member, counts)
        self._add_services(key, member, counts)
        gap = tuple("".join(lines) for lines in zip(*render_gap(member, counts), strict=True))
        self._rendered[key] = (*(gap or ("",) * len(_GAP_FAMILIES)), render_keyed(member))

    def _drop(self, key: int) -> None:
        self._rendered.pop(key, None)
        self._take_services_out(key)
        self._forget(key)

    def _take_services_out(self, key: int) -> None:
        account, parts = self._service_parts.pop(key, ("", {}))
        if parts:
            self._services_changed.add(account)
        for place, count in parts.items():
            self._services[account][place] -= count

    def _add_services(self, key: int, member: Member, counts: Iterable[GapCounts]) -> None:
        account = member.principal.account_id
        parts = {(service, found.window): count for found in counts for service, count in found.services.items()}
        if (account, parts) == self._service_parts.get(key):
            return
        self._take_services_out(key)
        totals = self._services.setdefault(account, {})
        for place, count in parts.items():
            totals[place] = totals.get(place, 0) + count
        self._service_parts[key] = account, parts
        self._services_changed.add(account)

    def _join(self, shard: int, at: int) -> None:
        """One family's member of a shard."""
        text = "".join([self._rendered[key][at] for key in sorted(self._keys[shard])])
        self._members[_FAMILIES[at], shard] = gzip.compress(text.encode(), 1) if text else b""

    def _join_services(self, account: str) -> None:
        lines = [
            f'gapwatch_service_unused_grants{{account="{escape(account)}",service="{service}",window="{window}"}} {count}\n'
            for (service, window), count in sorted(self._services[account].items())
            if count
        ]
        self._services_members[account] = gzip.compress("".join(lines).encode(), 1) if lines else b""

    def members(self) -> list[bytes]:
        """All series as gzip members, each family whole."""
        parts: list[bytes] = []
        for name in _FAMILIES:
            parts.append(self._heads[name])
            parts += [found for shard in range(SHARDS) if (found := self._members.get((name, shard)))]
        parts += (self._heads["gapwatch_service_unused_grants"], *self._services_members.values())
        return [part for part in parts if part]


def render_gap(member: Member, counts: Iterable[GapCounts]) -> Iterator[tuple[str, ...]]:
    """A principal's lines of the five gap families, one element a window."""
    place = f'{{account="{escape(member.principal.account_id)}",principal="{escape(member.principal.arn)}",window="'
    for found in counts:
        window = f'{place}{found.window}"'
        yield (
            "".join(
                f'gapwatch_gap_grants{window},verdict="{verdict}"}} {count}\n'
                for verdict, count in found.verdicts.items()
            ),
            "".join(
                f'gapwatch_gap_risk_grants{window},risk="{risk}"}} {count}\n' for risk, count in found.risks.items()
            ),
            f"gapwatch_gap_index{window}}} {found.index}\n",
            f"gapwatch_gap_used_not_granted{window}}} {found.not_granted}\n" if found.not_granted else "",
            "".join(
                f'gapwatch_gap_exempt_grants{window},risk="{risk}"}} {count}\n' for risk, count in found.exempt.items()
            ),
        )


def render_keyed(member: Member) -> str:
    """A principal's line of gapwatch_principal_info."""
    principal = member.principal
    values = (
        principal.account_id,
        principal.arn,
        f"{key_of(principal):016x}",
        principal.kind,
        "no" if member.inventory is None else "yes",
    )
    return "".join(write_lines(_KEYED, [(values, 1)]))


class FirstUsesText:
    """The first uses' series: the newest FIRST_USES_MAX of one tracker's, or of several'."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = list(trackers)
        self._told: list[int] | None = None
        self._members: list[bytes] = []

    def add(self, tracker: Tracker) -> None:
        """Tell of a tracker's, too."""
        self._trackers.append(tracker)
        self._told = None

    def remove(self, tracker: Tracker) -> None:
        """Tell of a tracker's no more, from the next refresh on."""
        if tracker in self._trackers:
            self._trackers.remove(tracker)
            self._told = None

    def refresh(self) -> Iterator[None]:
        """Render them where any changed, a part at a time."""
        changes = [tracker.first_uses.changes for tracker in self._trackers]
        if changes == self._told:
            return
        self._told = changes
        uses: list[FirstUse] = [use for tracker in self._trackers for use in tracker.first_uses.by_place.values()]
        if len(uses) > FIRST_USES_MAX:
            uses = heapq.nlargest(FIRST_USES_MAX, uses, key=lambda use: use.time)
        families = find_first_uses(uses)
        yield
        packed = []
        for name, lines in families.items():
            packed.append(pack_family(name, lines))
            yield
        self._members = packed

    def members(self) -> list[bytes]:
        return self._members


def find_first_uses(uses: Iterable[FirstUse]) -> dict[str, list[Line]]:
    """One line each, also where a role was deleted and made anew, and both have used the action: the newer one."""
    newest: dict[tuple[str, str], FirstUse] = {}
    for use in uses:
        before = newest.get((use.arn, use.action))
        if before is None or before.time < use.time:
            newest[use.arn, use.action] = use
    labels = [((use.account_id, use.arn, use.action, use.risk, use.quiet), use) for use in newest.values()]
    return {
        "gapwatch_first_use_timestamp_seconds": [(values, use.time) for values, use in labels],
        "gapwatch_first_use_seen_timestamp_seconds": [(values, use.seen) for values, use in labels],
    }

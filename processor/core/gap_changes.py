"""What moved in a principal's gaps -> messages of topic `gap-changes`, one a window."""

import itertools
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from processor.core.catalogue import Catalogue, ids_in
from processor.core.gap import VERDICTS, Verdicts
from processor.core.principals import Principal
from processor.core.tracker import Before, Tracker
from processor.core.weights import gap_index
from topics.gap_changes import CODEC, MOVED_MAX, GapChange, Moved, Verdict, VerdictCounts

Written = tuple[bytes, bytes | None]
"""Key and value of a message; a value of None takes the key back."""


def write_changes(tracker: Tracker, key: int, before: Before) -> Iterator[Written]:
    """The messages for a principal whose verdicts may be others than `before`; none for windows where nothing moved."""
    fleet = tracker.fleet
    now = tracker.verdicts_of(key) if key in tracker and fleet.has(key) else None
    if now is None:
        if before.verdicts is not None:
            packed = key.to_bytes(8, "big")
            yield from ((packed + window.label.encode(), None) for window in fleet.windows)
        return
    member = fleet.member(key)
    assert member.granted is not None  # noqa: S101 - there are verdicts of it
    escalation = fleet.catalogue.escalation_mask(member.granted.granted)
    earlier: Sequence[Verdicts | None] = before.verdicts or [None] * len(now)
    for window, was, judged in zip(fleet.windows, earlier, now, strict=True):
        if was != judged:
            change = _build(tracker, member.principal, before.why, judged, escalation)
            moved, count = _find_moved(fleet.catalogue, was, judged)
            change = replace(change, window=window.label, moved=moved, moved_count=count)
            yield change.key, CODEC.encode(change)


def write_all(tracker: Tracker, keys: Sequence[int], why: str) -> Iterator[Written]:
    """The gaps of principals as they stand, whatever was told of them before."""
    for key in keys:
        yield from write_changes(tracker, key, Before(why, None))


def _build(tracker: Tracker, principal: Principal, why: str, now: Verdicts, escalation: int) -> GapChange:
    """What there is to tell of a window's verdicts, but for the window, and for what has moved."""
    catalogue = tracker.fleet.catalogue
    return GapChange(
        as_of=tracker.as_of,
        arn=principal.arn,
        unique_id=principal.unique_id,
        account_id=principal.account_id,
        window="",
        why=why,  # type: ignore[arg-type]  # Before has one of the contract's words
        counts=VerdictCounts(**{name: getattr(now, name).bit_count() for name in VERDICTS}),
        gap_index=gap_index(catalogue, now, _find_granted(now), escalation),
        moved=(),
        moved_count=0,
        unused=catalogue.pack_hashes(now.unused),
    )


def _find_granted(verdicts: Verdicts) -> int:
    return verdicts.used | verdicts.unused | verdicts.unproven | verdicts.too_new | verdicts.unobservable


def _find_moved(catalogue: Catalogue, was: Verdicts | None, now: Verdicts) -> tuple[tuple[Moved, ...], int]:
    """The actions whose verdict is another one, as many as a message names, and how many they are; those that left or came
    have None on one side. Of gaps that are told for the first time nothing has moved."""
    if was is None:
        return (), 0
    before = _by_verdict(catalogue, was)
    after = _by_verdict(catalogue, now)
    named: list[Moved] = []
    count = 0
    for verdict, mask in before:
        for other, masked in after:
            if verdict != other and (both := mask & masked):
                count += both.bit_count()
                ids = itertools.islice(ids_in(both), MOVED_MAX - len(named))
                named += [Moved(catalogue.names[action], verdict, other) for action in ids]
    return tuple(named), count


def _by_verdict(catalogue: Catalogue, verdicts: Verdicts) -> list[tuple[Verdict | None, int]]:
    """The actions of each verdict, and last those that are not granted."""
    masks: list[tuple[Verdict | None, int]] = [
        ("used", verdicts.used),
        ("unused", verdicts.unused),
        ("unproven", verdicts.unproven),
        ("too_new", verdicts.too_new),
        ("unobservable", verdicts.unobservable),
    ]
    return [each for each in (*masks, (None, catalogue.all_mask & ~_find_granted(verdicts))) if each[1]]

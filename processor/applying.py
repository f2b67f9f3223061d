"""A slice -> the state that it leads to, and what a comparison of two ways finds."""

from collections.abc import Callable

from processor.core.tally import Tally
from processor.opening import Opened
from processor.shell.feeds import Feed, Slice


def apply_slice(opened: Opened, feed: Feed, found: Slice, warn: Callable[[str], None]) -> None:
    """Take in a slice's records, and then move the position that they were read up to."""
    pipeline = opened.pipeline
    before = _count(pipeline.tally)
    found.decoded.name_origin((found.origin, 0))
    pipeline.feed(found.decoded)
    if found.damage is not None:
        warn(f"{found.origin} {found.damage}: what could be read of it was")
    opened.rejects.note(pipeline.intake.rejects)
    pipeline.intake.rejects.clear()
    if found.name:
        opened.state.move(found.name, found.position)
    opened.state.forget(found.forgotten)
    if found.compared:
        seen, late, missed = (now - then for now, then in zip(_count(pipeline.tally), before, strict=True))
        feed.health.count_compared(seen=seen, late=late, missed=missed)
        if missed:
            warn(f"{found.origin}: {missed} records that no stream had brought; they are counted now")


def _count(tally: Tally) -> tuple[int, int, int]:
    """Duplicates, uses older than the horizon, and those that are counted."""
    counted = tally.classes["use"] + tally.classes["denied"]
    return tally.classes["duplicate"], tally.late, counted - tally.late

"""A slice -> the state that it leads to, and what a comparison of two ways finds."""

from collections.abc import Callable, Iterable

from processor.core.ledger import Ledger
from processor.core.uses import Uses
from processor.opening import Opened
from processor.shell.feeds import Feed, FeedHealth, Slice


def apply_slice(opened: Opened, feed: Feed, found: Slice, warn: Callable[[str], None]) -> None:
    """Take in a slice's records, and then move the position that they were read up to."""
    pipeline = opened.pipeline
    before = pipeline.tally.compared
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
        missed = feed.health.count_compared(before, pipeline.tally.compared)
        if missed:
            warn(f"{found.origin}: {missed} records that no stream had brought; they are counted now")


def apply_pieces(
    ledger: Ledger, pieces: Iterable[tuple[Uses, bool]], health: FeedHealth, where: str, warn: Callable[[str], None]
) -> None:
    """Count a shard's uses; those pieces that were compared with a stream are told of in `health`."""
    tally = ledger.tally
    for found, is_compared in pieces:
        if len(found.time):
            tally.newest = max(tally.newest, int(found.time.max()))
        before = tally.compared
        ledger.apply_uses([found])
        if is_compared and (missed := health.count_compared(before, tally.compared)):
            warn(f"{where}: {missed} records of log files that no stream had brought; they are counted now")

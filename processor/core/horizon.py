"""Which uses were seen before: exact, at 8 bytes a use for spans of time at rest.

AWS writes one call more than once: into two trails, into two accounts, by redelivery. All copies bear one eventTime, so
that a use need only be looked for among those of its own span of event time. A span is a list of hashes, 8 bytes each; the
few spans that are being read have a table beside it, which is made again when a record of their time comes again.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from processor.core.compiled import Words, compiled
from processor.core.key_tables import EMPTY, KeySet, find_slot, grow

SPANS_FOREVER = 2**40
"""More spans than there are: nothing is forgotten, as a batch command wants it."""

ACTIVE_MAX = 48
"""Spans with a table: records come within minutes of each other, but the logs of some regions or accounts lag by hours."""


@compiled
def add_all(hashes: Words, table: Words, log: Words, count: int) -> int:
    """Put hashes into a span's table, those that were not there behind `count` others in its list; answers how many it has
    then. A hash of 0 is taken for 1, here and in the loop that counts uses."""
    for hashed in hashes:
        key = hashed if hashed != EMPTY else np.uint64(1)
        slot = find_slot(table, key)
        if table[slot] == EMPTY:
            table[slot] = key
            log[count] = key
            count += 1
    return count


class Span:
    """The hashes of one span, by insertion: the first `stored` of them are in the store. `table` is None at rest."""

    __slots__ = ("count", "end", "log", "start", "stored", "table")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.log: Words = np.empty(0, np.uint64)
        self.count = 0
        self.stored = 0
        self.table: KeySet | None = None

    def rest(self) -> None:
        """Give up the table, and what the list has in reserve."""
        self.log = self.log[: self.count].copy()
        self.table = None

    def open(self, more: int) -> Words:
        """The table, with room for `more` hashes there and in the list."""
        table = self.table
        if table is None:
            table = self.table = KeySet()
            table.reserve(self.count + more)
            add_all(self.log[: self.count], table.keys, np.empty(self.count, np.uint64), 0)
        table.count = self.count
        table.reserve(more)
        self.log = grow(self.log, self.count + more)
        return table.keys

    def add(self, hashes: Words) -> int:
        """Add hashes; answers how many were new."""
        before = self.count
        table = self.open(len(hashes))
        self.count = int(add_all(hashes, table, self.log, before))
        return self.count - before

    def __len__(self) -> int:
        return self.count


class Horizon:
    """The spans that are remembered: the newest and the `spans_max` - 1 before it. Those below `floor` were forgotten."""

    def __init__(self, span_seconds: int = 3_600, spans_max: int = SPANS_FOREVER) -> None:
        self.span_seconds = span_seconds
        self.spans_max = spans_max
        self.newest = -1
        self.floor = 0
        self._spans: dict[int, Span] = {}
        self._active: dict[int, Span] = {}
        self._fresh: set[int] = set()

    def span_at(self, time: int) -> Span | None:
        """The span that an event time falls into, for adding to; None where it is already forgotten."""
        number = time // self.span_seconds
        span = self._active.get(number)
        if span is None:
            span = self._activate(number)
            if span is None:
                return None
        self._fresh.add(number)
        return span

    def _activate(self, number: int) -> Span | None:
        if number < self.floor:
            return None
        self._reach(number)
        span = self._spans.get(number)
        if span is None:
            start = number * self.span_seconds
            span = self._spans[number] = Span(start, start + self.span_seconds)
        if len(self._active) >= ACTIVE_MAX:
            oldest = next(iter(self._active))
            self._active.pop(oldest).rest()
        self._active[number] = span
        return span

    def _reach(self, number: int) -> None:
        """Go on to a span, and forget those that are too old then."""
        if number <= self.newest:
            return
        self.newest = number
        self.floor = max(self.floor, number - self.spans_max + 1)
        for old in [old for old in self._spans if old < self.floor]:
            del self._spans[old]
            self._active.pop(old, None)

    def add(self, time: int, event: int) -> bool:
        """Add one hash; False where it was there or its span is forgotten."""
        span = self.span_at(time)
        return span is not None and span.add(np.array([event], np.uint64)) == 1

    def take_fresh(self) -> Iterator[tuple[int, Words]]:
        """What was added since the last call, as (number of the span, hashes), for the store."""
        for number in sorted(self._fresh):
            span = self._spans.get(number)
            if span is not None and span.count > span.stored:
                yield number, span.log[span.stored : span.count]
                span.stored = span.count
        self._fresh.clear()

    def load(self, number: int, hashes: Iterable[int] | Words, *, stored: bool = True) -> None:
        """Take back what a store held of one span; if not `stored` as such, it is written with what comes new."""
        if number < self.floor:
            return
        self._reach(number)
        start = number * self.span_seconds
        span = self._spans[number] = Span(start, start + self.span_seconds)
        span.add(np.fromiter(hashes, np.uint64) if not isinstance(hashes, np.ndarray) else hashes)
        span.stored = span.count if stored else 0
        span.rest()
        if not stored:
            self._fresh.add(number)

    @property
    def numbers(self) -> list[int]:
        """The numbers of all spans, for the store to keep."""
        return list(self._spans)

    def __len__(self) -> int:
        return sum(len(span) for span in self._spans.values())

"""Which uses were seen before: exact, at 8 bytes a use for spans of time at rest.

AWS writes one call more than once: into two trails, into two accounts, by redelivery. All copies bear one eventTime, so
that a use need only be looked for among those of its own span of event time. A span at rest is a list of hashes, 8 bytes each; the
few spans that are being read are a table instead, of 9 to 13 bytes each, which is made again when a record of their time comes
again. What is at rest may be put on a shelf, on disk.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from processor.core.compiled import Read, Words, compiled
from processor.core.key_tables import EMPTY, KeySet, find_slot, grow, put_keys

SPANS_FOREVER = 2**40
"""More spans than there are: nothing is forgotten, as a batch command wants it."""

ACTIVE_MAX = 48
"""Spans with a table: records come within minutes of each other, but the logs of some regions or accounts lag by hours."""

AT_REST_MAX = 32_768
"""Hashes at rest that are kept in memory where there is a shelf: a quarter of a MB."""

NO_HASHES: Words = np.empty(0, np.uint64)


class Shelf(Protocol):
    """Where spans at rest lie that are too many for memory."""

    def put(self, hashes: Words) -> int | None:
        """Keep hashes; answers where they are, None where there is no room."""

    def take(self, place: int, count: int) -> Words:
        """The hashes of a place, which is free afterwards."""


@compiled
def add_all(hashes: Read[Words], table: Words, log: Words, count: int) -> int:
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
    """The hashes of one span: `count` of them, in `table`, or at rest in `held` or on a shelf at `place`. The first `fresh` of
    `log` are those that the store does not have yet."""

    __slots__ = ("count", "end", "fresh", "held", "log", "place", "start", "table")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.log = NO_HASHES
        self.fresh = 0
        self.count = 0
        self.table: KeySet | None = None
        self.held = NO_HASHES
        self.place: int | None = None

    def rest(self) -> None:
        """Give up the table, and what the list has in reserve."""
        if self.table is not None:
            self.held = self.table.take()
            self.table = None
        self.log = self.log[: self.fresh].copy() if self.fresh else NO_HASHES

    def shelve(self, shelf: Shelf) -> None:
        """Put what is at rest on a shelf, if that has room."""
        self.place = shelf.put(self.held)
        if self.place is not None:
            self.held = NO_HASHES

    def open(self, more: int) -> Words:
        """The table, with room for `more` hashes there and in the list. What lies on a shelf must have been taken from there."""
        table = self.table
        if table is None:
            table = self.table = KeySet()
            table.reserve(len(self.held) + more)
            put_keys(self.held, table.keys)
            self.held = NO_HASHES
        table.count = self.count
        table.reserve(more)
        self.log = grow(self.log, self.fresh + more)
        return table.keys

    def count_fresh(self, fresh: int) -> None:
        """Take notice that hashes were put into the table and the list, of which `fresh` are in the list then."""
        self.count += fresh - self.fresh
        self.fresh = fresh

    def add(self, hashes: Words) -> int:
        """Add hashes; answers how many were new."""
        before = self.count
        table = self.open(len(hashes))
        self.count_fresh(int(add_all(hashes, table, self.log, self.fresh)))
        return self.count - before

    def take_fresh(self) -> Words:
        """What the store does not have yet."""
        found = self.log[: self.fresh]
        self.log, self.fresh = NO_HASHES, 0
        return found

    def __len__(self) -> int:
        return self.count


class Horizon:
    """The spans that are remembered: the newest and the `spans_max` - 1 before it. Those below `floor` were forgotten. With a
    `shelf` spans at rest are put there when they are more than memory is to hold."""

    def __init__(self, span_seconds: int = 3_600, spans_max: int = SPANS_FOREVER, shelf: Shelf | None = None) -> None:
        self.span_seconds = span_seconds
        self.spans_max = spans_max
        self.newest = -1
        self.floor = 0
        self._shelf = shelf
        self._at_rest = 0
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
            self._rest(self._active.pop(oldest))
        self._wake(span)
        self._active[number] = span
        return span

    def _rest(self, span: Span) -> None:
        span.rest()
        if self._shelf is not None and len(span.held) and self._at_rest + len(span.held) > AT_REST_MAX:
            span.shelve(self._shelf)
        self._at_rest += len(span.held)

    def _wake(self, span: Span) -> None:
        if span.place is not None and self._shelf is not None:
            span.held, span.place = self._shelf.take(span.place, span.count), None
        else:
            self._at_rest -= len(span.held)

    def _reach(self, number: int) -> None:
        """Go on to a span, and forget those that are too old then."""
        if number <= self.newest:
            return
        self.newest = number
        self.floor = max(self.floor, number - self.spans_max + 1)
        for old in [old for old in self._spans if old < self.floor]:
            self._wake(self._spans.pop(old))
            self._active.pop(old, None)

    def add(self, time: int, event: int) -> bool:
        """Add one hash; False where it was there or its span is forgotten."""
        span = self.span_at(time)
        return span is not None and span.add(np.array([event], np.uint64)) == 1

    def take_fresh(self) -> Iterator[tuple[int, Words]]:
        """What was added since the last call, as (number of the span, hashes), for the store."""
        for number in sorted(self._fresh):
            span = self._spans.get(number)
            if span is not None and span.fresh:
                yield number, span.take_fresh()
        self._fresh.clear()

    def load(self, number: int, hashes: Iterable[int] | Words, *, stored: bool = True) -> None:
        """Take back what a store held of one span; if not `stored` as such, it is written with what comes new."""
        if number < self.floor:
            return
        self._reach(number)
        start = number * self.span_seconds
        span = self._spans[number] = Span(start, start + self.span_seconds)
        span.add(np.fromiter(hashes, np.uint64) if not isinstance(hashes, np.ndarray) else hashes)
        if stored:
            span.take_fresh()
        self._rest(span)
        if not stored:
            self._fresh.add(number)

    @property
    def numbers(self) -> list[int]:
        """The numbers of all spans, for the store to keep."""
        return list(self._spans)

    def __len__(self) -> int:
        return sum(len(span) for span in self._spans.values())

"""Which uses were seen before: exact, at 8 bytes a use for spans of time at rest.

AWS writes one call more than once: into two trails, into two accounts, by redelivery. All copies bear one eventTime, so
that a use need only be looked for among those of its own span of event time. The few spans that are being read are held
as dicts of hashes; the others are packed, 8 bytes a hash, and unpacked when a record of their time comes again.
"""

from array import array
from collections.abc import Iterable, Iterator

SPANS_FOREVER = 2**40
"""More spans than there are: nothing is forgotten, as a batch command wants it."""

ACTIVE_MAX = 48
"""Unpacked spans: records come within minutes of each other, but the logs of some regions or accounts lag by hours."""


class Span:
    """The hashes of one span, by insertion: the first `stored` of them are in the store."""

    __slots__ = ("end", "packed", "seen", "start", "stored")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.seen: dict[int, None] = {}
        self.packed: array[int] | None = None
        self.stored = 0

    def pack(self) -> None:
        self.packed = array("Q", self.seen)
        self.seen = {}

    def unpack(self) -> None:
        if self.packed is not None:
            self.seen = dict.fromkeys(self.packed)
            self.packed = None

    def __len__(self) -> int:
        return len(self.seen) if self.packed is None else len(self.packed)


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
        """The span that an event time falls into, unpacked, for adding to; None where it is already forgotten."""
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
        span.unpack()
        if len(self._active) >= ACTIVE_MAX:
            oldest = next(iter(self._active))
            self._active.pop(oldest).pack()
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
        """Add a hash; False where it was there or its span is forgotten. The ledger's loop does the same in line."""
        span = self.span_at(time)
        if span is None or event in span.seen:
            return False
        span.seen[event] = None
        return True

    def take_fresh(self) -> Iterator[tuple[int, "array[int]"]]:
        """What was added since the last call, as (number of the span, hashes), for the store."""
        for number in sorted(self._fresh):
            span = self._spans.get(number)
            if span is not None and len(span) > span.stored:
                hashes = array("Q", span.seen) if span.packed is None else span.packed
                yield number, hashes[span.stored :]
                span.stored = len(hashes)
        self._fresh.clear()

    def load(self, number: int, hashes: Iterable[int]) -> None:
        """Take back what a store held of one span."""
        if number < self.floor:
            return
        self._reach(number)
        start = number * self.span_seconds
        span = self._spans[number] = Span(start, start + self.span_seconds)
        span.packed = array("Q", dict.fromkeys(hashes))
        span.stored = len(span.packed)

    @property
    def numbers(self) -> list[int]:
        """The numbers of all spans, for the store to keep."""
        return list(self._spans)

    def __len__(self) -> int:
        return sum(len(span) for span in self._spans.values())

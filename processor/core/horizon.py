"""Which uses were seen before: exact, at 8 bytes a use on average twice that, in memory or in a mapped file.

AWS writes one call more than once: into two trails, into two accounts, by redelivery. All copies bear one eventTime, so
that a use need only be looked for among those of its own span of event time, and a span that is over is forgotten whole.
A batch command has one span without end.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, MutableSequence

SPAN_FOREVER = 2**40
"""Longer than any event time: one span for all, nothing is forgotten."""

_SLOTS_MIN = 1 << 10
_LOAD_MAX = 0.55
"""Linear probing: above this share of used slots a look-up walks over three slots and more."""

Slots = MutableSequence[int]
Allocate = Callable[[int], Slots]


def allocate_memory(size: int) -> Slots:
    """`size` zeroed slots of 64 bits."""
    return array("Q", bytes(8 * size))


class Span:
    """An open-addressing table of 64-bit hashes; 0 marks a free slot, so no hash may be 0."""

    __slots__ = ("_allocate", "count", "end", "fresh", "mask", "slots", "start")

    def __init__(self, start: int, end: int, allocate: Allocate, size: int = _SLOTS_MIN) -> None:
        self.start = start
        self.end = end
        self.count = 0
        self.fresh: list[int] = []
        self.mask = size - 1
        self.slots = allocate(size)
        self._allocate = allocate

    def reserve(self, more: int) -> None:
        """Make room for `more` hashes, so that adding need not look."""
        size = needed = self.mask + 1
        while (self.count + more) > needed * _LOAD_MAX:
            needed *= 2
        if needed == size:
            return
        old, mask = self.slots, needed - 1
        slots = self._allocate(needed)
        for value in old:
            if value:
                at = value & mask
                while slots[at]:
                    at = (at + 1) & mask
                slots[at] = value
        self.slots, self.mask = slots, mask

    def add(self, value: int) -> bool:
        """Add a hash; False where it was there. The ledger's loop does the same in line, for speed."""
        self.reserve(1)
        at = value & self.mask
        while found := self.slots[at]:
            if found == value:
                return False
            at = (at + 1) & self.mask
        self.slots[at] = value
        self.count += 1
        return True


class Horizon:
    """The spans that are remembered. `fresh` hashes of a span are those that no flush has stored yet."""

    def __init__(
        self,
        span_seconds: int = SPAN_FOREVER,
        spans_max: int = 1,
        allocate: Allocate = allocate_memory,
        slots: int = _SLOTS_MIN,
    ) -> None:
        self.span_seconds = span_seconds
        self.spans_max = spans_max
        self.newest = -1
        self._allocate = allocate
        self._slots = slots
        self._spans: dict[int, Span] = {}

    def span_at(self, time: int) -> Span | None:
        """The span that an event time falls into, opened where it is new; None where it is already forgotten."""
        number = time // self.span_seconds
        found = self._spans.get(number)
        if found is not None:
            return found
        if number > self.newest:
            self.newest = number
            for old in [old for old in self._spans if old <= number - self.spans_max]:
                del self._spans[old]
        elif number <= self.newest - self.spans_max:
            return None
        start = number * self.span_seconds
        opened = Span(start, start + self.span_seconds, self._allocate, self._slots)
        self._spans[number] = opened
        return opened

    def take_fresh(self) -> Iterator[tuple[int, "array[int]"]]:
        """What was added since the last call, as (number of the span, hashes), for the store."""
        for number, span in self._spans.items():
            if span.fresh:
                yield number, array("Q", span.fresh)
                span.fresh.clear()

    def load(self, number: int, hashes: Iterable[int]) -> None:
        """Take back what a store held of one span."""
        span = self.span_at(number * self.span_seconds)
        if span is None:
            return
        known = array("Q", hashes)
        span.reserve(len(known))
        for value in known:
            span.add(value)

    @property
    def numbers(self) -> list[int]:
        return list(self._spans)

    def __len__(self) -> int:
        return sum(span.count for span in self._spans.values())

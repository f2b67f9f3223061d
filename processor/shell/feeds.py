"""What the sources of a long-running process have in common: slices of decoded records, and who hears of the flush.

A feed is opened on the positions that a store holds, and hands out slices in the order in which each of its sources is to be
applied. The one who takes them applies a slice, moves its position, flushes both together, and then acknowledges the slice's
receipts: a queue forgets a message only then. What was handed out and not flushed is handed out again by the next feed that is
opened, so that a feed is dropped, not rewound.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from processor.core.batches import Decoded
from processor.core.compiled import Numbers
from processor.shell.ending import end_tasks, rest_until, within

SLICES_HELD_MAX = 4
"""Slices that are read before they are applied: a few MB each."""

CLOSE_SECONDS_MAX = 1.0

Positions = Mapping[bytes, bytes]
"""How far the sources are applied, by name: the store's memory, read while it changes."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Decoded records of one source. `origin` names it for a person.

    `name` and `position` are stored together with what the records did: a name of 16 bytes, a position that means something
    to the feed only; both empty where a source has no positions. `receipts` are acknowledged after the flush. `compared`:
    the records have come by another way before, and those that did not are holes of that way. `forgotten`: names whose positions
    nobody will ask for again. `start`: how many rows of records came before in the source, however it was cut into slices; `ends`:
    it is the last slice of a source that ends. Where rows have places of their own `places` says them, row by row, counted from
    `base`; a greater base is beyond all places of a smaller one.
    """

    origin: str
    decoded: Decoded
    name: bytes = b""
    position: bytes = b""
    damage: str | None = None
    receipts: tuple[object, ...] = ()
    compared: bool = False
    forgotten: tuple[bytes, ...] = ()
    start: int = 0
    ends: bool = False
    base: bytes = b""
    places: Numbers | None = None


@dataclass(slots=True)
class FeedHealth:
    """What a feed says of itself: `failures` counts calls that failed by (call, error code); `trouble` is why it does not go
    on, empty where it does. Of one that is compared with others: `compared` counts records by what was known of them (`seen`,
    `missed`, `late`), `compared_until` is the time up to which it is."""

    source: str
    failures: dict[tuple[str, str], int] = field(default_factory=dict)
    trouble: str = ""
    compared: dict[str, int] = field(default_factory=dict)
    compared_until: int = 0

    def count_compared(self, before: tuple[int, int, int], after: tuple[int, int, int]) -> int:
        """Count what became of some records, by Tally.compared before and after them; how many were missed."""
        for result, then, now in zip(("seen", "late", "missed"), before, after, strict=True):
            self.compared[result] = self.compared.get(result, 0) + now - then
        return after[2] - before[2]

    def count_failure(self, call: str, code: str) -> None:
        self.failures[call, code] = self.failures.get((call, code), 0) + 1


class Feed(Protocol):
    """One source, or one set of sources that are read alike."""

    health: FeedHealth

    @property
    def caught_up(self) -> bool:
        """Whether all that was there at the last look is applied."""

    @property
    def watermark(self) -> int:
        """Seconds since 1970: all that had arrived at the source by then is applied. 0 where that is not known yet. What AWS
        itself takes from a call to the source is not in it."""

    async def check(self) -> None:
        """Look at the source once. Raises SourceError for what will not pass by itself: a source that is not there, credentials
        or a permission that are missing."""

    def slices(self) -> AsyncGenerator[Slice, None]:
        """Slices as they come; waits where there are none, and retries where a call fails."""

    async def acknowledge(self, receipts: Sequence[object]) -> None:
        """Let the source forget slices that are durable. Never raises for a source that is away: they come again."""

    async def close(self) -> None:
        """Give back what was handed out and not acknowledged, as far as that takes no time."""


Lineage = Mapping[bytes, tuple[bytes, ...]]
"""The shards of a stream by name, each with its parents."""


class Sharing(Protocol):
    """What of its sources a process is to read, where several read the same: each shard and each file is read by one of them."""

    @property
    def is_shared(self) -> bool: ...

    def add_stream(self, stream: str) -> None:
        """Say that a stream is read; until its first `choose` nothing is known of it."""

    def add_queue(self, url: str, find_watermark: Callable[[], int]) -> None:
        """Say that a queue is read, and what says up to when this process has let go of what came through it."""

    async def choose(
        self, stream: str, lineage: Lineage, ready: Sequence[bytes], reached: Mapping[bytes, float]
    ) -> set[bytes]:
        """Of the shards that may be read now, those that this process is to read; their positions are brought up to date before.
        `lineage`: all shards of the stream with their parents; `reached`: up to when those that are read here are stored."""

    async def leave(self, shard: bytes, handed: bytes) -> None:
        """A shard that was not chosen any more is read no further here; `handed` is the position of its last slice."""

    def add_bucket(self) -> None:
        """Say that log files are looked for."""

    async def take(self, file: bytes) -> bool:
        """Whether this process is to read a file; its position is brought up to date before."""

    async def find_unread(self, files: Sequence[bytes]) -> set[bytes]:
        """Of some files those that are not known to be read to their end, by whomever."""

    async def find_watermark(self, most: int) -> int:
        """Up to when what arrived at streams and queues is read, by whomever, but no later than `most`; 0: that is not known."""


class Alone:
    """The sharing of a process that reads all by itself."""

    is_shared = False

    def add_stream(self, stream: str) -> None: ...

    def add_queue(self, url: str, find_watermark: Callable[[], int]) -> None: ...

    async def choose(
        self, stream: str, lineage: Lineage, ready: Sequence[bytes], reached: Mapping[bytes, float]
    ) -> set[bytes]:
        return set(ready)

    async def leave(self, shard: bytes, handed: bytes) -> None: ...

    def add_bucket(self) -> None: ...

    async def take(self, file: bytes) -> bool:
        return True

    async def find_unread(self, files: Sequence[bytes]) -> set[bytes]:
        return set(files)

    async def find_watermark(self, most: int) -> int:
        return most


ALONE = Alone()


class OpenFeed(Protocol):
    """Opens a feed on what is stored, alone or together with others."""

    def __call__(self, positions: Positions, sharing: Sharing = ALONE) -> Feed: ...


class Merged:
    """Several feeds read at the same time, a few slices ahead. Use as a context; `stopping` ends a wait for slices."""

    def __init__(self, feeds: Iterable[Feed], stopping: asyncio.Event) -> None:
        self.feeds = tuple(feeds)
        self._stopping = stopping
        self._held: deque[tuple[Feed, Slice]] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Semaphore(SLICES_HELD_MAX)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._read(feed)) for feed in self.feeds]
        self._tasks.append(asyncio.create_task(self._watch()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        for feed in self.feeds:
            with suppress(TimeoutError):
                await within(CLOSE_SECONDS_MAX, feed.close())

    async def stop(self) -> None:
        """Read no more; what was read stays to be taken."""
        await end_tasks(*self._tasks)
        self._tasks = []

    async def _watch(self) -> None:
        await self._stopping.wait()
        self._news.set()

    async def _read(self, feed: Feed) -> None:
        try:
            async with aclosing(feed.slices()) as slices:
                async for found in slices:
                    await self._room.acquire()
                    self._held.append((feed, found))
                    self._news.set()
        finally:
            self._news.set()

    async def take(self, seconds: float) -> tuple[Feed, Slice] | None:
        """The next slice, waited for as long as that; None where there is none. Raises what a feed failed with."""
        if not self._held:
            self._raise_failure()
            self._news.clear()
            if not self._stopping.is_set():
                await rest_until(self._news, seconds)
        if not self._held:
            return None
        self._room.release()
        return self._held.popleft()

    def take_rest(self) -> Iterator[tuple[Feed, Slice]]:
        """All that was read and not taken."""
        while self._held:
            yield self._held.popleft()

    def _raise_failure(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    @property
    def empty(self) -> bool:
        """Whether nothing was read that was not taken."""
        return not self._held

    @property
    def crowded(self) -> bool:
        """Whether as much was read ahead as may be: reading waits for who applies."""
        return len(self._held) >= SLICES_HELD_MAX

    def find_as_of(self, newest: int, now: int) -> int:
        """The time up to which all feeds are applied: where one does not know, or is ahead of what was taken of it, the newest
        event's."""
        held = {id(feed) for feed, _ in self._held}
        as_of = now
        for feed in self.feeds:
            time = feed.watermark or newest
            as_of = min(as_of, time, newest) if id(feed) in held else min(as_of, time)
        return as_of


class Backoff:
    """Waits that grow and are jittered, so that many who were refused do not come back together."""

    def __init__(self, first_seconds: float = 0.2, seconds_max: float = 10.0) -> None:
        self._first = first_seconds
        self._max = seconds_max
        self._failures = 0

    def reset(self) -> None:
        self._failures = 0

    async def wait(self) -> None:
        """Sleep for a random part of a time that doubles with each failure in a row (full jitter)."""
        most = min(self._max, self._first * 2**self._failures)
        self._failures = min(self._failures + 1, 30)
        await asyncio.sleep(random.uniform(0, most))  # noqa: S311 - jitter is no secret

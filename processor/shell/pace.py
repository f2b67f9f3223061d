"""What one shard of Kinesis allows, and how much of all shards' answers is in memory."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

CALLS_SECONDS = 0.2
"""5 GetRecords a second and shard, for all who read it together (Kinesis' quotas)."""

BYTES_PER_SECOND = 2_000_000
"""2 MB a second and shard; an answer of 10 MB is given at once and paid for by the next 5 seconds."""

ANSWER_BYTES_MAX = 10 * 1024 * 1024
"""What one GetRecords answers at most."""

HELD_BYTES_MAX = 32 * 1024 * 1024
"""Of payloads; while an answer is decoded it takes as much again, and a third more in base64. 100 MB/s are applied."""

_EXPECTED_BYTES_MIN = 256 * 1024


class Pace:
    """When the next call on one shard is due: the first at a random time within the pace, as many shards are begun at once, and
    answers that come all together wait for each other. `clock` counts seconds, and never goes back."""

    def __init__(self, calls_seconds: float = CALLS_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._calls_seconds = calls_seconds
        self._clock = clock
        self._next_at = clock() + random.uniform(0, calls_seconds)  # noqa: S311 - jitter is no secret

    async def wait(self) -> None:
        """Sleep until a call is due."""
        await asyncio.sleep(max(0.0, self._next_at - self._clock()))
        self._next_at = self._clock() + self._calls_seconds

    def pay(self, size: int) -> None:
        """Count what a call answered: the next one waits until the shard has earned that many bytes again."""
        self._next_at = max(self._next_at, self._next_at - self._calls_seconds + size / BYTES_PER_SECOND)


class Budget:
    """Bytes of answers that many readers may hold together; the first to ask is the first to get."""

    def __init__(self, size_max: int = HELD_BYTES_MAX) -> None:
        self._free = size_max
        self._size_max = size_max
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Reserve what an answer is expected to take, for as long as the context lasts."""
        wanted = min(max(_EXPECTED_BYTES_MIN, size), ANSWER_BYTES_MAX, self._size_max)
        async with self._changed:
            await self._changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
        try:
            yield
        finally:
            self._free += wanted
            async with self._changed:
                self._changed.notify_all()

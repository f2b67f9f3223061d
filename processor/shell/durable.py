"""When what was flushed survives a Redis that dies, so that a queue may forget it.

A flush is in Redis' memory; its append-only file is on disk up to a second later. Where Redis can say when (WAITAOF, 7.2), it is
asked; else two seconds are waited. A Redis without an append-only file loses what is newer than its last snapshot, whatever is
waited for.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress

from redis.exceptions import RedisError, ResponseError

from processor.shell.ending import end_tasks, within
from processor.shell.feeds import Feed
from processor.shell.redis import Store

WITHOUT_WAITAOF_SECONDS = 2.0
WAITAOF_MILLISECONDS = 5_000

STOP_SECONDS_MAX = 2.2
"""How long the end waits for the last acknowledgements; what is not acknowledged comes again, and is known again."""

Receipts = Sequence[tuple[Feed, tuple[object, ...]]]


class Acknowledger:
    """Acknowledges receipts in the background, each after what was flushed before it is durable. Use as a context."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._can_wait = True
        self._flushed: asyncio.Queue[Receipts] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    def note_flushed(self, receipts: Iterable[tuple[Feed, tuple[object, ...]]]) -> None:
        """Take the receipts of what a flush has written."""
        found = list(receipts)
        if found:
            self._flushed.put_nowait(found)
            if self._task is None:
                self._task = asyncio.create_task(self._acknowledge())

    async def finish(self) -> None:
        """Acknowledge what is left, as far as that is soon done."""
        if self._task is not None:
            with suppress(TimeoutError):
                await within(STOP_SECONDS_MAX, self._flushed.join())

    async def stop(self) -> None:
        """Acknowledge no more."""
        if self._task is not None:
            await end_tasks(self._task)

    async def _acknowledge(self) -> None:
        while True:
            batches = [await self._flushed.get()]
            while not self._flushed.empty():
                batches.append(self._flushed.get_nowait())
            try:
                await self._wait_durable()
                by_feed: dict[Feed, list[object]] = {}
                for feed, receipts in (pair for batch in batches for pair in batch):
                    by_feed.setdefault(feed, []).extend(receipts)
                for feed, found in by_feed.items():
                    await feed.acknowledge(found)
            except (RedisError, OSError):
                pass  # Redis is away: what is not acknowledged comes again.
            finally:
                for _ in batches:
                    self._flushed.task_done()

    async def _wait_durable(self) -> None:
        """WAITAOF waits for the writes of its own connection only: a small one behind the flush stands for all before it."""
        if not self._can_wait:
            await asyncio.sleep(WITHOUT_WAITAOF_SECONDS)
            return
        try:
            async with self._store.client.pipeline(transaction=False) as pipe:
                pipe.execute_command("SET", self._store.key(b"durable"), b"")
                pipe.execute_command("WAITAOF", 1, 0, WAITAOF_MILLISECONDS)
                _, (local, _) = await pipe.execute()
        except ResponseError:
            self._can_wait = False  # Older than 7.2, or without an append-only file.
            await asyncio.sleep(WITHOUT_WAITAOF_SECONDS)
            return
        if not local:
            raise RedisError("the append-only file was not written in time")

"""Faults to plant into the pipeline: each breaks one rule of its delivery, and the simulation must find it."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import processor.shard as shard_module
from processor.intake_runner import IntakeRunner
from processor.sending import Sender
from processor.shards import Shards
from processor.shell.holds import ShardHold
from processor.shell.leases import count_now
from processor.shell.redis import Last, StoreLost
from processor.shell.sharing import Shared
from processor.shell.state import State
from processor.shell.stream_places import ShardPosition


@contextmanager
def acknowledge_before_apply() -> Iterator[None]:
    """A source's position is stored before its uses are acknowledged."""

    async def send(self: Sender) -> None:
        """As Sender.send, the other way round."""
        group, self._group = self._group, type(self._group)()
        if not group.moves:
            return
        self._sent = {move.name: move.position for move in group.moves.values() if not move.ends}
        messages = [
            message
            for uses in self.intake.resolve(group.held.decoded)
            for message in self._writer.write(uses, group.slices)
        ]
        counted = count_now(self.intake.tally)
        await self.settle()

        async def finish() -> None:
            await self._leases.advance(group.moves.values(), counted)
            await self._send_all(messages)

        self._sending = asyncio.ensure_future(finish())

    with patch.object(Sender, "send", send):
        yield


@contextmanager
def no_fencing() -> Iterator[None]:
    """A flush goes through whoever owns the shard."""

    async def flush(self: ShardHold, commands: Any) -> None:
        ((owner, number, mark),) = await self.read_many([("HMGET", self.key(b"meta"), "owner", "flush", "mark")])
        stored = Last(owner or b"", int(number or 0), mark or b"")
        self._last = (await self.store.write(self.key(b"meta"), stored, commands))._replace(owner=self._last.owner)

    async def check(self: ShardHold) -> None:
        pass

    with patch.object(ShardHold, "flush", flush), patch.object(ShardHold, "check", check):
        yield


@contextmanager
def no_contiguity() -> Iterator[None]:
    """A shard takes any message beyond the last one."""
    take = Shards.take

    async def jump(self: Shards, number: int, offset: int, value: bytes) -> None:
        shard = self.owned.get(number)
        if shard is not None and shard.offset is not None and offset > shard.offset + 1:
            async with shard.lock:
                shard.offset = offset - 1
        await take(self, number, offset, value)

    with patch.object(Shards, "take", jump):
        yield


@contextmanager
def offset_apart() -> Iterator[None]:
    """The offset is stored by itself, before the state that it stands for."""
    flush = State.flush

    async def flush_apart(self: State, more: Any = ()) -> None:
        found = [*more]
        if any("offset" in command for command in found):
            await self.store.read_many(found)
        await flush(self, found)

    with patch.object(State, "flush", flush_apart):
        yield


@contextmanager
def older_redis_unnoticed() -> Iterator[None]:
    """A Redis that lost flushed cells is written on, as long as the owner is the same."""

    async def flush(self: ShardHold, commands: Any) -> None:
        ((owner, number, mark),) = await self.read_many([("HMGET", self.key(b"meta"), "owner", "flush", "mark")])
        if (owner or b"") != self._last.owner:
            raise StoreLost("another owner")
        self._last = await self.store.write(
            self.key(b"meta"), Last(self._last.owner, int(number or 0), mark or b""), commands
        )

    async def check(self: ShardHold) -> None:
        pass

    with patch.object(ShardHold, "flush", flush), patch.object(ShardHold, "check", check):
        yield


@contextmanager
def coverage_ahead() -> Iterator[None]:
    """Marks do not wait for the uses that they vouch for."""

    async def mark(self: Sender, mark: Any) -> None:
        value = shard_module.uses.CODEC.encode(shard_module.uses.Message(mark=mark))
        await self._send_all((number, value) for number in range(64))

    async def go_on(self: IntakeRunner, stopping: Any) -> None:
        began = self._order.clock()
        if began - self._marked_at >= 2.0:
            await self._mark(int(began))
        await round_(self, stopping)

    round_ = IntakeRunner._round
    with patch.object(Sender, "mark", mark), patch.object(IntakeRunner, "_round", go_on):
        yield


@contextmanager
def sent_before_acknowledged() -> Iterator[None]:
    """A source's next batch is sent before the earlier one is acknowledged."""

    async def settle(self: Sender) -> None:
        sending, self._sending = self._sending, None
        pending = [each for each in (*getattr(self, "pending", ()), sending) if each is not None]
        for each in pending:
            if each.done():
                each.result()
        self.pending = [each for each in pending if not each.done()]  # type: ignore[attr-defined]  # the fault's own

    with patch.object(Sender, "settle", settle):
        yield


@contextmanager
def places_by_answer() -> Iterator[None]:
    """A record's place in a shard is counted within the answer that it came with."""
    number_rows = ShardPosition.number_rows

    def number(self: ShardPosition, rows: Any) -> Any:
        return number_rows(replace(self, count=0), rows)

    with patch.object(ShardPosition, "number_rows", number):
        yield


@contextmanager
def own_shards_only() -> Iterator[None]:
    """A mark says how far the shards are that its intake reads, whatever of the others."""

    def find_reached(self: Shared, lineage: Any) -> int:
        return min((self._reached.get(name, 0) for name in self._shards), default=2**32 - 1)

    with patch.object(Shared, "_find_reached", find_reached):
        yield


@contextmanager
def told_over_unseen() -> Iterator[None]:
    """Nobody looks whether a ledger that was frozen has written over what the owner told."""

    async def look_at_told(self: Shards) -> None:
        pass

    with patch.object(Shards, "look_at_told", look_at_told):
        yield


FAULTS: Mapping[str, Callable[[], AbstractContextManager[None]]] = {
    "acknowledge_before_apply": acknowledge_before_apply,
    "coverage_ahead": coverage_ahead,
    "no_contiguity": no_contiguity,
    "no_fencing": no_fencing,
    "offset_apart": offset_apart,
    "older_redis_unnoticed": older_redis_unnoticed,
    "own_shards_only": own_shards_only,
    "places_by_answer": places_by_answer,
    "sent_before_acknowledged": sent_before_acknowledged,
    "told_over_unseen": told_over_unseen,
}

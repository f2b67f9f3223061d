"""The shards that one ledger process owns: claimed, fed, flushed, checked, and given up again.

Nothing here knows Faust or Kafka: `Broker` is what it asks of them. A shard that is lost (another owner, a Redis that came back
older) is dropped from memory and claimed anew; then it goes on from what the store has of it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Protocol

from processor.core.gap_changes import Written
from processor.observed import Observed
from processor.shard import Shard
from processor.shard_parts import ShardParts
from processor.shell.brokers import BrokerError
from processor.shell.ending import within
from processor.shell.holds import Member, ShardHold
from processor.shell.modes import check_mode
from processor.shell.redis import RENEW_SECONDS, Store, StoreError, StoreLost
from processor.telling import Telling

CALLBACK_SECONDS_MAX = 5.0
"""No wait in a rebalance, or in stopping, is longer: then a shard is dropped unflushed, and another ledger reads it again."""

CHECK_SECONDS = 2.0
"""How often quiet shards are looked at: a Redis that came back older shows nowhere else."""

FLUSH_SECONDS_BEHIND = 1.0
TELL_SECONDS_BEHIND = 15.0

UNFLUSHED_USES_MAX = 100_000
"""Beyond that uses wait for a flush, whatever the time: memory is bounded, and a slow Redis slows the reading down."""


class Broker(Protocol):
    """What the shards ask of Kafka."""

    async def seek(self, shard: int, offset: int) -> None:
        """Read a partition of `uses` on from an offset, whatever was read of it."""

    async def find_bounds(self, shards: Iterable[int]) -> dict[int, tuple[int, int]]:
        """The first offsets that partitions of `uses` still have, and the ones behind their last. Raises BrokerError."""

    async def publish(self, shard: int, messages: Iterable[Written]) -> tuple[int, int]:
        """Write messages to topic `gap-changes`, and wait until they are acknowledged: the offsets of the first one and behind the
        last. Raises BrokerError."""

    async def find_told_ends(self, shards: Iterable[int]) -> dict[int, int]:
        """The offsets behind the last messages of partitions of `gap-changes`. Raises BrokerError."""

    async def alert(self, messages: Iterable[Written]) -> None:
        """Write messages to topic `alerts`, and wait until they are acknowledged. Raises BrokerError."""

    async def follow_grants(self, offsets: Mapping[int, int]) -> None:
        """Read `grants` of these shards, and of no others, on from behind these offsets."""


class Shards:
    """By number. `generation` is the consumer group's; `member` names this process."""

    def __init__(self, store: Store, member: Member, parts: ShardParts, broker: Broker) -> None:
        self._store = store
        self._member = member
        self.parts = parts
        self._broker = broker
        self._owned: dict[int, Shard] = {}
        self._wanted: dict[int, int] = {}
        self._checked_at = 0.0
        self._claiming = asyncio.Lock()
        self._observed = Observed(store, parts.catalogue, parts.observed)
        self.telling = Telling(parts, self._owned, broker.alert)
        self.lost = 0
        self.gaps = 0
        self.skipped = 0
        self.is_behind = False  # Set from outside: nobody waits for the last of much that is to be read: fewer flushes.

    @property
    def owned(self) -> Mapping[int, Shard]:
        return self._owned

    async def claim(self, numbers: Iterable[int], generation: int) -> dict[int, int]:
        """Claim the shards that were assigned, and give up all others; the offsets to read on from. One that cannot be claimed
        within CALLBACK_SECONDS_MAX, or is another's, is tried again by `tick`. May be called again for the same."""
        self._wanted = dict.fromkeys(numbers, generation)
        for number in self._owned.keys() - self._wanted.keys():
            self._forget(number)
        offsets: dict[int, int] = {}

        async def claim_all() -> None:
            bounds = await self._broker.find_bounds(self._wanted)
            for number in list(self._wanted):
                if (offset := await self._claim_one(number, bounds[number][0])) is not None:
                    offsets[number] = offset

        try:
            await within(CALLBACK_SECONDS_MAX, claim_all())
        except (TimeoutError, BrokerError):
            self.parts.warn("Redis or Kafka does not answer: shards stay unclaimed until it does")
        await self._follow_grants()
        return offsets

    async def _claim_one(self, number: int, begin: int) -> int | None:
        """Where to read a shard on from, whose log begins at an offset; None where it is another's."""
        async with self._claiming:
            generation = self._wanted.get(number)
            if generation is None:
                return None
            shard = self._owned.get(number) or Shard(ShardHold(self._store, number, self._member), self.parts)
            async with shard.lock:
                if not await shard.hold.claim(generation):
                    self._forget(number)
                    return None
                if not shard.hold.is_kept:
                    # Whatever ends the loading early must not leave a half of it behind.
                    self._forget(number)
                    await shard.load()
                    self.telling.add(shard)
                self._owned[number] = shard
                return shard.place(begin)

    def _forget(self, number: int) -> None:
        shard = self._owned.pop(number, None)
        if shard is not None:
            self.telling.remove(number, shard)

    async def _follow_grants(self) -> None:
        await self._broker.follow_grants({number: shard.grants_offset for number, shard in self._owned.items()})

    async def take(self, number: int, offset: int, value: bytes) -> None:
        """Apply a message of `uses`, if it is the next one of its shard; where one is missing, go back to it."""
        shard = self._owned.get(number)
        if shard is None:
            return
        async with shard.lock:
            if self._owned.get(number) is not shard or shard.offset is None:
                return
            if offset <= shard.offset:
                self.skipped += 1
                return
            if offset > shard.offset + 1:
                self.gaps += 1
                back = shard.offset + 1
            else:
                shard.apply(offset, value)
                back = -1
        if back >= 0:
            await self._broker.seek(number, back)
        elif shard.tally.read - shard.flushed_uses > UNFLUSHED_USES_MAX:
            await self._flush_one(shard)

    async def take_grants(self, number: int, offset: int, key: bytes, value: bytes | None) -> None:
        """Apply a message of `grants`."""
        shard = self._owned.get(number)
        if shard is not None:
            async with shard.lock:
                if offset > shard.grants_offset:
                    shard.apply_grants(offset, key, value)

    async def tick(self) -> None:
        """What is due: flushes, lapses, checks of quiet shards, claims that had to wait."""
        now = self.parts.clock()
        await self._claim_late(self._wanted.keys() - self._owned.keys())
        check = now - self._checked_at >= CHECK_SECONDS
        if check:
            self._checked_at = now
            await check_mode(self._store)
        wait = FLUSH_SECONDS_BEHIND if self.is_behind else self.parts.settings.run.flush_seconds
        for shard in list(self._owned.values()):
            due = shard.dirty_since is not None and now - shard.dirty_since >= wait
            if due or now - shard.flushed_at >= RENEW_SECONDS or now < shard.flushed_at:
                await self._flush_one(shard)
            elif check:
                await self._check_one(shard)
        await self._observed.share([shard.tracker for shard in self._owned.values()], look=check)
        await self.telling.tell()

    async def _claim_late(self, numbers: Collection[int]) -> None:
        """Claim shards outside of a rebalance, and read them on from where they are."""
        if not numbers:
            return
        try:
            bounds = await self._broker.find_bounds(numbers)
        except BrokerError:
            return
        for number in sorted(numbers):
            if number not in self._owned and (offset := await self._claim_one(number, bounds[number][0])) is not None:
                await self._broker.seek(number, offset)
        await self._follow_grants()

    async def _flush_one(self, shard: Shard) -> None:
        tell = not self.is_behind or self.parts.clock() - shard.told_at >= TELL_SECONDS_BEHIND
        await self._on_shard(shard, partial(shard.flush, tell=tell))

    async def _check_one(self, shard: Shard) -> None:
        async def check() -> list[Written] | None:
            await shard.hold.check()
            return shard.advance()

        await self._on_shard(shard, check)

    async def _on_shard(self, shard: Shard, do: Callable[[], Awaitable[list[Written] | None]]) -> None:
        """Do something that tells whether a shard is lost; then claim it anew."""
        number = shard.hold.number
        try:
            async with shard.lock:
                if self._owned.get(number) is not shard:
                    return
                messages = await do()
                flushes = shard.hold.flushes
        except StoreLost as error:
            self.lost += 1
            self.parts.warn(f"{shard.hold.where}: {error}")
            self._forget(number)
            await self._claim_late((number,))
            return
        if messages is not None:
            await self._tell(shard, messages, flushes)

    async def _tell(self, shard: Shard, messages: list[Written], flushes: int) -> None:
        """Write what moved; only when all of it is acknowledged the shard says so with its next flush."""
        shard.telling += 1
        try:
            if messages:
                publishing = self._broker.publish(shard.hold.number, messages)
                begin, end = await within(CALLBACK_SECONDS_MAX, publishing)
                shard.note_published(begin, end, len(messages))
        except (TimeoutError, BrokerError) as error:
            self.parts.warn(f"topic gap-changes: {error or 'no answer'}; what moved is told later")
            shard.untold = True
            return
        finally:
            shard.telling -= 1
        if not shard.telling:  # What was given before may still be on its way, and be lost.
            shard.told = max(shard.told, flushes)

    async def look_at_told(self) -> None:
        """See whether somebody else has written gaps of own shards, as a ledger does that was frozen while it owned them: then all
        is told anew."""
        asked = {number: (shard, shard.told_to) for number, shard in self._owned.items() if not shard.telling}
        try:
            ends = await self._broker.find_told_ends(asked) if asked else {}
        except BrokerError:
            return
        for number, (shard, told_to) in asked.items():
            if not shard.telling and shard.told_to == told_to and number in ends:
                shard.look_at_told(ends[number])

    async def revoke(self, numbers: Iterable[int]) -> None:
        """Flush shards and give them up, as long as that takes no more than CALLBACK_SECONDS_MAX."""
        await self._give_up(numbers, release=False)

    async def stop(self) -> None:
        """Flush all shards and release them, so that the next owner need not wait; drained ones say so."""
        self._wanted = {}
        await self._give_up(list(self._owned), release=True)

    async def _give_up(self, numbers: Iterable[int], *, release: bool) -> None:
        given = [self._owned[number] for number in numbers if number in self._owned]

        async def flush_all() -> None:
            ends = {}
            if release:
                with suppress(BrokerError):
                    bounds = await self._broker.find_bounds([shard.hold.number for shard in given])
                    ends = {number: end for number, (_, end) in bounds.items()}
            for shard in given:
                await self._flush_last(shard, ends.get(shard.hold.number) if release else None, release=release)

        try:
            await within(CALLBACK_SECONDS_MAX, flush_all())
        except TimeoutError:
            self.parts.warn("Redis or Kafka does not answer: what is not stored yet is read again by the next owner")
        finally:
            for shard in given:
                self._wanted.pop(shard.hold.number, None)
                self._forget(shard.hold.number)

    async def _flush_last(self, shard: Shard, end: int | None, *, release: bool) -> None:
        """The last flush of a shard whose partition ends before the offset `end`, as far as that is known."""
        try:
            async with shard.lock:
                messages = await shard.flush()
                flushes = shard.hold.flushes
                await self._tell(shard, messages or [], flushes)
                if not shard.untold and not shard.telling:
                    shard.told = flushes + 1  # The flush that says so is the next one, and moves nothing.
                if release:
                    drained = end is not None and shard.offset is not None and shard.offset + 1 >= end
                    await shard.hold.release(drained=drained, told=shard.told, told_to=shard.told_to)
                else:
                    await shard.state.flush(shard.describe())
        except StoreError as error:
            self.parts.warn(f"{shard.hold.where}: {error}")

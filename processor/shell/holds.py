"""One writer's hold of one shard, in Kafka mode: the same keys as the whole store's, below P:{N}, in a transaction of their own.

P:{N}:meta       hash    layout, owner, cluster, group, number, renewed, flush, mark; the shard's counters and times; how far
                         it is: offset (of its partition of `uses`), grants_offset, watermarks, holes, told, told_to, drained
P:{N}:accounts   hash    account -> since when its log is known, as marks have told this shard
P:{N}:files      hash    16-byte id of a source -> how far it is applied here
P:{N}:names P:{N}:seen:SPAN  as of the whole store
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from processor.shell.commands import Command, Packed
from processor.shell.redis import LAYOUT, OWNER_SILENT_SECONDS, Last, Store, StoreLost, StoreRefused

SHARD_SILENT_SECONDS = 30.0
"""An owner of a shard that has not renewed for so long is held to be dead. Not what a takeover waits for: a newer generation of the
group claims at once. It is for another group or cluster, and longer than a ledger that loads all 64 shards is silent about one."""


@dataclass(frozen=True, slots=True)
class Member:
    """Who claims shards: a cluster's id, a group, and this process' name."""

    cluster: str
    group: str
    name: str


class ShardHold:
    """The hold of shard `number`; `generation` is the consumer group's at its last claim. `is_sound` is set by the owner: not while
    a flush is on its way, nor after one that failed or was cut off, as what it took out of memory may be nowhere then."""

    def __init__(self, store: Store, number: int, member: Member) -> None:
        self.store = store
        self.number = number
        self.member = member
        self.generation = -1
        self.is_kept = False
        self.is_sound = True
        self._last = Last()
        self._meta = self.key(b"meta")

    @property
    def shards(self) -> tuple[int, ...]:
        return (self.number,)

    @property
    def where(self) -> str:
        return f"shard {self.number} at {self.store.where}"

    def key(self, *parts: bytes) -> bytes:
        return self.store.shard_key(self.number, *parts)

    def shard_key(self, shard: int, *parts: bytes) -> bytes:
        return self.store.shard_key(shard, *parts)

    async def read_many(self, commands: list[Command]) -> list[Any]:
        return await self.store.read_many(commands)

    async def claim(self, generation: int) -> bool:
        """Become the owner in a generation; False where a newer or another owner has it, or one the whole store. Afterwards
        `is_kept` says whether the shard is still as this hold wrote it last, so that what is in memory holds. Raises StoreRefused
        for another layout."""
        args = [
            LAYOUT, self.member.cluster, self.member.group, generation, self.member.name,
            int(SHARD_SILENT_SECONDS), int(OWNER_SILENT_SECONDS),
        ]  # fmt: skip
        claim = partial(self.store.scripts["claim_shard"], keys=[self._meta, self.store.key(b"meta")], args=args)
        said, *rest = await self.store.persist(claim, "claim a shard")
        if said == b"layout":
            raise StoreRefused(
                f"{self.where} has layout {rest[0].decode()}, this gapwatch writes {LAYOUT}: use the gapwatch that wrote it"
            )
        if said != b"ok":
            return False
        before = self._last
        self._last = Last(rest[0], int(rest[1]), rest[2])
        self.is_kept = (
            self.is_sound
            and self.generation >= 0
            and (before.flush, before.mark) == (self._last.flush, self._last.mark)
        )
        self.generation = generation
        return True

    @property
    def flushes(self) -> int:
        """The number of the last flush."""
        return self._last.flush

    async def flush(self, commands: list[Command], more: Sequence[Packed] = ()) -> None:
        """Write all commands, then `more`, or none. Raises StoreLost where the shard is no longer as this hold left it."""
        self._last = await self.store.write(self._meta, self._last, commands, more)

    async def check(self) -> None:
        """See whether the shard is as this hold left it, though nothing is to be written. Raises StoreLost."""
        ((owner, flush, mark),) = await self.store.read_many([("HMGET", self._meta, "owner", "flush", "mark")])
        if (owner or b"", int(flush or 0), mark or b"") != self._last:
            raise StoreLost(self.store.say_lost(self._last, owner or b"", flush or b"0"))

    async def release(self, *, drained: bool, told: int, told_to: int | None) -> None:
        """Give the shard up in order; `drained`: nothing is left in its partition that is not applied; `told`: the number of the
        last flush of which all was told, up to the offset `told_to` of `gap-changes`."""
        commands: list[Command] = [("HSET", self._meta, "told", told), ("HDEL", self._meta, "owner")]
        if told_to is not None:
            commands.append(("HSET", self._meta, "told_to", told_to))
        if drained:
            commands.append(("HSET", self._meta, "drained", "1"))
        await self.flush(commands)
